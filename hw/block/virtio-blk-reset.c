/*
 * virtio-blk: resets that do not wait for the storage
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device with cancel=reset that is reset, as a whole or one virtqueue of it,
 * takes its requests back and drops them instead of draining the BlockBackend.
 * What the storage still does is fenced like a cancelled request, and whoever
 * drains later waits for it.
 *
 * Before a reset the transport stops ioeventfd, which a stop of the VM does as
 * well; that still drains.  So does a driver that clears DRIVER_OK, or the bus
 * master bit, and does not reset the device: what is taken back is parked until
 * it is known which of them it was.
 *
 * Hooks: virtio-blk.c (ioeventfd started and stopped, device reset, end of a
 * drained section); the class's queue_reset and queue_enable.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "block/aio-wait.h"
#include "block/blk-hold.h"
#include "hw/virtio/virtio-blk.h"
#include "hw/virtio/virtio-blk-cancel.h"
#include "virtio-blk-cancel-core.h"
#include "trace/trace-block_cancel.h"

/* A reset that took less is not worth a warning; it also limits their rate. */
#define WARN_NS (100 * SCALE_MS)

static VirtQueue *cancel_vq(VirtIOBlkCancelQueue *q)
{
    return virtio_get_queue(VIRTIO_DEVICE(q->dev), q - q->dev->cancel->queue);
}

/* Free a request of which the guest will hear nothing more. */
static void cancel_drop_request(VirtIOBlockReq *req)
{
    trace_virtio_blk_cancel_dropped(VIRTIO_DEVICE(req->dev), req);

    /* Unmap what was mapped.  What was never parsed is as it was. */
    if (QTAILQ_IN_USE(req, inflight)) {
        iov_discard_undo(&req->inhdr_undo);
        iov_discard_undo(&req->outhdr_undo);
    }
    virtqueue_detach_element(req->vq, &req->elem, 0);
    virtio_blk_free_request(req);
}

/* A request that is parsed again once the device is started again */
static void cancel_keep(VirtIOBlockReq *req)
{
    VirtIOBlock *s = req->dev;

    /* Header and status are found again where they came from */
    iov_discard_undo(&req->inhdr_undo);
    iov_discard_undo(&req->outhdr_undo);
    req->mr_next = NULL;
    WITH_QEMU_LOCK_GUARD(&s->rq_lock) {
        req->next = s->rq;
        s->rq = req;
    }
}

void virtio_blk_cancel_put_away(VirtIOBlockReq *req)
{
    if (req->dev->cancel->keeping) {
        cancel_keep(req);
    } else {
        cancel_drop_request(req);
    }
}

/* Whether the BlockBackend has not begun @req, if it is this thread's. */
static bool cancel_waits(VirtIOBlockReq *req)
{
    return virtio_blk_cancel_queue(req)->ctx ==
           qemu_get_current_aio_context() && blk_aio_waits(req->acb);
}

/*
 * Take back what is with the BlockBackend, or only what it has not @begun.  The
 * callbacks may free any request: a mark keeps the place in the list.
 *
 * Returns: how many requests could not be taken back
 */
static unsigned int cancel_drop_submitted(VirtIOBlkCancelQueue *q, bool begun)
{
    VirtIOBlockReq *req, mark = {};
    unsigned int left = 0;

    q->dropping = true;
    QTAILQ_INSERT_HEAD(&q->inflight, &mark, inflight);
    while ((req = QTAILQ_NEXT(&mark, inflight))) {
        QTAILQ_REMOVE(&q->inflight, &mark, inflight);
        QTAILQ_INSERT_AFTER(&q->inflight, req, &mark, inflight);
        if (req->acb && (begun || cancel_waits(req))) {
            q->target = req;
            virtio_blk_cancel_submitted(q);
            if (q->target && req->acb) {
                left++;
            }
            q->target = NULL;
        }
    }
    QTAILQ_REMOVE(&q->inflight, &mark, inflight);
    q->dropping = false;
    return left;
}

