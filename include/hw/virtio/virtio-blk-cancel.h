/*
 * virtio-blk: taking requests back (VIRTIO_BLK_F_CANCEL)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The numbers on the wire, and what virtio-blk.c calls at the turning points
 * of a request's life.  Each call is a no-op for a device with cancel=off.
 *
 * Unless said otherwise a function that takes a request, or a virtqueue, is
 * called in the AioContext of that virtqueue and does not yield.
 */

#ifndef HW_VIRTIO_BLK_CANCEL_H
#define HW_VIRTIO_BLK_CANCEL_H

#include "qemu/host-utils.h"
#include "qemu/iov.h"
#include "qemu/log.h"
#include "qemu/units.h"
#include "block/blk-cancel.h"
#include "hw/virtio/virtio-blk.h"
#include "system/dma-guard.h"

/*
 * Provisional: to be allocated by the OASIS VIRTIO TC.  With the feature
 * negotiated, le64 tag follows the sector in the header of every request.
 */
#define VIRTIO_BLK_F_CANCEL       50 /* feature bit */
#define VIRTIO_BLK_T_CANCEL       28 /* request type: cancel the one named */
#define VIRTIO_BLK_S_CANCELED     7  /* status of a request taken back */
#define VIRTIO_BLK_S_NOT_CANCELED 8  /* status of a CANCEL: still held */

extern const PropertyInfo qdev_prop_virtio_blk_cancel;

#define DEFINE_PROP_VIRTIO_BLK_CANCEL(_state, _conf)                    \
    DEFINE_PROP_SIGNED("cancel", _state, _conf.mode,                    \
                       VIRTIO_BLK_CANCEL_OFF,                           \
                       qdev_prop_virtio_blk_cancel, VirtioBlkCancel)

void virtio_blk_cancel_class_init(VirtioDeviceClass *vdc);

/* VirtioDeviceClass::validate_features, also of vhost-user-blk */
static inline int virtio_blk_cancel_validate_features(VirtIODevice *vdev)
{
    if (virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CANCEL) &&
        (!virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1) ||
         virtio_vdev_has_feature(vdev, VIRTIO_F_IN_ORDER))) {
        qemu_log_mask(LOG_GUEST_ERROR, "%s: VIRTIO_BLK_F_CANCEL needs "
                      "VIRTIO_F_VERSION_1 and excludes VIRTIO_F_IN_ORDER\n",
                      vdev->name);
        return -EINVAL;
    }
    return 0;
}

/*
 * virtio_blk_cancel_realize:
 *
 * Switch cancelling on if the device has cancel=reset or cancel=on.
 * Undone by virtio_blk_cancel_unrealize(), which a failing realize calls too.
 *
 * Context: main loop, BQL held, before the first request.
 * Returns: false with @errp set if that is not possible.
 */
bool virtio_blk_cancel_realize(VirtIOBlock *s, Error **errp);

/*
 * virtio_blk_cancel_unrealize:
 *
 * Take back all requests and forget them.  What the storage still does goes on
 * in the BlockBackend, which stays behind (see block/blk-orphan.h).
 *
 * Context: BQL held; the virtqueues are not served any more.
 * Returns: false if the device has cancel=off; the caller must drain.
 */
bool virtio_blk_cancel_unrealize(VirtIOBlock *s);

/*
 * virtio_blk_cancel_legacy:
 *
 * Withdraw the offer from a transport that cannot offer VIRTIO_F_VERSION_1.
 *
 * Context: main loop, BQL held.
 */
void virtio_blk_cancel_legacy(VirtIOBlock *s, uint64_t *features);

/*
 * virtio_blk_cancel_start:
 *
 * ioeventfd is about to be started, and nothing can fail any more.
 *
 * Context: BQL held.
 */
void virtio_blk_cancel_start(VirtIOBlock *s);

