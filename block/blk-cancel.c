/*
 * Requests of a BlockBackend that can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The host kernel gives back next to nothing that it has been asked to do, so
 * nothing is cancelled below the BlockBackend.  Instead a request has two
 * halves.  The front is the caller's: BlkCancelAIOCB and its callback.  The
 * back is ours: BlkCancelReq with its coroutine and its bounce buffer.  To
 * cancel is to separate the two.
 *
 *     NEW -> WAITING -> ISSUED -> RETURNED -> DONE
 *
 * WAITING  parked by a drained section, for bounce buffer, at the fence, for
 *          a slot or in the throttle queue.  Cancelled: nothing was done.
 * ISSUED   given to the block graph.  Cancelled: the back goes on, abandoned.
 * RETURNED the result is known, its callback is pending in a bottom half.
 *          Cancelled: the callback runs with the real result.
 *
 * A abandoned request that changes the disk fences its range: a request that
 * comes later and overlaps it waits until it has finished.  Only ISSUED
 * requests are ever abandoned, and they end without the help of any WAITING
 * one; so a drained section, which waits for both, ends as well.
 *
 * Hooks: block-backend.c and throttle-groups.c.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/rcu_queue.h"
#include "qapi/error.h"
#include "block/blk-cancel-graph.h"
#include "block/block_int.h"
#include "block/thread-pool-overdue.h"
#include "system/block-backend.h"
#include "system/replay.h"
#include "blk-cancel-core.h"
#include "trace.h"

#define NOT_DONE INT_MAX /* no result yet */

static void blk_cancel_front_complete(BlkCancelAIOCB *front)
{
    front->done = true;
    front->common.cb(front->common.opaque, front->ret);
}

/* The back has returned and the caller knows the front: end the request. */
static void blk_cancel_front_end(void *opaque)
{
    BlkCancelAIOCB *front = opaque;

    if (!front->done) {
        blk_cancel_front_complete(front);
    }
    blk_dec_in_flight(front->blk);
    qemu_aio_unref(front);
}

static int coroutine_fn blk_cancel_co_flush(BlockBackend *blk)
{
    GRAPH_RDLOCK_GUARD();

    if (!blk_co_is_available(blk)) {
        return -ENOMEDIUM;
    }
    return bdrv_co_flush(blk_bs(blk));
}

/* The waits of the BlockBackend are behind us: BDRV_REQ_NO_QUEUE. */
static int coroutine_fn blk_cancel_co_issue(BlkCancelReq *r)
{
    BlockBackend *blk = r->d->blk;
    bool is_ours = r->bounced || (r->qiov && !r->bytes);
    QEMUIOVector *qiov = is_ours ? &r->bounce : r->qiov;
    BdrvRequestFlags flags = r->flags | BDRV_REQ_NO_QUEUE;

    switch (r->op) {
    case BLK_CANCEL_READ:
        return blk_co_preadv(blk, r->offset, r->bytes, qiov, flags);
    case BLK_CANCEL_WRITE:
        return blk_co_pwritev(blk, r->offset, r->bytes, qiov, flags);
    case BLK_CANCEL_DISCARD:
        return blk_co_pdiscard(blk, r->offset, r->bytes, flags);
    case BLK_CANCEL_FLUSH:
        return blk_cancel_co_flush(blk);
    default:
        return blk_cancel_co_issue_zone_op(r);
    }
}

/* The back has returned, to its front or abandoned, or was cancelled early. */
static void blk_cancel_back_end(BlkCancelReq *r)
{
    BlkCancelAIOCB *front = r->front;
    BlockBackend *blk = r->d->blk;

    if (r->abandoned) {
        trace_blk_cancel_finished(blk, r, r->op, r->offset, r->bytes, r->ret,
                                  get_clock() - r->start_ns);
        blk_cancel_leave_abandoned(r);
    } else {
        trace_blk_cancel_end(blk, r, r->canceled ? -ECANCELED : r->ret);
    }
    if (front) {
        if (r->op == BLK_CANCEL_READ && r->bounced && r->ret >= 0) {
            qemu_iovec_from_buf(r->qiov, 0, r->buf, r->bytes);
        }
        front->ret = r->ret;
        front->req = NULL;
    }
    if (r->state == BLK_CANCEL_ISSUED) {
        blk_cancel_leave_issued(r);
    }
    blk_cancel_release(r);
    g_free(r);

    if (!front) {
        blk_dec_in_flight(blk);
    } else if (front->has_returned) {
        blk_cancel_front_end(front);
    }
}

