/*
 * virtio-blk: the requests that a device holds, and can take back
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device with cancel= keeps a list of the requests that it holds for each
 * virtqueue.  CANCEL, in virtio-blk-cancel.c, takes one of them back, and a
 * reset, in virtio-blk-reset.c, all.  What makes a request that hangs in the
 * storage cancellable is in block/blk-cancel.c.
 *
 * Hooks: virtio-blk.c (realize, parse, submit, complete, free, restart).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "block/aio-wait.h"
#include "block/blk-orphan.h"
#include "hw/block/cancel-stats.h"
#include "hw/core/qdev-prop-internal.h"
#include "hw/virtio/virtio-blk.h"
#include "hw/virtio/virtio-blk-cancel.h"
#include "system/dma.h"
#include "system/ram-swap.h"
#include "virtio-blk-cancel-core.h"
#include "trace/trace-block_cancel.h"

VirtIOBlkCancelQueue *virtio_blk_cancel_queue(VirtIOBlockReq *req)
{
    return &req->dev->cancel->queue[virtio_get_queue_index(req->vq)];
}

void virtio_blk_cancel_link(VirtIOBlockReq *req)
{
    VirtIOBlkCancelQueue *q = virtio_blk_cancel_queue(req);

    q->ctx = qemu_get_current_aio_context();
    trace_virtio_blk_cancel_request(VIRTIO_DEVICE(req->dev), req,
                                    virtio_get_queue_index(req->vq), req->tag);

    /* A request that is parsed again has stayed in the list */
    if (!QTAILQ_IN_USE(req, inflight)) {
        QTAILQ_INSERT_TAIL(&q->inflight, req, inflight);
    }
}

void virtio_blk_cancel_unlink(VirtIOBlockReq *req)
{
    VirtIOBlkCancelQueue *q;

    if (!QTAILQ_IN_USE(req, inflight)) {
        return;
    }

    q = virtio_blk_cancel_queue(req);
    QTAILQ_REMOVE(&q->inflight, req, inflight);
    if (q->target == req) {
        q->target = NULL;
    }
}

void virtio_blk_free_request(VirtIOBlockReq *req)
{
    virtio_blk_cancel_unlink(req);
    g_free(req);
}

bool virtio_blk_cancel_do_parse(VirtIOBlockReq *req, struct iovec **out_iov,
                                unsigned int *out_num)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(req->dev);
    size_t len = sizeof(req->out);
    bool is_target = true;

    /* Without a tag no CANCEL asks for it, but a reset takes it back as well */
    req->tag = 0;
    if (virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CANCEL) &&
        !virtio_blk_cancel_parse_tag(req, &len, &is_target)) {
        return false;
    }

    iov_discard_front_undoable(out_iov, out_num, len, &req->outhdr_undo);
    if (is_target) {
        virtio_blk_cancel_link(req);
    } else {
        virtio_blk_cancel_unlink(req);
    }
    return true;
}

void virtio_blk_cancel_submitted(VirtIOBlkCancelQueue *q)
{
    /* A request of another thread, which should not be, is left alone */
    if (q->ctx == qemu_get_current_aio_context()) {
        blk_aio_cancel_async(q->target->acb);
    }
}

/*
 * Before a request is completed: nothing of the data buffers was written, so
 * the used length of a request that has some is 0.  That does not cover the
 * status byte, which is to be marked dirty for migration, and to be copied if
 * the guest's buffer is not memory: so write it here as a device does.
 */
static void cancel_no_data(VirtIOBlockReq *req)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(req->dev);
    VirtQueueElement *elem = &req->elem;
    const uint8_t status = VIRTIO_BLK_S_CANCELED;
    unsigned int last = elem->in_num - 1;

    if (req->in_len == sizeof(*req->in)) {
        return;
    }
    iov_discard_undo(&req->inhdr_undo);
    dma_memory_write(vdev->dma_as,
                     elem->in_addr[last] + elem->in_sg[last].iov_len - 1,
                     &status, sizeof(status), MEMTXATTRS_UNSPECIFIED);
    req->in_len = 0;
}