/*
 * virtio_blk_cancel_started:
 * @resubmit: as virtio_blk_cancel_restart()
 *
 * ioeventfd has been started: execute again what virtio_blk_cancel_stop() has
 * parked, unless a reset has dropped it.
 *
 * Context: BQL held.
 */
void virtio_blk_cancel_started(VirtIOBlock *s, QEMUBHFunc *resubmit);

/*
 * virtio_blk_cancel_stop:
 *
 * ioeventfd is being stopped, and no virtqueue is served any more.  While the
 * VM runs that is part of a reset, usually: take back all requests, and park
 * them.  A reset, which comes next, drops them; if the device is started
 * instead, they are executed again.  What cannot be taken back is waited for.
 * The BlockBackend stays in its AioContext, because to move it is to drain it.
 *
 * Context: BQL held.
 * Returns: false if nothing was done, because the device has cancel=off or the
 *          VM is being stopped; the caller must drain.
 */
bool virtio_blk_cancel_stop(VirtIOBlock *s);

/*
 * virtio_blk_cancel_reset:
 *
 * The same when the device is reset: without ioeventfd, or while the VM is
 * stopped, requests may still be there.
 *
 * Context: BQL held.
 * Returns: false if the device has cancel=off; the caller must drain.
 */
bool virtio_blk_cancel_reset(VirtIOBlock *s);

/*
 * virtio_blk_cancel_is_stopped:
 *
 * Context: BQL held.
 * Returns: true if virtqueue @index was reset by itself and is not enabled; it
 *          must not be served.
 */
bool virtio_blk_cancel_is_stopped(VirtIOBlock *s, unsigned int index);

/*
 * virtio_blk_cancel_restart:
 * @resubmit: submits a list of requests of one virtqueue, linked by ->next;
 *            drops a reference of blk_inc_in_flight() at its end
 *
 * Submit what is parked after an I/O error again, each virtqueue's requests in
 * its own AioContext, and so that a CANCEL finds them all the time.
 *
 * Context: main loop, BQL held.
 * Returns: false if nothing was done, because the device has cancel=off.
 */
bool virtio_blk_cancel_restart(VirtIOBlock *s, QEMUBHFunc *resubmit);

/*
 * virtio_blk_cancel_foreign_kick:
 *
 * Context: any thread.
 * Returns: true if @vq is being served by another thread, so that the caller
 * must leave it alone; whoever starts that thread again kicks the virtqueue.
 */
bool virtio_blk_cancel_foreign_kick(VirtIOBlock *s, VirtQueue *vq);

/*
 * virtio_blk_cancel_handle:
 * @mrb: what was read from the virtqueue, but is not submitted yet
 * @type: the whole type of @req
 * @has_data: whether buffers are left besides header and status
 *
 * Execute @req if it is a CANCEL.  It and its target have been completed and
 * freed then.
 *
 * Returns: false if @req is something else.
 */
bool virtio_blk_cancel_handle(VirtIOBlockReq *req, MultiReqBuffer *mrb,
                              uint32_t type, bool has_data);

/*
 * virtio_blk_cancel_finish:
 *
 * For a completion callback that was passed an error: if the request was taken
 * back, complete and free it.  It is not an I/O error, and is accounted
 * neither as failed nor as done, but as cancelled.
 *
 * Returns: false if the error is the storage's.
 */
bool virtio_blk_cancel_finish(VirtIOBlockReq *req);

/* See virtio_blk_cancel_complete() */
uint8_t virtio_blk_cancel_do_complete(VirtIOBlockReq *req, uint8_t status);

/*
 * virtio_blk_cancel_complete:
 *
 * For virtio_blk_req_complete(): the device does not hold @req any more.
 *
 * Returns: @status; or VIRTIO_BLK_S_CANCELED if it is the error of a request
 * that was taken back, which is accounted as that then.
 */
static inline uint8_t virtio_blk_cancel_complete(VirtIOBlockReq *req,
                                                 uint8_t status)
{
    return req->dev->cancel ? virtio_blk_cancel_do_complete(req, status)
                            : status;
}

