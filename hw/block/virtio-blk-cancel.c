/*
 * virtio-blk: the CANCEL request (VIRTIO_BLK_F_CANCEL)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device with cancel=on finds the target of a CANCEL by its tag, and gives it
 * back wherever it is on its way - not submitted yet, with the BlockBackend, or
 * parked after an I/O error.  The list that it looks in is in
 * virtio-blk-inflight.c.
 *
 * Hooks: virtio-blk.c (request, offer) and virtio.c (features accepted without
 * VIRTIO_F_VERSION_1).
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "hw/block/cancel-after.h"
#include "hw/virtio/virtio-blk.h"
#include "hw/virtio/virtio-blk-cancel.h"
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

bool virtio_blk_cancel_parse_tag(VirtIOBlockReq *req, size_t *len,
                                 bool *is_target)
{
    if (!cancel_read_tag(req)) {
        virtio_error(VIRTIO_DEVICE(req->dev),
                     "virtio-blk request outhdr too short for its tag");
        return false;
    }
    *len += sizeof(req->tag);

    /*
     * A CANCEL is never a target, also not its own.  It can have been one if
     * the driver changed the header of a request that was parked.
     */
    *is_target = !cancel_is_cancel(req);
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
            virtio_blk_cancel_give_back(q->target);
            return CANCEL_UNSUBMITTED;
        }
        if (cancel_take_parked(q, q->target)) {
            virtio_blk_cancel_give_back(q->target);
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

    q = virtio_blk_cancel_queue(req);
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
    virtio_blk_cancel_link(req);
    virtio_blk_cancel_queue(req)->ctx = NULL;
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

void virtio_blk_cancel_wire_class_init(VirtioDeviceClass *vdc)
{
    vdc->validate_features = virtio_blk_cancel_validate_features;
    vdc->post_load = cancel_post_load;
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