void virtio_blk_cancel_give_back(VirtIOBlockReq *req)
{
    virtio_blk_req_complete(req, VIRTIO_BLK_S_CANCELED);
    g_free(req);
}

/* Whether the callback of @req, which is running, runs because of a cancel. */
static bool cancel_was_canceled(VirtIOBlockReq *req)
{
    /* The AIOCB ends with the callback; the request may live on, parked */
    BlockAIOCB *acb = g_steal_pointer(&req->acb);

    if (!req->dev->cancel || !acb || !blk_aio_was_canceled(acb)) {
        return false;
    }
    if (virtio_blk_cancel_queue(req)->target == req) {
        virtio_blk_cancel_queue(req)->canceled = true;
    }
    return true;
}

bool virtio_blk_cancel_finish(VirtIOBlockReq *req)
{
    BlockAIOCB *acb = req->acb;

    if (!cancel_was_canceled(req)) {
        return false;
    }

    if (req->mr_next) {
        /* The AIOCB was for both; the callback comes to that one next */
        req->mr_next->acb = acb;
    }

    if (virtio_blk_cancel_queue(req)->dropping) {
        virtio_blk_cancel_put_away(req);
    } else {
        virtio_blk_cancel_give_back(req);
    }
    return true;
}

uint8_t virtio_blk_cancel_do_complete(VirtIOBlockReq *req, uint8_t status)
{
    if (status != VIRTIO_BLK_S_OK && cancel_was_canceled(req)) {
        status = VIRTIO_BLK_S_CANCELED;
    }
    if (status == VIRTIO_BLK_S_CANCELED) {
        /*
         * The accounting cookie is freed with the request; block_acct_start()
         * has only filled it in, so nothing is left behind.
         */
        block_acct_canceled(blk_get_stats(req->dev->blk));
        cancel_no_data(req);
    }
    virtio_blk_cancel_unlink(req);
    return status;
}

/* Context: BH in the AioContext of the virtqueue */
static void cancel_restart_bh(void *opaque)
{
    VirtIOBlkCancelQueue *q = opaque;
    VirtIOBlock *s = q->dev;
    VirtIOBlockReq *req;

    WITH_QEMU_LOCK_GUARD(&s->rq_lock) {
        req = g_steal_pointer(&q->restart);
    }

    if (req) {
        s->cancel->resubmit(req);
    } else {
        /* All cancelled.  Paired with inc in virtio_blk_cancel_restart() */
        blk_dec_in_flight(s->conf.conf.blk);
    }
    qatomic_dec(&s->cancel->restarting);
    aio_wait_kick();
}

bool virtio_blk_cancel_restart(VirtIOBlock *s, QEMUBHFunc *resubmit)
{
    VirtIOBlockReq *req;

    if (!s->cancel) {
        return false;
    }
    s->cancel->resubmit = resubmit;

    /*
     * The virtqueues are being served already.  A CANCEL must find a request
     * on one of the two lists at any time.
     */
    QEMU_LOCK_GUARD(&s->rq_lock);

    while (s->rq) {
        VirtIOBlkCancelQueue *q;

        req = s->rq;
        s->rq = req->next;
        q = virtio_blk_cancel_queue(req);
        req->next = q->restart;
        q->restart = req;
    }

    for (unsigned int i = 0; i < s->conf.num_queues; i++) {
        VirtIOBlkCancelQueue *q = &s->cancel->queue[i];

        if (q->restart) {
            /* Paired with dec in @resubmit or cancel_restart_bh() */
            blk_inc_in_flight(s->conf.conf.blk);
            qatomic_inc(&s->cancel->restarting);

            /* Without ioeventfd the main loop serves all virtqueues */
            aio_bh_schedule_oneshot(s->ioeventfd_started ?
                                    s->vq_aio_context[i] :
                                    qemu_get_aio_context(),
                                    cancel_restart_bh, q);
        }
    }
    return true;
}

bool virtio_blk_cancel_foreign_kick(VirtIOBlock *s, VirtQueue *vq)
{
    /*
     * While ioeventfd is being stopped, a kick that comes late is delivered in
     * the main loop, but requests of the IOThread are still in flight.
     */
    return s->cancel && s->ioeventfd_started &&
           s->vq_aio_context[virtio_get_queue_index(vq)] !=
           qemu_get_current_aio_context();
}