static void coroutine_fn blk_cancel_back_entry(void *opaque)
{
    BlkCancelReq *r = opaque;

    r->waiter.co = qemu_coroutine_self();
    if (!r->canceled) {
        r->state = BLK_CANCEL_WAITING;
        blk_cancel_co_admit(r);
    }

    if (!r->canceled && r->ret >= 0) {
        r->state = BLK_CANCEL_ISSUED;
        blk_cancel_enter_issued(r);
        trace_blk_cancel_issue(r->d->blk, r);
        r->ret = blk_cancel_co_issue(r);
    }
    blk_cancel_back_end(r);
}

static void blk_cancel_aio_cancel_async(BlockAIOCB *acb)
{
    BlkCancelAIOCB *front = container_of(acb, BlkCancelAIOCB, common);
    BlkCancelReq *r = front->req;
    bool wake;

    assert(front->ctx == qemu_get_current_aio_context());

    if (front->done) {
        return;
    }
    if (!r) {
        /* RETURNED: the bottom half only frees. */
        trace_blk_cancel_asked(front->blk, acb, "returned");
        blk_cancel_front_complete(front);
        return;
    }
    if (r->state == BLK_CANCEL_ISSUED && !r->abandonable) {
        trace_blk_cancel_asked(front->blk, acb, "refused");
        return;
    }

    if (r->state == BLK_CANCEL_ISSUED) {
        trace_blk_cancel_abandoned(front->blk, r, r->op, r->offset, r->bytes,
                                  get_clock() - r->start_ns);
        blk_cancel_enter_abandoned(r);
        wake = false;
    } else {
        trace_blk_cancel_asked(front->blk, acb, "waiting");
        wake = r->state == BLK_CANCEL_WAITING && blk_cancel_unwait(r);
    }

    r->canceled = true;
    r->front = NULL;
    front->req = NULL;
    front->canceled = true;
    front->ret = -ECANCELED;

    /* The back keeps the in-flight count.  @front's owner may free anything. */
    blk_cancel_front_complete(front);
    qemu_aio_unref(front);
    if (wake) {
        aio_co_wake(r->waiter.co);
    }
}

static const AIOCBInfo blk_cancel_aiocb_info = {
    .aiocb_size     = sizeof(BlkCancelAIOCB),
    .cancel_async   = blk_cancel_aio_cancel_async,
};

bool blk_aio_was_canceled(BlockAIOCB *acb)
{
    return acb->aiocb_info == &blk_cancel_aiocb_info &&
           container_of(acb, BlkCancelAIOCB, common)->canceled;
}

static BlkCancelCtx *blk_cancel_get_ctx(BlkCancel *d, AioContext *ctx)
{
    BlkCancelCtx *dctx;

    QSLIST_FOREACH_RCU(dctx, &d->ctxs, next) {
        if (dctx->ctx == ctx) {
            return dctx;
        }
    }

    /* Only the thread of @ctx looks for it, so it cannot come twice. */
    dctx = g_new0(BlkCancelCtx, 1);
    dctx->ctx = ctx;
    qemu_spin_init(&dctx->lock);
    QTAILQ_INIT(&dctx->issued_reqs);
    QEMU_LOCK_GUARD(&d->lock);
    QSLIST_INSERT_HEAD_RCU(&d->ctxs, dctx, next);
    return dctx;
}

/*
 * Cancelling a write that may move a zone's write pointer leaves the zone
 * unknown, beyond the range that a fence can hold.
 */
static bool blk_cancel_is_zoned(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);

    return bs && bs->bl.zoned != BLK_Z_NONE;
}

BlkCancelReq *blk_cancel_new_req(BlkCancel *d, BlkCancelOp op, int64_t offset,
                                 int64_t bytes, QEMUIOVector *qiov,
                                 BdrvRequestFlags flags)
{
    BlkCancelReq *r = g_new0(BlkCancelReq, 1);

    r->d = d;
    r->dctx = blk_cancel_get_ctx(d, qemu_get_current_aio_context());
    r->op = op;
    r->flags = flags;
    r->offset = offset;
    r->bytes = bytes;
    r->qiov = qiov;
    r->start_ns = get_clock();
    r->bounced = qiov && bytes && !blk_cancel_is_zone_op(r) &&
                 blk_cancel_pool_size(bytes) <= d->opts.budget;
    r->abandonable = r->bounced || !qiov || !bytes;
    if (blk_cancel_is_zone_op(r) ||
        (blk_cancel_changes_disk(r) && blk_cancel_is_zoned(d->blk))) {
        r->abandonable = false;
    }
    if (r->bounced || !bytes) {
        r->flags &= ~BDRV_REQ_REGISTERED_BUF;
    }
    /* Drivers look at an empty vector as well, after the caller's has gone */
    qemu_iovec_init_external(&r->bounce, NULL, 0);
    blk_cancel_init_waiter(&r->waiter, r, offset, bytes);
    return r;
}

