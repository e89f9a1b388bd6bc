/*
 * Cancellable requests: switching that on and off, and looking at it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/rcu_queue.h"
#include "qapi/error.h"
#include "block/blk-cancel-graph.h"
#include "block/block_int.h"
#include "block/thread-pool-overdue.h"
#include "system/block-backend.h"
#include "system/replay.h"
#include "blk-cancel-core.h"

static BlkCancel *blk_cancel_new(BlockBackend *blk,
                                 const BlkCancelOptions *opts)
{
    BlkCancel *d = qemu_memalign(__alignof__(BlkCancel), sizeof(*d));

    *d = (BlkCancel) {
        .blk = blk,
        .tgm = &blk_get_public(blk)->throttle_group_member,
        .opts = *opts,
        .budget = opts->budget,
        .regions = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL,
                                         g_free),
    };
    if (!d->opts.max_abandoned) {
        d->opts.max_abandoned = BLK_CANCEL_DEFAULT_MAX;
    }
    blk_cancel_find_limits(d);
    qemu_mutex_init(&d->lock);
    QTAILQ_INIT(&d->abandoned);
    QTAILQ_INIT(&d->parked);
    QTAILQ_INIT(&d->for_buffer);
    QTAILQ_INIT(&d->for_end);
    blk_cancel_stats_init(d);
    blk_cancel_register(d);
    blk_cancel_share_budget();
    return d;
}

static void blk_cancel_free(BlkCancel *d)
{
    BlkCancelCtx *ctx;
    BlkCancelReq *r;

    blk_cancel_unregister(d);
    blk_cancel_share_budget();
    blk_cancel_stats_cleanup(d);
    assert(QTAILQ_EMPTY(&d->abandoned));
    assert(QTAILQ_EMPTY(&d->parked));
    assert(QTAILQ_EMPTY(&d->for_buffer));
    assert(QTAILQ_EMPTY(&d->for_end));
    for (int i = 0; i < BLK_CANCEL_CTX_BUCKETS; i++) {
        while ((ctx = QSLIST_FIRST(&d->ctxs[i]))) {
            QSLIST_REMOVE_HEAD(&d->ctxs[i], next);
            assert(QTAILQ_EMPTY(&ctx->issued));
            blk_cancel_free_idle(ctx);
            while ((r = QSLIST_FIRST(&ctx->unused))) {
                QSLIST_REMOVE_HEAD(&ctx->unused, unused);
                g_free(r);
            }
            qemu_vfree(ctx);
        }
    }
    g_hash_table_destroy(d->regions);
    qemu_mutex_destroy(&d->lock);
    qemu_vfree(d);
}

bool blk_set_cancel(BlockBackend *blk, const BlkCancelOptions *opts,
                    Error **errp)
{
    BlkCancel **slot = blk_cancel_slot(blk);
    GLOBAL_STATE_CODE();

    if (opts && replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "Requests cannot be cancelled under record/replay");
        return false;
    }
    if (*slot) {
        blk_drain(blk);

        /*
         * See all that the threads of the last requests have written.  The
         * drained section sees to that with a fence; this says so in a way that
         * ThreadSanitizer understands.
         */
        blk_inc_in_flight(blk);
        blk_dec_in_flight(blk);
        thread_pool_overdue_enable(false);
        blk_cancel_free(*slot);
        *slot = NULL;
    }
    if (opts) {
        blk_drain(blk);
        *slot = blk_cancel_new(blk, opts);
        thread_pool_overdue_enable(true);
        blk_cancel_graph_switch_on(blk_bs(blk));
    }
    return true;
}

void blk_cancel_query(BlockBackend *blk, BlkCancelInfo *info)
{
    BlkCancel *d = *blk_cancel_slot(blk);

    *info = (BlkCancelInfo) {};
    if (!d) {
        return;
    }

    QEMU_LOCK_GUARD(&d->lock);
    info->abandoned = d->nr_abandoned;
    info->budget_used = blk_cancel_budget_used_locked(d);
    info->waiting_drained = d->waiting[WAIT_DRAINED];
    info->waiting_budget = d->waiting[WAIT_BUFFER];
    info->waiting_fence = d->waiting[WAIT_FENCE] + d->waiting[WAIT_DAMPER];
    blk_cancel_stats_query_locked(d, info);
}