/* Returns: the parked requests of @q, off their lists, linked by ->next */
static VirtIOBlockReq *cancel_steal_parked(VirtIOBlkCancelQueue *q)
{
    VirtIOBlock *s = q->dev;
    VirtQueue *vq = cancel_vq(q);
    VirtIOBlockReq **link = &s->rq;
    VirtIOBlockReq *req, *parked;

    QEMU_LOCK_GUARD(&s->rq_lock);

    parked = g_steal_pointer(&q->restart);
    while ((req = *link)) {
        if (req->vq == vq) {
            *link = req->next;
            req->next = parked;
            parked = req;
        } else {
            link = &req->next;
        }
    }
    return parked;
}

/* Context: the AioContext of the virtqueue, which is not served any more */
static void cancel_drop_bh(void *opaque)
{
    VirtIOBlkCancelQueue *q = opaque;
    VirtIOBlockReq *req, *next;

    q->left = cancel_drop_submitted(q, true);
    trace_virtio_blk_cancel_drop(VIRTIO_DEVICE(q->dev),
                                 q - q->dev->cancel->queue, q->left);
    if (!q->left) {
        q->ctx = NULL;
    }

    /* Afterwards, because a result that was pending may have been an error */
    for (req = cancel_steal_parked(q); req; req = next) {
        next = req->next;
        virtio_blk_cancel_put_away(req);
    }
}

/* Run @fn for @q in @ctx, or here if nothing is bound to another thread. */
static void cancel_run(AioContext *ctx, QEMUBHFunc *fn, VirtIOBlkCancelQueue *q)
{
    if (!ctx || ctx == qemu_get_current_aio_context()) {
        fn(q);
    } else {
        aio_wait_bh_oneshot(ctx, fn, q);
    }
}

/*
 * Take back what the virtqueues from @first to @last hold.
 *
 * @served: by their AioContexts, until just now; parked requests may be on
 *          their way there
 * Returns: how many requests could not be taken back
 */
static unsigned int cancel_drop_once(VirtIOBlock *s, unsigned int first,
                                     unsigned int last, bool served)
{
    unsigned int left = 0;

    for (unsigned int i = first; i <= last; i++) {
        VirtIOBlkCancelQueue *q = &s->cancel->queue[i];

        cancel_run(q->ctx ?: served ? s->vq_aio_context[i] : NULL,
                   cancel_drop_bh, q);
        left += q->left;
    }
    return left;
}

static void cancel_waited(VirtIOBlock *s, unsigned int left, int64_t ns)
{
    trace_virtio_blk_cancel_drained(VIRTIO_DEVICE(s), left, ns);

    if (ns >= WARN_NS) {
        g_autofree char *path = object_get_canonical_path(OBJECT(s));

        warn_report("virtio-blk: the reset of %s had to wait %" PRId64 " ms "
                    "for requests that cannot be abandoned: %u",
                    path, ns / SCALE_MS, left);
    }
}

/*
 * The same, until all have been taken back or have ended.  Does not wait for
 * what was abandoned, as draining the BlockBackend would.
 */
static void cancel_drop(VirtIOBlock *s, unsigned int first, unsigned int last,
                        bool served)
{
    unsigned int ended = blk_cancel_refused_ended();
    unsigned int left = cancel_drop_once(s, first, last, served);
    unsigned int first_left = left;
    int64_t start = get_clock();

    if (!left) {
        return;
    }

    trace_virtio_blk_cancel_drain(VIRTIO_DEVICE(s), left);
    while (left) {
        AIO_WAIT_WHILE_UNLOCKED(NULL, blk_cancel_refused_ended() == ended);
        ended = blk_cancel_refused_ended();
        left = cancel_drop_once(s, first, last, served);
    }
    cancel_waited(s, first_left, get_clock() - start);
}

static void cancel_drop_all(VirtIOBlock *s, bool served)
{
    cancel_drop(s, 0, s->conf.num_queues - 1, served);
}

bool virtio_blk_cancel_stop(VirtIOBlock *s)
{
    if (!s->cancel || !VIRTIO_DEVICE(s)->vm_running) {
        return false;
    }

    /* Whether it is part of a reset is not known yet */
    s->cancel->keeping = true;
    cancel_drop_all(s, true);
    s->cancel->keeping = false;
    s->cancel->kept = true;
    return true;
}

