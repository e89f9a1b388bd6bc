/*
 * virtio-blk: taking requests back (VIRTIO_BLK_F_CANCEL)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device with cancel= keeps a list of the requests that it holds for each
 * virtqueue.  With cancel=on it also executes CANCEL: it finds the target by
 * its tag, and gives it back wherever it is on its way - not submitted yet,
 * with the BlockBackend, or parked after an I/O error.  What makes a request
 * that hangs in the storage cancellable is in block/blk-cancel.c; what a reset
 * does with the list is in virtio-blk-reset.c.
 *
 * Hooks: virtio-blk.c (parse, submit, complete, free, restart) and virtio.c
 * (features accepted without VIRTIO_F_VERSION_1).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/log.h"
#include "block/aio-wait.h"
#include "block/blk-orphan.h"
#include "hw/block/cancel-after.h"
#include "hw/block/cancel-stats.h"
#include "hw/core/qdev-prop-internal.h"
#include "hw/virtio/virtio-blk.h"
#include "hw/virtio/virtio-blk-cancel.h"
#include "system/dma.h"
#include "system/ram-swap.h"
#include "virtio-blk-cancel-core.h"
#include "trace/trace-block_cancel.h"

/* How a CANCEL can end */
typedef enum CancelEnd {
    CANCEL_GIVEN_BACK,
    CANCEL_COMPLETED,
    CANCEL_UNSUBMITTED,
    CANCEL_PARKED,
    CANCEL_TOO_EARLY,
    CANCEL_STILL_HELD,
    CANCEL_UNKNOWN_TAG,
    CANCEL_HAS_DATA,
} CancelEnd;

static const struct {
    const char *name;           /* of what has become of the target */
    BlkCancelOutcome outcome;
    uint8_t status;             /* of the CANCEL */
} cancel_ends[] = {
    [CANCEL_GIVEN_BACK] = { "given back", BLK_CANCEL_CANCELED,
                            VIRTIO_BLK_S_OK },
    [CANCEL_COMPLETED] = { "completed", BLK_CANCEL_COMPLETED,
                           VIRTIO_BLK_S_OK },
    [CANCEL_UNSUBMITTED] = { "not submitted yet", BLK_CANCEL_CANCELED,
                             VIRTIO_BLK_S_OK },
    [CANCEL_PARKED] = { "parked", BLK_CANCEL_CANCELED, VIRTIO_BLK_S_OK },
    [CANCEL_TOO_EARLY] = { "within cancel-after", BLK_CANCEL_REFUSED,
                           VIRTIO_BLK_S_NOT_CANCELED },
    [CANCEL_STILL_HELD] = { "still held", BLK_CANCEL_REFUSED,
                            VIRTIO_BLK_S_NOT_CANCELED },
    [CANCEL_UNKNOWN_TAG] = { "unknown tag", BLK_CANCEL_NOT_FOUND,
                             VIRTIO_BLK_S_OK },
    [CANCEL_HAS_DATA] = { "has data", BLK_CANCEL_INVALID,
                          VIRTIO_BLK_S_IOERR },
};

static VirtIOBlkCancelQueue *cancel_queue(VirtIOBlockReq *req)
{
    return &req->dev->cancel->queue[virtio_get_queue_index(req->vq)];
}

static void cancel_link(VirtIOBlockReq *req)
{
    VirtIOBlkCancelQueue *q = cancel_queue(req);

    q->ctx = qemu_get_current_aio_context();
    trace_virtio_blk_cancel_request(VIRTIO_DEVICE(req->dev), req,
                                    virtio_get_queue_index(req->vq), req->tag);

    /* A request that is parsed again has stayed in the list */
    if (!QTAILQ_IN_USE(req, inflight)) {
        QTAILQ_INSERT_TAIL(&q->inflight, req, inflight);
    }
}

static void cancel_unlink(VirtIOBlockReq *req)
{
    VirtIOBlkCancelQueue *q;

    if (!QTAILQ_IN_USE(req, inflight)) {
        return;
    }

    q = cancel_queue(req);
    QTAILQ_REMOVE(&q->inflight, req, inflight);
    if (q->target == req) {
        q->target = NULL;
    }
}

