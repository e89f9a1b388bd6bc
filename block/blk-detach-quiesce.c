/*
 * Detachable requests: all BlockBackends at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the gate (blk-gate.c) stands on: which BlockBackends have detaching on,
 * what they have with the storage and for how long, and a way to keep new
 * requests from it without a drained section.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/rcu_queue.h"
#include "block/blk-detach-graph.h"
#include "block/blk-detach-quiesce.h"
#include "block/block.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "blk-detach-core.h"

/* BQL; whether it is empty may be asked in any thread */
static QLIST_HEAD(, BlkDetach) engines = QLIST_HEAD_INITIALIZER(engines);

/* Written under the BQL, read by every thread that submits: atomic */
bool blk_detach_gate_closed;

/*
 * The throttle queue counts as in flight, and may take long: like a drained
 * section, let what is in it go on.
 */
static void blk_detach_set_unthrottled(BlkDetach *d, bool on)
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
static ThrottleGroupMember *blk_detach_filter(BlockDriverState *bs)
{
    return bs->drv && !strcmp(bs->drv->format_name, "throttle") ? bs->opaque
                                                                : NULL;
}

static void blk_detach_open_filters(bool on)
{
    BlockDriverState *bs;

    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        ThrottleGroupMember *tgm = blk_detach_filter(bs);

        if (!tgm || tgm->open_for_gate == on ||
            (on && !blk_detach_is_above(bs))) {
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

bool blk_detach_filter_waits(void)
{
    BlockDriverState *bs;
    GLOBAL_STATE_CODE();

    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        ThrottleGroupMember *tgm = blk_detach_filter(bs);

        /* Without the group's lock: a hint */
        if (tgm && blk_detach_is_above(bs) &&
            (qatomic_read(&tgm->pending_reqs[THROTTLE_READ]) ||
             qatomic_read(&tgm->pending_reqs[THROTTLE_WRITE]))) {
            return true;
        }
    }
    return false;
}

void blk_detach_register(BlkDetach *d)
{
    GLOBAL_STATE_CODE();

    QLIST_INSERT_HEAD_RCU(&engines, d, all);
    if (blk_detach_gate_closed) {
        blk_detach_set_unthrottled(d, true);
    }
}

void blk_detach_unregister(BlkDetach *d)
{
    GLOBAL_STATE_CODE();

    QLIST_REMOVE_RCU(d, all);
    if (blk_detach_gate_closed) {
        blk_detach_set_unthrottled(d, false);
    }
}

void blk_detach_enter_issued(BlkDetachReq *r)
{
    r->issued_ns = r->waited ? get_clock() : r->start_ns;
    qemu_spin_lock(&r->dctx->lock);
    QTAILQ_INSERT_TAIL(&r->dctx->issued_reqs, r, issued);
    qemu_spin_unlock(&r->dctx->lock);
}

void blk_detach_leave_issued(BlkDetachReq *r)
{
    qemu_spin_lock(&r->dctx->lock);
    QTAILQ_REMOVE(&r->dctx->issued_reqs, r, issued);
    qemu_spin_unlock(&r->dctx->lock);
}

bool blk_detach_any(void)
{
    return !QLIST_EMPTY_RCU(&engines);
}

void blk_detach_close_gate(void)
{
    BlkDetach *d;
    GLOBAL_STATE_CODE();

    /*
     * Either a request that is submitted just now sees this, or it is seen by
     * blk_detach_in_flight() from here on; pairs with the one in
     * blk_detach_aio().
     */
    qatomic_set_mb(&blk_detach_gate_closed, true);
    QLIST_FOREACH(d, &engines, all) {
        blk_detach_set_unthrottled(d, true);
    }
    blk_detach_open_filters(true);
}

static void blk_detach_wake_parked(void *opaque)
{
    BlkDetach *d;

    QLIST_FOREACH(d, &engines, all) {
        blk_detach_drained_end(d);
    }
}

void blk_detach_open_gate(void)
{
    BlkDetach *d;
    GLOBAL_STATE_CODE();

    qatomic_set(&blk_detach_gate_closed, false);
    blk_detach_open_filters(false);
    QLIST_FOREACH(d, &engines, all) {
        blk_detach_set_unthrottled(d, false);
    }
    if (qemu_in_coroutine()) {
        /* Whom this coroutine wakes runs in its AioContext */
        aio_bh_schedule_oneshot(qemu_get_aio_context(), blk_detach_wake_parked,
                                NULL);
    } else {
        blk_detach_wake_parked(NULL);
    }
}

void blk_detach_look(BlkDetach *d, int64_t now, BlkDetachLoad *load)
{
    BlkDetachCtx *dctx;
    BlkDetachReq *r;

    *load = (BlkDetachLoad) {
        .blk = d->blk,
        .in_flight = blk_detach_in_flight(d->blk),
        .detached = qatomic_read(&d->nr_detached),
    };
    QSLIST_FOREACH_RCU(dctx, &d->ctxs, next) {
        qemu_spin_lock(&dctx->lock);
        QTAILQ_FOREACH(r, &dctx->issued_reqs, issued) {
            int64_t age = now - r->issued_ns;

            load->issued++;
            load->overdue += age >= BLK_DETACH_OVERDUE_NS;
            load->oldest_ns = MAX(load->oldest_ns, age);
        }
        qemu_spin_unlock(&dctx->lock);
    }
}

bool blk_detach_next_load(BlkDetachLoad *load)
{
    BlkDetach *d = load->opaque ? QLIST_NEXT((BlkDetach *)load->opaque, all)
                                : QLIST_FIRST(&engines);
    GLOBAL_STATE_CODE();

    if (!d) {
        return false;
    }
    blk_detach_look(d, get_clock(), load);
    load->opaque = d;
    return true;
}

BlockAIOCB *blk_detach_probe_flush(const BlkDetachLoad *load,
                                   BlockCompletionFunc *cb, void *opaque)
{
    return blk_detach_aio_probe(load->opaque, cb, opaque);
}

BlockDriverState *blk_detach_node_started_before(int64_t start_ns,
                                                 int64_t *oldest_ns)
{
    BlockDriverState *bs;
    BdrvTrackedRequest *req;
    BlockDriverState *found = NULL;

    GLOBAL_STATE_CODE();

    /* Nodes come and go under the BQL alone; no lock of the graph is needed */
    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        if (!blk_detach_is_above(bs)) {
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
