/*
 * Cancellable requests: figures, and the event that storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The engine calls in with its lock held when a request is abandoned and when
 * it finishes; device models say what became of a guest's cancel.  Nothing of
 * this is on the way of a request that nobody cancels.
 *
 * The event is sent by a bottom half in the main loop, which looks at the state
 * that it finds.  So it costs the same however often the state changes in the
 * meantime, and the last event that it sends tells the last state.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qapi/qapi-events-block-hung.h"
#include "block/blk-cancel-qapi.h"
#include "block/blk-cancel-hold.h"
#include "block/blk-orphan.h"
#include "block/block_int.h"
#include "hw/qdev-core.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"
#include "trace/trace-block_cancel.h"

/* Called with d->lock held. */
static int64_t blk_cancel_oldest_locked(BlkCancel *d)
{
    int64_t now = get_clock(), oldest = 0;
    BlkCancelReq *r;

    QTAILQ_FOREACH(r, &d->abandoned, next) {
        oldest = MAX(oldest, now - r->start_ns);
    }
    return oldest;
}

void blk_cancel_stats_enter_locked(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;
    BlkCancelFigures *s = &d->stats;

    if (d->nr_abandoned == 0) {
        s->seq_before_hang = d->seq;
        s->hang_max_ns = 0;
        qemu_bh_schedule(s->report_bh);
    }
    s->bytes += r->bytes;
}

void blk_cancel_stats_leave_locked(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;
    BlkCancelFigures *s = &d->stats;
    int64_t ns = get_clock() - r->start_ns;

    s->bytes -= r->bytes;
    s->max_ns = MAX(s->max_ns, ns);
    s->hang_max_ns = MAX(s->hang_max_ns, ns);
    if (r->ret < 0 && r->op != BLK_CANCEL_READ) {
        s->failed++;
        s->unreported++;
        s->failure.op = r->op;
        s->failure.offset = r->offset;
        s->failure.bytes = r->bytes;
        s->failure.ret = r->ret;
    }
    if (d->nr_abandoned == 1 || s->unreported) {
        qemu_bh_schedule(s->report_bh);
    }
}

void blk_cancel_stats_query_locked(BlkCancel *d, BlkCancelInfo *info)
{
    BlkCancelFigures *s = &d->stats;

    info->oldest_ns = blk_cancel_oldest_locked(d);
    info->max_ns = MAX(s->max_ns, info->oldest_ns);
    info->abandoned_bytes = s->bytes;
    info->abandoned_ever = d->seq - s->seq_at_reset;
    info->hang_requests = d->seq - s->seq_before_hang;
    info->hang_max_ns = MAX(s->hang_max_ns, info->oldest_ns);
    info->failed = s->failed;
    info->budget = qatomic_read_u64(&d->budget);
    memcpy(info->cancels, s->cancels, sizeof(info->cancels));
}

void blk_cancel_account(BlockBackend *blk, BlkCancelOutcome outcome)
{
    BlkCancel *d = *blk_cancel_slot(blk);

    if (d) {
        QEMU_LOCK_GUARD(&d->lock);
        d->stats.cancels[outcome]++;
    }
}

bool blk_cancel_reset_stats(BlockBackend *blk)
{
    BlkCancel *d = *blk_cancel_slot(blk);

    GLOBAL_STATE_CODE();

    if (!d) {
        return false;
    }
    QEMU_LOCK_GUARD(&d->lock);
    memset(d->stats.cancels, 0, sizeof(d->stats.cancels));
    d->stats.seq_at_reset = d->seq;
    d->stats.max_ns = 0;
    d->stats.failed = 0;
    return true;
}

/*
 * For QAPI
 */

BlockHungStats *blk_cancel_get_stats(BlockBackend *blk)
{
    BlockHungStats *stats;
    BlkCancelInfo info;
    BlkCancelLoad load;

    GLOBAL_STATE_CODE();

    if (!*blk_cancel_slot(blk)) {
        return NULL;
    }
    blk_cancel_query(blk, &info);
    blk_cancel_look(*blk_cancel_slot(blk), get_clock(), &load);

    stats = g_new(BlockHungStats, 1);
    *stats = (BlockHungStats) {
        .cancels            = g_new(BlockCancelStats, 1),
        .abandoned           = info.abandoned,
        .abandoned_bytes     = info.abandoned_bytes,
        .oldest_age_ns      = info.oldest_ns,
        .abandoned_total     = info.abandoned_ever,
        .max_age_ns         = info.max_ns,
        .issued             = load.issued,
        .issued_age_ns      = load.oldest_ns,
        .failed             = info.failed,
        .waiting_fence      = info.waiting_fence,
        .waiting_budget     = info.waiting_budget,
        .waiting_drained    = info.waiting_drained,
        .budget             = info.budget,
        .budget_used        = info.budget_used,
    };
    *stats->cancels = (BlockCancelStats) {
        .canceled           = info.cancels[BLK_CANCEL_CANCELED],
        .completed          = info.cancels[BLK_CANCEL_COMPLETED],
        .not_found          = info.cancels[BLK_CANCEL_NOT_FOUND],
        .refused            = info.cancels[BLK_CANCEL_REFUSED],
        .invalid            = info.cancels[BLK_CANCEL_INVALID],
    };
    for (int i = 0; i < BLK_CANCEL__MAX; i++) {
        stats->cancels->received += info.cancels[i];
    }
    return stats;
}