void virtio_blk_free_request(VirtIOBlockReq *req)
{
    cancel_unlink(req);
    g_free(req);
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

/* Give a request back as cancelled. */
static void cancel_complete(VirtIOBlockReq *req)
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
    if (cancel_queue(req)->target == req) {
        cancel_queue(req)->canceled = true;
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

    if (cancel_queue(req)->dropping) {
        virtio_blk_cancel_put_away(req);
    } else {
        cancel_complete(req);
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
    cancel_unlink(req);
    return status;
}

/* Read the tag.  The header may be split over descriptors anywhere. */
static bool cancel_read_tag(VirtIOBlockReq *req)
{
    uint64_t tag;

    if (iov_to_buf(req->elem.out_sg, req->elem.out_num, sizeof(req->out),
                   &tag, sizeof(tag)) != sizeof(tag)) {
        return false;
    }

    req->tag = le64_to_cpu(tag);
    return true;
}

static bool cancel_is_cancel(VirtIOBlockReq *req)
{
    /* VIRTIO_F_VERSION_1, without which there is no CANCEL, is little endian */
    return le32_to_cpu(req->out.type) == VIRTIO_BLK_T_CANCEL;
}

bool virtio_blk_cancel_do_parse(VirtIOBlockReq *req, struct iovec **out_iov,
                                unsigned int *out_num)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(req->dev);
    size_t len = sizeof(req->out);

    if (!virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CANCEL)) {
        /* No CANCEL will ask for it, but a reset takes it back as well */
        req->tag = 0;
    } else if (cancel_read_tag(req)) {
        len += sizeof(req->tag);
    } else {
        virtio_error(vdev, "virtio-blk request outhdr too short for its tag");
        return false;
    }

    iov_discard_front_undoable(out_iov, out_num, len, &req->outhdr_undo);
    if (len > sizeof(req->out) && cancel_is_cancel(req)) {
        /*
         * A CANCEL is never a target, also not its own.  It can have been one
         * if the driver changed the header of a request that was parked.
         */
        cancel_unlink(req);
    } else {
        cancel_link(req);
    }
    return true;
}

/* Take @req out of what has been read from the virtqueue but not submitted. */
static bool cancel_take_unsubmitted(MultiReqBuffer *mrb, VirtIOBlockReq *req)
{
    for (unsigned int i = 0; i < mrb->num_reqs; i++) {
        if (mrb->reqs[i] == req) {
            mrb->num_reqs--;
            memmove(&mrb->reqs[i], &mrb->reqs[i + 1],
                    (mrb->num_reqs - i) * sizeof(mrb->reqs[0]));
            return true;
        }
    }
    return false;
}

static bool cancel_list_remove(VirtIOBlockReq **list, VirtIOBlockReq *req)
{
    for (; *list; list = &(*list)->next) {
        if (*list == req) {
            *list = req->next;
            req->next = NULL;
            return true;
        }
    }
    return false;
}

/* Take @req out of the requests that wait for the VM to continue. */
static bool cancel_take_parked(VirtIOBlkCancelQueue *q, VirtIOBlockReq *req)
{
    QEMU_LOCK_GUARD(&q->dev->rq_lock);

    return cancel_list_remove(&q->dev->rq, req) ||
           cancel_list_remove(&q->restart, req);
}

static VirtIOBlockReq *cancel_find(VirtIOBlkCancelQueue *q, uint64_t tag)
{
    VirtIOBlockReq *req;

    QTAILQ_FOREACH(req, &q->inflight, inflight) {
        if (req->tag == tag) {
            return req;
        }
    }
    return NULL;
}

void virtio_blk_cancel_submitted(VirtIOBlkCancelQueue *q)
{
    /* A request of another thread, which should not be, is left alone */
    if (q->ctx == qemu_get_current_aio_context()) {
        blk_aio_cancel_async(q->target->acb);
    }
}

static bool cancel_is_early(VirtIOBlkCancelQueue *q)
{
    return q->ctx == qemu_get_current_aio_context() &&
           cancel_too_early(q->target->acb, q->dev->conf.cancel.after_ms);
}

/* Take @q->target back, from wherever it is. */
static CancelEnd cancel_target(VirtIOBlkCancelQueue *q, MultiReqBuffer *mrb)
{
    q->canceled = false;
    if (cancel_is_early(q)) {
        q->target = NULL;
        return CANCEL_TOO_EARLY;
    }
    if (q->target->acb) {
        virtio_blk_cancel_submitted(q);
        if (!q->target) {
            return q->canceled ? CANCEL_GIVEN_BACK : CANCEL_COMPLETED;
        }
    }

    /*
     * Not with the BlockBackend, or not any more: its callback has just run,
     * with an I/O error that parked it.
     */
    if (!q->target->acb) {
        if (cancel_take_unsubmitted(mrb, q->target)) {
            cancel_complete(q->target);
            return CANCEL_UNSUBMITTED;
        }
        if (cancel_take_parked(q, q->target)) {
            cancel_complete(q->target);
            return CANCEL_PARKED;
        }
    }

    q->target = NULL;
    return CANCEL_STILL_HELD;
}