const PropertyInfo qdev_prop_virtio_blk_cancel = {
    .type = "VirtioBlkCancel",
    .description = "off; reset: resets do not wait for hung storage; "
                   "on: the guest may cancel requests as well",
    .enum_table = &VirtioBlkCancel_lookup,
    .get = qdev_propinfo_get_enum,
    .set = qdev_propinfo_set_enum,
    .set_default_value = qdev_propinfo_set_default_value_enum,
};

void virtio_blk_cancel_class_init(VirtioDeviceClass *vdc)
{
    virtio_blk_cancel_wire_class_init(vdc);
    virtio_blk_cancel_reset_class_init(vdc);
    cancel_class_init(OBJECT_CLASS(vdc));
}

/* Returns: false with @errp set if it must not do without. */
static bool cancel_zero_copy(VirtIOBlock *s, BlkCancelOptions *opts,
                             Error **errp)
{
    ERRP_GUARD();
    OnOffAuto zero_copy = s->conf.cancel_lend.zero_copy;
    static bool warned;         /* BQL */

    if (zero_copy == ON_OFF_AUTO_OFF) {
        return true;
    }
    opts->swap = ram_swap_get(s->conf.cancel_lend.userfaultfd, errp);
    if (opts->swap) {
        return true;
    }
    error_prepend(errp, "cancel-zero-copy=%s is not possible: ",
                  OnOffAuto_str(zero_copy));
    if (zero_copy == ON_OFF_AUTO_ON) {
        return false;
    }
    if (!warned) {
        warned = true;
        warn_report("%s", error_get_pretty(*errp));
    }
    error_free(*errp);
    *errp = NULL;
    return true;
}

bool virtio_blk_cancel_realize(VirtIOBlock *s, Error **errp)
{
    ERRP_GUARD();
    BlkCancelOptions opts = BLK_CANCEL_OPTIONS(s->conf.cancel.budget);

    if (s->conf.cancel.mode == VIRTIO_BLK_CANCEL_OFF) {
        return true;
    }

    if (!cancel_zero_copy(s, &opts, errp)) {
        return false;
    }
    if (!blk_set_cancel(s->conf.conf.blk, &opts, errp)) {
        if (opts.swap) {
            ram_swap_put();
        }
        error_prepend(errp, "cancel=%s is not possible: ",
                      VirtioBlkCancel_str(s->conf.cancel.mode));
        error_append_hint(errp, "Use cancel=off.\n");
        return false;
    }

    if (s->conf.cancel.mode == VIRTIO_BLK_CANCEL_ON) {
        virtio_add_feature(&s->host_features, VIRTIO_BLK_F_CANCEL);
    }
    s->cancel = g_malloc0(sizeof(*s->cancel) +
                          s->conf.num_queues * sizeof(s->cancel->queue[0]));
    for (unsigned int i = 0; i < s->conf.num_queues; i++) {
        s->cancel->queue[i].dev = s;
        QTAILQ_INIT(&s->cancel->queue[i].inflight);
    }
    s->cancel->lends = opts.swap;
    virtio_blk_cancel_reset_realize(s);
    trace_virtio_blk_cancel_device(VIRTIO_DEVICE(s), s->conf.conf.blk);
    return true;
}

bool virtio_blk_cancel_unrealize(VirtIOBlock *s)
{
    if (!s->cancel) {
        return false;
    }

    virtio_blk_cancel_reset(s);

    /* Those that have nothing to do any more, because it was dropped */
    AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_read(&s->cancel->restarting));

    if (!blk_orphan_begin(s->conf.conf.blk) && s->vq_aio_context) {
        /*
         * A device that was served: virtio_blk_cancel_stop() has left the
         * BlockBackend in the IOThread, which may end now.
         */
        blk_set_aio_context(s->conf.conf.blk, qemu_get_aio_context(), NULL);
    }
    if (s->cancel->lends) {
        ram_swap_put();
    }
    notifier_remove(&s->cancel->vm_stops);
    g_clear_pointer(&s->cancel, g_free);
    return true;
}