/* The ID that the user knows: the device's own, or of what it is part of. */
static const char *blk_cancel_qdev_id(DeviceState *dev)
{
    Object *obj = OBJECT(dev);

    while (obj && object_dynamic_cast(obj, TYPE_DEVICE)) {
        if (DEVICE(obj)->id) {
            return DEVICE(obj)->id;
        }
        obj = obj->parent;
    }
    return NULL;
}

/* Without figures */
static BlockHungInfo *blk_cancel_name(BlockBackend *blk)
{
    BlkCancel *d = *blk_cancel_slot(blk);
    DeviceState *dev = blk_get_attached_dev(blk);
    BlockDriverState *bs = blk_bs(blk);
    BlockHungInfo *info = g_new(BlockHungInfo, 1);
    char *path = dev ? object_get_canonical_path(OBJECT(dev)) : NULL;
    const char *id = dev ? blk_cancel_qdev_id(dev) : NULL;

    if (!path && d) {
        /* Unplugged: what it was called */
        path = g_strdup(d->stats.qom_path);
        id = d->stats.qdev_id;
    }
    *info = (BlockHungInfo) {
        .qom_path   = path ?: g_strdup(""),
        .qdev_id    = g_strdup(id),
        .unplugged  = blk_orphan_id(blk),
        .device     = g_strdup(blk_name(blk)),
        .node_name  = bs ? g_strdup(bdrv_get_node_name(bs)) : NULL,
    };
    return info;
}

BlockHungInfo *blk_cancel_get_info(BlockBackend *blk)
{
    BlockHungStats *stats = blk_cancel_get_stats(blk);
    BlockHungInfo *info;

    if (!stats) {
        return NULL;
    }
    info = blk_cancel_name(blk);
    info->stats = stats;
    return info;
}

/*
 * The event
 */

static BlockHungOperation blk_cancel_operation(BlkCancelOp op)
{
    switch (op) {
    case BLK_CANCEL_WRITE:
        return BLOCK_HUNG_OPERATION_WRITE;
    case BLK_CANCEL_DISCARD:
        return BLOCK_HUNG_OPERATION_DISCARD;
    default:
        return BLOCK_HUNG_OPERATION_FLUSH;
    }
}

/* What nobody else is told: the storage has ended something in an error. */
static void blk_cancel_report_failures(BlkCancel *d)
{
    g_autoptr(BlockHungInfo) name = NULL;
    BlkCancelFigures s;
    BlockHungOperation op;

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        s = d->stats;
        d->stats.unreported = 0;
    }
    if (!s.unreported) {
        return;
    }
    name = blk_cancel_name(d->blk);
    op = blk_cancel_operation(s.failure.op);
    if (get_clock() - d->stats.warned_ns >= NANOSECONDS_PER_SECOND) {
        d->stats.warned_ns = get_clock();
        warn_report("%s: an abandoned %s, %" PRId64 " bytes at %" PRId64
                    ", has ended with an error: %s",
                    name->qdev_id ?: name->qom_path, BlockHungOperation_str(op),
                    s.failure.bytes, s.failure.offset,
                    strerror(-s.failure.ret));
    }
    qapi_event_send_block_hung_failed(name->qom_path, name->qdev_id,
                                      name->device, name->node_name, op,
                                      s.failure.offset, s.failure.bytes,
                                      strerror(-s.failure.ret), s.unreported);
}

/* Context: main loop, in a bottom half or because the engine is about to go */
static void blk_cancel_report(void *opaque)
{
    BlkCancel *d = opaque;
    g_autoptr(BlockHungInfo) name = NULL;
    BlkCancelInfo info;
    bool hung;

    blk_cancel_report_failures(d);
    blk_cancel_query(d->blk, &info);
    hung = info.abandoned;
    if (hung == d->stats.reported_hung) {
        return;
    }
    d->stats.reported_hung = hung;

    name = blk_cancel_name(d->blk);
    qapi_event_send_block_hung_change(name->qom_path, name->qdev_id,
                                        name->device, name->node_name, hung,
                                        info.abandoned, info.abandoned_bytes,
                                        info.hang_requests, info.hang_max_ns);
}

void blk_cancel_stats_init(BlkCancel *d)
{
    g_autoptr(BlockHungInfo) name = blk_cancel_name(d->blk);

    trace_blk_cancel_on(d->blk, name->qdev_id ?: name->qom_path,
                        name->node_name ?: "");
    d->stats.qom_path = g_strdup(name->qom_path);
    d->stats.qdev_id = g_strdup(name->qdev_id);
    d->stats.report_bh = aio_bh_new(qemu_get_aio_context(), blk_cancel_report,
                                    d);
}

void blk_cancel_stats_cleanup(BlkCancel *d)
{
    /* Nobody will hear of this device again: tell that it came back. */
    blk_cancel_report(d);
    qemu_bh_delete(d->stats.report_bh);
    g_free(d->stats.qom_path);
    g_free(d->stats.qdev_id);
}