/*
 * virtio_blk_free_request:
 *
 * Free a request that was not completed.
 */
void virtio_blk_free_request(VirtIOBlockReq *req);

/* See virtio_blk_cancel_parse() */
bool virtio_blk_cancel_do_parse(VirtIOBlockReq *req, struct iovec **out_iov,
                                unsigned int *out_num);

/*
 * virtio_blk_cancel_parse:
 * @req: a request with @req->out filled in
 * @out_iov, @out_num: what the driver has written; advanced behind the header
 *
 * Note that the device holds @req, and read its tag if it has one.  From now
 * on it is a possible target.
 *
 * Returns: false if the header is too short and the device needs a reset.
 */
static inline bool virtio_blk_cancel_parse(VirtIOBlockReq *req,
                                           struct iovec **out_iov,
                                           unsigned int *out_num)
{
    if (unlikely(req->dev->cancel)) {
        return virtio_blk_cancel_do_parse(req, out_iov, out_num);
    }
    iov_discard_front_undoable(out_iov, out_num, sizeof(req->out),
                               &req->outhdr_undo);
    return true;
}

/*
 * VIRTIO_BLK_CANCEL_DMA_GUARD:
 *
 * What this thread reads and writes for the device until the end of the scope
 * does not reach the device's own registers.
 */
#define VIRTIO_BLK_CANCEL_DMA_GUARD(s)                                  \
    DMA_GUARD_UNTIL_END((s)->cancel ?                                   \
                        dma_guard_begin(&(DMAGuard) {},                 \
                                        &(s)->parent_obj.parent_obj) : NULL)

/*
 * virtio_blk_cancel_merges:
 *
 * Returns: whether requests may be merged.  One of several that were could not
 *          be given back alone, which only a CANCEL asks for.
 */
static inline bool virtio_blk_cancel_merges(VirtIOBlock *s)
{
    return s->conf.request_merging &&
           !(s->cancel &&
             virtio_vdev_has_feature(VIRTIO_DEVICE(s), VIRTIO_BLK_F_CANCEL));
}

/*
 * virtio_blk_cancel_max_merge:
 *
 * Returns: how large requests may become by merging, in bytes; @max_transfer
 *          or less.  What does not fit the budget could not be abandoned.
 */
static inline uint32_t virtio_blk_cancel_max_merge(VirtIOBlock *s,
                                                   uint32_t max_transfer)
{
    return s->cancel ? MIN(max_transfer, pow2floor(s->conf.cancel.budget)) :
                       max_transfer;
}

/* Sectors of a discard or write zeroes that ends in time on slow storage */
#define VIRTIO_BLK_CANCEL_MAX_SECTORS (64 * MiB / BDRV_SECTOR_SIZE)

/*
 * virtio_blk_cancel_range:
 * @max_sectors: of a discard or write zeroes, as the device accepts it
 *
 * Returns: what a driver is told.  Once cancelled it blocks its range until it
 * has ended, so with cancel=on it is to be small, unless the user says
 * otherwise.  A driver that came from elsewhere and knows of more is served.
 */
static inline uint32_t virtio_blk_cancel_range(VirtIOBlock *s,
                                               uint32_t max_sectors)
{
    if (s->conf.cancel.mode == VIRTIO_BLK_CANCEL_ON &&
        max_sectors == BDRV_REQUEST_MAX_SECTORS) {
        return VIRTIO_BLK_CANCEL_MAX_SECTORS;
    }
    return max_sectors;
}

/* Context: also in the main loop, for a request that is loaded. */
static inline void virtio_blk_cancel_init_request(VirtIOBlockReq *req)
{
    req->acb = NULL;
    memset(&req->inflight, 0, sizeof(req->inflight));
}

#endif /* HW_VIRTIO_BLK_CANCEL_H */