void virtio_blk_cancel_started(VirtIOBlock *s, QEMUBHFunc *resubmit)
{
    if (s->cancel && s->cancel->kept) {
        s->cancel->kept = false;
        virtio_blk_cancel_restart(s, resubmit);
    }
}

/* Context: the AioContext of the virtqueue, which may be served */
static void cancel_vm_stops_bh(void *opaque)
{
    cancel_drop_submitted(opaque, false);
}

/*
 * What has waited because its disk is held waits on until the VM does, so that
 * the stop does not have to wait for it.
 */
static void cancel_vm_stops(Notifier *notifier, void *data)
{
    struct VirtIOBlkCancel *c = container_of(notifier, struct VirtIOBlkCancel,
                                             vm_stops);
    VirtIOBlock *s = c->queue[0].dev;

    c->keeping = true;
    for (unsigned int i = 0; i < s->conf.num_queues; i++) {
        cancel_run(s->ioeventfd_started ? s->vq_aio_context[i] : NULL,
                   cancel_vm_stops_bh, &c->queue[i]);
    }
    c->keeping = false;
}

void virtio_blk_cancel_reset_realize(VirtIOBlock *s)
{
    s->cancel->vm_stops.notify = cancel_vm_stops;
    blk_hold_add_stop_notifier(&s->cancel->vm_stops);
}

bool virtio_blk_cancel_reset(VirtIOBlock *s)
{
    if (!s->cancel) {
        return false;
    }

    for (unsigned int i = 0; i < s->conf.num_queues; i++) {
        s->cancel->queue[i].stopped = false;
    }
    s->cancel->kept = false;
    cancel_drop_all(s, false);
    return true;
}

void virtio_blk_cancel_start(VirtIOBlock *s)
{
    /*
     * After a start that failed the main loop serves the virtqueues.  If the
     * BlockBackend is in its IOThread already, which no stop has changed, then
     * nothing else waits for the main loop's requests.  And the next stop,
     * which does nothing for a start that failed, has something to do.
     */
    if (s->cancel && s->ioeventfd_disabled) {
        blk_drain(s->blk);
        s->ioeventfd_disabled = false;
    }
}

bool virtio_blk_cancel_is_stopped(VirtIOBlock *s, unsigned int index)
{
    return s->cancel && s->cancel->queue[index].stopped;
}

/* Context: the AioContext of the virtqueue */
static void cancel_detach_bh(void *opaque)
{
    virtio_queue_aio_detach_host_notifier(cancel_vq(opaque),
                                          qemu_get_current_aio_context());
}

/* Context: BQL held; the caller resets the virtqueue itself */
static void cancel_queue_reset(VirtIODevice *vdev, uint32_t index)
{
    VirtIOBlock *s = VIRTIO_BLK(vdev);
    VirtIOBlkCancelQueue *q;

    if (!s->cancel || index >= s->conf.num_queues) {
        return;
    }
    q = &s->cancel->queue[index];

    /* First, because a drained section may end while this waits */
    q->stopped = true;
    if (s->ioeventfd_started) {
        cancel_run(s->vq_aio_context[index], cancel_detach_bh, q);
    }
    cancel_drop(s, index, index, s->ioeventfd_started);
}

/* Context: BQL held; the virtqueue is ready */
static void cancel_queue_enable(VirtIODevice *vdev, uint32_t index)
{
    VirtIOBlock *s = VIRTIO_BLK(vdev);

    if (index >= s->conf.num_queues ||
        !virtio_blk_cancel_is_stopped(s, index)) {
        return;
    }

    s->cancel->queue[index].stopped = false;
    if (s->ioeventfd_started && !blk_in_drain(s->blk)) {
        virtio_queue_aio_attach_host_notifier(virtio_get_queue(vdev, index),
                                              s->vq_aio_context[index]);
    }
}

void virtio_blk_cancel_reset_class_init(VirtioDeviceClass *vdc)
{
    vdc->queue_reset = cancel_queue_reset;
    vdc->queue_enable = cancel_queue_enable;
}