BlockAIOCB *blk_cancel_submit(BlkCancelReq *r, BlockCompletionFunc *cb,
                              void *opaque)
{
    BlkCancel *d = r->d;
    BlkCancelAIOCB *front;

    trace_blk_cancel_submit(d->blk, r, opaque, r->op, r->offset, r->bytes,
                            r->flags);
    blk_inc_in_flight(d->blk);
    /* Before the gate is looked at; pairs with blk_cancel_close_gate() */
    smp_mb__after_rmw();
    front = blk_aio_get(&blk_cancel_aiocb_info, d->blk, cb, opaque);
    front->blk = d->blk;
    front->ctx = r->dctx->ctx;
    front->req = r;
    front->ret = NOT_DONE;
    front->has_returned = false;
    front->canceled = false;
    front->done = false;
    r->front = front;

    /* The coroutine may be entered late, after the caller's data changed. */
    blk_cancel_try_buffer(r);
    aio_co_enter(front->ctx, qemu_coroutine_create(blk_cancel_back_entry, r));

    front->has_returned = true;
    if (front->ret != NOT_DONE) {
        aio_bh_schedule_oneshot(front->ctx, blk_cancel_front_end, front);
    }
    return &front->common;
}

BlockAIOCB *blk_cancel_aio(BlkCancel *d, BlkCancelOp op, int64_t offset,
                           int64_t bytes, QEMUIOVector *qiov,
                           BdrvRequestFlags flags, BlockCompletionFunc *cb,
                           void *opaque)
{
    return blk_cancel_submit(blk_cancel_new_req(d, op, offset, bytes, qiov,
                                                flags), cb, opaque);
}

BlockAIOCB *blk_cancel_aio_probe(BlkCancel *d, BlockCompletionFunc *cb,
                                 void *opaque)
{
    BlkCancelReq *r = blk_cancel_new_req(d, BLK_CANCEL_FLUSH, 0, 0, NULL, 0);

    r->probe = true;
    return blk_cancel_submit(r, cb, opaque);
}

/*
 * Switching on and off, and looking at it
 */

static BlkCancel *blk_cancel_new(BlockBackend *blk,
                                 const BlkCancelOptions *opts)
{
    BlkCancel *d = g_new0(BlkCancel, 1);

    d->blk = blk;
    d->tgm = &blk_get_public(blk)->throttle_group_member;
    d->opts = *opts;
    qemu_mutex_init(&d->lock);
    QSLIST_INIT(&d->ctxs);
    QTAILQ_INIT(&d->abandoned);
    for (int i = 0; i < WAIT__MAX; i++) {
        QTAILQ_INIT(&d->waiting[i]);
    }
    blk_cancel_stats_init(d);
    blk_cancel_register(d);
    return d;
}

static void blk_cancel_free(BlkCancel *d)
{
    BlkCancelCtx *dctx;

    blk_cancel_unregister(d);
    blk_cancel_stats_cleanup(d);
    assert(QTAILQ_EMPTY(&d->abandoned));
    for (int i = 0; i < WAIT__MAX; i++) {
        assert(QTAILQ_EMPTY(&d->waiting[i]));
    }
    while ((dctx = QSLIST_FIRST(&d->ctxs))) {
        QSLIST_REMOVE_HEAD(&d->ctxs, next);
        assert(QTAILQ_EMPTY(&dctx->issued_reqs));
        blk_cancel_pool_clear(&dctx->pool);
        qemu_spin_destroy(&dctx->lock);
        g_free(dctx);
    }
    qemu_mutex_destroy(&d->lock);
    g_free(d);
}

bool blk_set_cancel(BlockBackend *blk, const BlkCancelOptions *opts,
                    Error **errp)
{
    BlkCancel **slot = blk_cancel_slot(blk);
    GLOBAL_STATE_CODE();

    if (opts && replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "Requests cannot be abandoned under record/replay");
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
        blk_cancel_graph_switch(blk_bs(blk), false);
        thread_pool_overdue_enable(false);
        blk_cancel_free(*slot);
        *slot = NULL;
    }
    if (opts) {
        blk_drain(blk);
        *slot = blk_cancel_new(blk, opts);
        thread_pool_overdue_enable(true);
        blk_cancel_graph_switch(blk_bs(blk), true);
    }
    return true;
}

static unsigned int blk_cancel_count_locked(BlkCancel *d, BlkCancelWait where)
{
    unsigned int n = 0;
    BlkCancelWaiter *w;

    QTAILQ_FOREACH(w, &d->waiting[where], next) {
        n++;
    }
    return n;
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
    info->budget_used = qatomic_read(&d->budget_used);
    info->waiting_drained = blk_cancel_count_locked(d, WAIT_DRAINED);
    info->waiting_budget = blk_cancel_count_locked(d, WAIT_BUFFER) +
                           blk_cancel_count_locked(d, WAIT_SLOT);
    info->waiting_fence = blk_cancel_count_locked(d, WAIT_FENCE);
    blk_cancel_stats_query_locked(d, info);
}