bool virtio_blk_cancel_handle(VirtIOBlockReq *req, MultiReqBuffer *mrb,
                              uint32_t type, bool has_data)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(req->dev);
    unsigned int index = virtio_get_queue_index(req->vq);
    VirtIOBlkCancelQueue *q;
    CancelEnd end;

    if (type != VIRTIO_BLK_T_CANCEL || !req->dev->cancel ||
        !virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CANCEL)) {
        return false;
    }

    trace_virtio_blk_cancel(vdev, index, req->tag);

    q = cancel_queue(req);
    if (has_data) {
        end = CANCEL_HAS_DATA;
    } else {
        q->target = cancel_find(q, req->tag);
        end = q->target ? cancel_target(q, mrb) : CANCEL_UNKNOWN_TAG;
    }

    trace_virtio_blk_cancel_outcome(vdev, index, req->tag,
                                    cancel_ends[end].name,
                                    cancel_ends[end].status);
    blk_cancel_account(req->dev->blk, cancel_ends[end].outcome);
    virtio_blk_req_complete(req, cancel_ends[end].status);
    g_free(req);
    return true;
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
        q = cancel_queue(req);
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

/*
 * Make a request that was migrated while parked a possible target: a CANCEL
 * may be executed before it is parsed.  One that is malformed, or a CANCEL, is
 * left to virtio_blk_handle_request().
 */
static void cancel_load_request(VirtIOBlockReq *req)
{
    VirtQueueElement *elem = &req->elem;
    struct iovec *last;

    if (elem->in_num < 1 || elem->out_num < 1 ||
        iov_to_buf(elem->out_sg, elem->out_num, 0, &req->out,
                   sizeof(req->out)) != sizeof(req->out) ||
        !cancel_read_tag(req) || cancel_is_cancel(req)) {
        return;
    }

    last = &elem->in_sg[elem->in_num - 1];
    if (last->iov_len < sizeof(*req->in)) {
        return;
    }

    /* What virtio_blk_req_complete() needs */
    req->in = last->iov_base + last->iov_len - sizeof(*req->in);
    req->in_len = iov_size(elem->in_sg, elem->in_num);
    req->inhdr_undo.modified_iov = NULL;
    req->outhdr_undo.modified_iov = NULL;
    cancel_link(req);
    cancel_queue(req)->ctx = NULL;
}

/* Context: main loop, VM stopped; the features are known only now */
static int cancel_post_load(VirtIODevice *vdev)
{
    VirtIOBlock *s = VIRTIO_BLK(vdev);
    VirtIOBlockReq *req;

    if (!s->cancel || !virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CANCEL)) {
        return 0;
    }

    /* Before FEATURES_OK the driver may still be trying out combinations */
    if ((vdev->status & VIRTIO_CONFIG_S_FEATURES_OK) &&
        virtio_blk_cancel_validate_features(vdev) < 0) {
        error_report("virtio-blk: VIRTIO_BLK_F_CANCEL migrated with features "
                     "that exclude it");
        return -EINVAL;
    }

    QEMU_LOCK_GUARD(&s->rq_lock);
    for (req = s->rq; req; req = req->next) {
        cancel_load_request(req);
    }
    return 0;
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
    vdc->validate_features = virtio_blk_cancel_validate_features;
    vdc->post_load = cancel_post_load;
    virtio_blk_cancel_reset_class_init(vdc);
    cancel_class_init(OBJECT_CLASS(vdc));
}

void virtio_blk_cancel_legacy(VirtIOBlock *s, uint64_t *features)
{
    if (virtio_has_feature(s->host_features, VIRTIO_BLK_F_CANCEL)) {
        warn_report("virtio-blk: no driver will see cancel=on, because the "
                    "transport offers only the legacy interface; see its "
                    "properties disable-modern, force-legacy or max_revision");
        virtio_clear_feature(features, VIRTIO_BLK_F_CANCEL);
    }
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
    g_clear_pointer(&s->cancel, g_free);
    return true;
}
