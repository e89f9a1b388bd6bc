/*
 * Cancellable requests: what disks have under way, and holding them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What blk-hold.c stands on: which BlockBackends have cancelling on, what they
 * have with the storage and for how long, what else block nodes have under way,
 * and a way to keep new requests from the storage without a drained section.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/rcu_queue.h"
#include "block/blk-cancel-graph.h"
#include "block/blk-cancel-hold.h"
#include "block/block.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"

/* BQL; whether it is empty may be asked in any thread */
static QLIST_HEAD(, BlkCancel) engines = QLIST_HEAD_INITIALIZER(engines);

/* Written under the BQL, read by every request of a node: atomic */
unsigned int blk_cancel_epoch = 1;

void blk_cancel_register(BlkCancel *d)
{
    GLOBAL_STATE_CODE();
    QLIST_INSERT_HEAD_RCU(&engines, d, all);
}

void blk_cancel_unregister(BlkCancel *d)
{
    GLOBAL_STATE_CODE();
    QLIST_REMOVE_RCU(d, all);
    if (d->held) {
        qatomic_dec(&d->tgm->io_limits_disabled);
    }
}

bool blk_cancel_any(void)
{
    return !QLIST_EMPTY_RCU(&engines);
}

/*
 * Holding
 */

/*
 * The queue of a throttle filter counts as with the storage, and may take long:
 * like a drained section, let what is in it go on.
 */
static void blk_cancel_open_filters(bool open)
{
    BlockDriverState *bs;

    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        ThrottleGroupMember *tgm;

        if (!bs->drv || strcmp(bs->drv->format_name, "throttle")) {
            continue;
        }
        tgm = bs->opaque;
        if (tgm->open_for_hold == open || (open && !blk_cancel_is_above(bs))) {
            continue;
        }
        tgm->open_for_hold = open;
        if (open) {
            bs->drv->bdrv_drain_begin(bs);
        } else {
            bs->drv->bdrv_drain_end(bs);
        }
    }
}

void blk_cancel_hold(BlockBackend *blk)
{
    BlkCancel *d;
    GLOBAL_STATE_CODE();

    QLIST_FOREACH(d, &engines, all) {
        if (d->held || (blk && blk != d->blk)) {
            continue;
        }
        /*
         * Either a request that is submitted just now sees this, or it is seen
         * by blk_cancel_in_flight() from here on; pairs with the one in
         * blk_cancel_submit().
         */
        qatomic_set_mb(&d->held, true);
        if (qatomic_fetch_inc(&d->tgm->io_limits_disabled) == 0) {
            throttle_group_restart_tgm(d->tgm);
        }
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

void blk_cancel_unhold(void)
{
    BlkCancel *d;
    GLOBAL_STATE_CODE();

    blk_cancel_open_filters(false);
    QLIST_FOREACH(d, &engines, all) {
        if (d->held) {
            qatomic_set(&d->held, false);
            qatomic_dec(&d->tgm->io_limits_disabled);
        }
    }
    if (qemu_in_coroutine()) {
        /* Whom this coroutine wakes runs in its AioContext */
        aio_bh_schedule_oneshot(qemu_get_aio_context(), blk_cancel_wake_parked,
                                NULL);
    } else {
        blk_cancel_wake_parked(NULL);
    }
}

/*
 * What is under way
 */

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
        .held = d->held,
    };
    for (int i = 0; i < BLK_CANCEL_CTX_BUCKETS; i++) {
        QSLIST_FOREACH_RCU(ctx, &d->ctxs[i], next) {
            int64_t oldest = qatomic_read_i64(&ctx->oldest_ns);

            load->issued += qatomic_read(&ctx->nr_issued);
            load->slow += qatomic_read(&ctx->nr_slow);
            load->ended += qatomic_read_u64(&ctx->ended);
            if (oldest) {
                load->oldest_ns = MAX(load->oldest_ns, now - oldest);
            }
        }
    }
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

/* Nodes come and go under the BQL alone; no lock of the graph is needed */
bool blk_cancel_next_node(BlkNodeLoad *load, unsigned int epoch)
{
    BlockDriverState *bs = bdrv_next_node(load->bs);
    BdrvTrackedRequest *req;
    GLOBAL_STATE_CODE();

    *load = (BlkNodeLoad) { .bs = bs };
    if (!bs) {
        return false;
    }
    load->cancels = blk_cancel_is_above(bs);
    load->is_leaf = QLIST_EMPTY(&bs->children);
    QEMU_LOCK_GUARD(&bs->reqs_lock);
    load->requests = bs->active_flush_req && bs->flush_epoch <= epoch;
    QLIST_FOREACH(req, &bs->tracked_requests, list) {
        load->requests += req->epoch <= epoch;
    }
    return true;
}
