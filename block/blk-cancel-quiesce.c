/*
 * Cancellable requests: all BlockBackends at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the gate (blk-gate.c) stands on: which BlockBackends have cancelling on,
 * what they have with the storage and for how long, and a way to keep new
 * requests from it without a drained section.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/rcu_queue.h"
#include "block/blk-cancel-graph.h"
#include "block/blk-cancel-quiesce.h"
#include "block/block.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"

/* BQL; whether it is empty may be asked in any thread */
static QLIST_HEAD(, BlkCancel) engines = QLIST_HEAD_INITIALIZER(engines);

/* Written under the BQL, read by every thread that submits: atomic */
bool blk_cancel_gate_closed;

/*
 * The throttle queue counts as in flight, and may take long: like a drained
 * section, let what is in it go on.
 */
static void blk_cancel_set_unthrottled(BlkCancel *d, bool on)
{
    if (!on) {
        qatomic_dec(&d->tgm->io_limits_disabled);
    } else if (qatomic_fetch_inc(&d->tgm->io_limits_disabled) == 0) {
        throttle_group_restart_tgm(d->tgm);
    }
}

/*
 * A request in the queue of a throttle filter is with the storage, which is
 * slow and does not hang.  A drained section opens the queue; so does the gate.
 */
static ThrottleGroupMember *blk_cancel_filter(BlockDriverState *bs)
{
    return bs->drv && !strcmp(bs->drv->format_name, "throttle") ? bs->opaque
                                                                : NULL;
}

static void blk_cancel_open_filters(bool on)
{
    BlockDriverState *bs;

    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        ThrottleGroupMember *tgm = blk_cancel_filter(bs);

        if (!tgm || tgm->open_for_gate == on ||
            (on && !blk_cancel_is_above(bs))) {
            continue;
        }
        tgm->open_for_gate = on;
        if (on) {
            bs->drv->bdrv_drain_begin(bs);
        } else {
            bs->drv->bdrv_drain_end(bs);
        }
    }
}

bool blk_cancel_filter_waits(void)
{
    BlockDriverState *bs;
    GLOBAL_STATE_CODE();

    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        ThrottleGroupMember *tgm = blk_cancel_filter(bs);

        /* Without the group's lock: a hint */
        if (tgm && blk_cancel_is_above(bs) &&
            (qatomic_read(&tgm->pending_reqs[THROTTLE_READ]) ||
             qatomic_read(&tgm->pending_reqs[THROTTLE_WRITE]))) {
            return true;
        }
    }
    return false;
}

void blk_cancel_register(BlkCancel *d)
{
    GLOBAL_STATE_CODE();

    QLIST_INSERT_HEAD_RCU(&engines, d, all);
    if (blk_cancel_gate_closed) {
        blk_cancel_set_unthrottled(d, true);
    }
}

void blk_cancel_unregister(BlkCancel *d)
{
    GLOBAL_STATE_CODE();

    QLIST_REMOVE_RCU(d, all);
    if (blk_cancel_gate_closed) {
        blk_cancel_set_unthrottled(d, false);
    }
}

bool blk_cancel_any(void)
{
    return !QLIST_EMPTY_RCU(&engines);
}

void blk_cancel_close_gate(void)
{
    BlkCancel *d;
    GLOBAL_STATE_CODE();

    /*
     * Either a request that is submitted just now sees this, or it is seen by
     * blk_cancel_in_flight() from here on; pairs with the one in
     * blk_cancel_aio().
     */
    qatomic_set_mb(&blk_cancel_gate_closed, true);
    QLIST_FOREACH(d, &engines, all) {
        blk_cancel_set_unthrottled(d, true);
    }
    blk_cancel_open_filters(true);
}

static void blk_cancel_wake_parked(void *opaque)
{
    BlkCancel *d;

    QLIST_FOREACH(d, &engines, all) {
        blk_cancel_drained_end(d);
    }
}

void blk_cancel_open_gate(void)
{
    BlkCancel *d;
    GLOBAL_STATE_CODE();

    qatomic_set(&blk_cancel_gate_closed, false);
    blk_cancel_open_filters(false);
    QLIST_FOREACH(d, &engines, all) {
        blk_cancel_set_unthrottled(d, false);
    }
    if (qemu_in_coroutine()) {
        /* Whom this coroutine wakes runs in its AioContext */
        aio_bh_schedule_oneshot(qemu_get_aio_context(), blk_cancel_wake_parked,
                                NULL);
    } else {
        blk_cancel_wake_parked(NULL);
    }
}

BlkCancel *blk_cancel_next(BlkCancel *d)
{
    GLOBAL_STATE_CODE();
    return d ? QLIST_NEXT(d, all) : QLIST_FIRST(&engines);
}

void blk_cancel_look(BlkCancel *d, int64_t now, BlkCancelLoad *load)
{
    BlkCancelCtx *ctx;

    *load = (BlkCancelLoad) {
        .blk = d->blk,
        .in_flight = blk_cancel_in_flight(d->blk),
        .abandoned = qatomic_read(&d->nr_abandoned),
    };
    for (int i = 0; i < BLK_CANCEL_CTX_BUCKETS; i++) {
        QSLIST_FOREACH_RCU(ctx, &d->ctxs[i], next) {
            int64_t oldest = qatomic_read_i64(&ctx->oldest_ns);

            load->issued += qatomic_read(&ctx->nr_issued);
            load->ended += qatomic_read_u64(&ctx->ended);
            if (oldest) {
                load->oldest_ns = MAX(load->oldest_ns, now - oldest);
            }
        }
    }
    load->overdue = load->oldest_ns >= BLK_CANCEL_OVERDUE_NS;
}

bool blk_cancel_next_load(BlkCancelLoad *load)
{
    BlkCancel *d = blk_cancel_next(load->opaque);

    if (!d) {
        return false;
    }
    blk_cancel_look(d, get_clock(), load);
    load->opaque = d;
    return true;
}

BlockAIOCB *blk_cancel_probe_flush(const BlkCancelLoad *load,
                                   BlockCompletionFunc *cb, void *opaque)
{
    return blk_cancel_aio_probe(load->opaque, cb, opaque);
}

BlockDriverState *blk_cancel_node_started_before(int64_t start_ns,
                                                 int64_t *oldest_ns)
{
    BlockDriverState *bs;
    BdrvTrackedRequest *req;
    BlockDriverState *found = NULL;

    GLOBAL_STATE_CODE();

    /* Nodes come and go under the BQL alone; no lock of the graph is needed */
    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        if (!blk_cancel_is_above(bs)) {
            continue;
        }
        QEMU_LOCK_GUARD(&bs->reqs_lock);
        QLIST_FOREACH(req, &bs->tracked_requests, list) {
            if (req->start_ns && req->start_ns < start_ns) {
                start_ns = req->start_ns;
                found = bs;
            }
        }
    }
    *oldest_ns = start_ns;
    return found;
}
