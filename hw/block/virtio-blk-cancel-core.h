/*
 * virtio-blk: the requests that a device holds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * virtio-blk-inflight.c has them; virtio-blk-cancel.c takes back one, and
 * virtio-blk-reset.c all.
 */

#ifndef HW_BLOCK_VIRTIO_BLK_CANCEL_CORE_H
#define HW_BLOCK_VIRTIO_BLK_CANCEL_CORE_H

#include "qemu/notify.h"
#include "qemu/queue.h"
#include "hw/virtio/virtio-blk.h"
#include "hw/virtio/virtio-blk-cancel.h"

/*
 * The requests of one virtqueue.
 *
 * Owned by the thread that serves the virtqueue, which is the virtqueue's
 * AioContext; no lock.  While the VM is stopped, and drained, that is the main
 * loop.  virtio_blk_cancel_foreign_kick() guards it.
 */
typedef struct VirtIOBlkCancelQueue {
    VirtIOBlock *dev;                   /* set once */

    /*
     * Every request that has been parsed and not been freed, oldest first,
     * except CANCELs.  A list, because it has at most as many entries as the
     * virtqueue (1024), and a target that hangs is found near its beginning.
     */
    QTAILQ_HEAD(, VirtIOBlockReq) inflight;

    /* The AioContext of those that are with the BlockBackend; NULL: none */
    AioContext *ctx;

    /* The request being taken back; NULL as soon as it is freed */
    VirtIOBlockReq *target;

    /* The callback of @target has been called because it was taken back */
    bool canceled;

    /* Reset or stopped: what is taken back is put away, not completed */
    bool dropping;

    /* How many requests the last reset could not take back */
    unsigned int left;

    /* Parked requests on their way back to work; dev->rq_lock */
    VirtIOBlockReq *restart;

    /* Reset by itself, and not enabled again: is not served; BQL */
    bool stopped;
} VirtIOBlkCancelQueue;

struct VirtIOBlkCancel {
    /* It lends the guest's memory: ram_swap_get(); set once */
    bool lends;

    /* Submits a list of requests again; set by the main loop before a BH */
    QEMUBHFunc *resubmit;

    /* Those BHs that have not ended; atomic */
    unsigned int restarting;

    /* What is taken back is parked; BQL, and read by those it waits for */
    bool keeping;

    /* There may be some that wait for the device to be started; BQL */
    bool kept;

    /* The VM is about to stop, with disks held; set once */
    Notifier vm_stops;

    /* One for each virtqueue */
    VirtIOBlkCancelQueue queue[];
};

/* The list that @req is in, or is to be in. */
VirtIOBlkCancelQueue *virtio_blk_cancel_queue(VirtIOBlockReq *req);

/*
 * virtio_blk_cancel_link, virtio_blk_cancel_unlink:
 *
 * The device holds @req from now on, or does not any more.
 *
 * Context: the AioContext of the virtqueue.
 */
void virtio_blk_cancel_link(VirtIOBlockReq *req);
void virtio_blk_cancel_unlink(VirtIOBlockReq *req);

/* Give a request back as cancelled, and free it.  Context: the same. */
void virtio_blk_cancel_give_back(VirtIOBlockReq *req);

/*
 * virtio_blk_cancel_submitted:
 *
 * Ask for @q->target, which is with the BlockBackend, to be given back.  The
 * callbacks of this and of other requests may run and free them; @q->target is
 * NULL then if it was this one.
 *
 * Context: the AioContext of the virtqueue.
 */
void virtio_blk_cancel_submitted(VirtIOBlkCancelQueue *q);

/*
 * virtio_blk_cancel_put_away:
 *
 * Free a request of which the guest will hear nothing more; or park it, if the
 * device may be started again without a reset.
 *
 * Context: the AioContext of the virtqueue.
 */
void virtio_blk_cancel_put_away(VirtIOBlockReq *req);

/*
 * virtio_blk_cancel_parse_tag:
 * @len: length of the header; the tag is added
 * @is_target: set to whether a CANCEL may ask for @req
 *
 * Context: the AioContext of the virtqueue.
 * Returns: false if the header is too short and the device needs a reset.
 */
bool virtio_blk_cancel_parse_tag(VirtIOBlockReq *req, size_t *len,
                                 bool *is_target);

/* @s->cancel is there; undone by removing the notifier.  Context: BQL held. */
void virtio_blk_cancel_reset_realize(VirtIOBlock *s);

void virtio_blk_cancel_reset_class_init(VirtioDeviceClass *vdc);
void virtio_blk_cancel_wire_class_init(VirtioDeviceClass *vdc);

#endif /* HW_BLOCK_VIRTIO_BLK_CANCEL_CORE_H */
