/*
 * Requests of a BlockBackend that can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The host kernel gives back next to nothing that it has been asked to do, so
 * nothing is cancelled below the BlockBackend.  Instead a request has two
 * halves.  The front is the caller's: BlkDetachAIOCB and its callback.  The
 * back is ours: BlkDetachReq with its coroutine and its bounce buffer.  To
 * cancel is to separate the two.
 *
 *     NEW -> WAITING -> ISSUED -> RETURNED -> DONE
 *
 * WAITING  parked by a drained section, for bounce buffer, at the fence, for
 *          a slot or in the throttle queue.  Cancelled: nothing was done.
 * ISSUED   given to the block graph.  Cancelled: the back goes on, detached.
 * RETURNED the result is known, its callback is pending in a bottom half.
 *          Cancelled: the callback runs with the real result.
 *
 * A detached request that changes the disk fences its range: a request that
 * comes later and overlaps it waits until it has finished.  Only ISSUED
 * requests are ever detached, and they end without the help of any WAITING
 * one; so a drained section, which waits for both, ends as well.
 *
 * Hooks: block-backend.c and throttle-groups.c.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/rcu_queue.h"
#include "qapi/error.h"
#include "block/blk-detach-graph.h"
#include "block/block_int.h"
#include "block/thread-pool-overdue.h"
#include "system/block-backend.h"
#include "system/replay.h"
#include "blk-detach-core.h"
#include "trace.h"

#define NOT_DONE INT_MAX /* no result yet */

static void blk_detach_front_complete(BlkDetachAIOCB *front)
{
    front->done = true;
    front->common.cb(front->common.opaque, front->ret);
}

/* The back has returned and the caller knows the front: end the request. */
static void blk_detach_front_end(void *opaque)
{
    BlkDetachAIOCB *front = opaque;

    if (!front->done) {
        blk_detach_front_complete(front);
    }
    blk_dec_in_flight(front->blk);
    qemu_aio_unref(front);
}

static int coroutine_fn blk_detach_co_flush(BlockBackend *blk)
{
    GRAPH_RDLOCK_GUARD();

    if (!blk_co_is_available(blk)) {
        return -ENOMEDIUM;
    }
    return bdrv_co_flush(blk_bs(blk));
}

/* The waits of the BlockBackend are behind us: BDRV_REQ_NO_QUEUE. */
static int coroutine_fn blk_detach_co_issue(BlkDetachReq *r)
{
    BlockBackend *blk = r->d->blk;
    bool is_ours = r->bounced || (r->qiov && !r->bytes);
    QEMUIOVector *qiov = is_ours ? &r->bounce : r->qiov;
    BdrvRequestFlags flags = r->flags | BDRV_REQ_NO_QUEUE;

    switch (r->op) {
    case BLK_DETACH_READ:
        return blk_co_preadv(blk, r->offset, r->bytes, qiov, flags);
    case BLK_DETACH_WRITE:
        return blk_co_pwritev(blk, r->offset, r->bytes, qiov, flags);
    case BLK_DETACH_DISCARD:
        return blk_co_pdiscard(blk, r->offset, r->bytes, flags);
    case BLK_DETACH_FLUSH:
        return blk_detach_co_flush(blk);
    default:
        return blk_detach_co_issue_zone_op(r);
    }
}

/* The back has returned, to its front or detached, or was cancelled early. */
static void blk_detach_back_end(BlkDetachReq *r)
{
    BlkDetachAIOCB *front = r->front;
    BlockBackend *blk = r->d->blk;

    if (r->detached) {
        trace_blk_detach_finished(blk, r, r->op, r->offset, r->bytes, r->ret,
                                  get_clock() - r->start_ns);
        blk_detach_leave_detached(r);
    } else {
        trace_blk_detach_end(blk, r, r->canceled ? -ECANCELED : r->ret);
    }
    if (front) {
        if (r->op == BLK_DETACH_READ && r->bounced && r->ret >= 0) {
            qemu_iovec_from_buf(r->qiov, 0, r->buf, r->bytes);
        }
        front->ret = r->ret;
        front->req = NULL;
    }
    if (r->state == BLK_DETACH_ISSUED) {
        blk_detach_leave_issued(r);
    }
    blk_detach_release(r);
    g_free(r);

    if (!front) {
        blk_dec_in_flight(blk);
    } else if (front->has_returned) {
        blk_detach_front_end(front);
    }
}

static void coroutine_fn blk_detach_back_entry(void *opaque)
{
    BlkDetachReq *r = opaque;

    r->waiter.co = qemu_coroutine_self();
    if (!r->canceled) {
        r->state = BLK_DETACH_WAITING;
        blk_detach_co_admit(r);
    }

    if (!r->canceled && r->ret >= 0) {
        r->state = BLK_DETACH_ISSUED;
        blk_detach_enter_issued(r);
        trace_blk_detach_issue(r->d->blk, r);
        r->ret = blk_detach_co_issue(r);
    }
    blk_detach_back_end(r);
}

static void blk_detach_aio_cancel_async(BlockAIOCB *acb)
{
    BlkDetachAIOCB *front = container_of(acb, BlkDetachAIOCB, common);
    BlkDetachReq *r = front->req;
    bool wake;

    assert(front->ctx == qemu_get_current_aio_context());

    if (front->done) {
        return;
    }
    if (!r) {
        /* RETURNED: the bottom half only frees. */
        trace_blk_detach_cancel(front->blk, acb, "returned");
        blk_detach_front_complete(front);
        return;
    }
    if (r->state == BLK_DETACH_ISSUED && !r->detachable) {
        trace_blk_detach_cancel(front->blk, acb, "refused");
        return;
    }

    if (r->state == BLK_DETACH_ISSUED) {
        trace_blk_detach_detached(front->blk, r, r->op, r->offset, r->bytes,
                                  get_clock() - r->start_ns);
        blk_detach_enter_detached(r);
        wake = false;
    } else {
        trace_blk_detach_cancel(front->blk, acb, "waiting");
        wake = r->state == BLK_DETACH_WAITING && blk_detach_unwait(r);
    }

    r->canceled = true;
    r->front = NULL;
    front->req = NULL;
    front->canceled = true;
    front->ret = -ECANCELED;

    /* The back keeps the in-flight count.  @front's owner may free anything. */
    blk_detach_front_complete(front);
    qemu_aio_unref(front);
    if (wake) {
        aio_co_wake(r->waiter.co);
    }
}

static const AIOCBInfo blk_detach_aiocb_info = {
    .aiocb_size     = sizeof(BlkDetachAIOCB),
    .cancel_async   = blk_detach_aio_cancel_async,
};

bool blk_aio_was_canceled(BlockAIOCB *acb)
{
    return acb->aiocb_info == &blk_detach_aiocb_info &&
           container_of(acb, BlkDetachAIOCB, common)->canceled;
}

static BlkDetachCtx *blk_detach_get_ctx(BlkDetach *d, AioContext *ctx)
{
    BlkDetachCtx *dctx;

    QSLIST_FOREACH_RCU(dctx, &d->ctxs, next) {
        if (dctx->ctx == ctx) {
            return dctx;
        }
    }

    /* Only the thread of @ctx looks for it, so it cannot come twice. */
    dctx = g_new0(BlkDetachCtx, 1);
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
static bool blk_detach_is_zoned(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);

    return bs && bs->bl.zoned != BLK_Z_NONE;
}

BlkDetachReq *blk_detach_new_req(BlkDetach *d, BlkDetachOp op, int64_t offset,
                                 int64_t bytes, QEMUIOVector *qiov,
                                 BdrvRequestFlags flags)
{
    BlkDetachReq *r = g_new0(BlkDetachReq, 1);

    r->d = d;
    r->dctx = blk_detach_get_ctx(d, qemu_get_current_aio_context());
    r->op = op;
    r->flags = flags;
    r->offset = offset;
    r->bytes = bytes;
    r->qiov = qiov;
    r->start_ns = get_clock();
    r->bounced = qiov && bytes && !blk_detach_is_zone_op(r) &&
                 blk_detach_pool_size(bytes) <= d->opts.budget;
    r->detachable = r->bounced || !qiov || !bytes;
    if (blk_detach_is_zone_op(r) ||
        (blk_detach_changes_disk(r) && blk_detach_is_zoned(d->blk))) {
        r->detachable = false;
    }
    if (r->bounced || !bytes) {
        r->flags &= ~BDRV_REQ_REGISTERED_BUF;
    }
    /* Drivers look at an empty vector as well, after the caller's has gone */
    qemu_iovec_init_external(&r->bounce, NULL, 0);
    blk_detach_init_waiter(&r->waiter, r, offset, bytes);
    return r;
}

BlockAIOCB *blk_detach_submit(BlkDetachReq *r, BlockCompletionFunc *cb,
                              void *opaque)
{
    BlkDetach *d = r->d;
    BlkDetachAIOCB *front;

    trace_blk_detach_submit(d->blk, r, opaque, r->op, r->offset, r->bytes,
                            r->flags);
    blk_inc_in_flight(d->blk);
    /* Before the gate is looked at; pairs with blk_detach_close_gate() */
    smp_mb__after_rmw();
    front = blk_aio_get(&blk_detach_aiocb_info, d->blk, cb, opaque);
    front->blk = d->blk;
    front->ctx = r->dctx->ctx;
    front->req = r;
    front->ret = NOT_DONE;
    front->has_returned = false;
    front->canceled = false;
    front->done = false;
    r->front = front;

    /* The coroutine may be entered late, after the caller's data changed. */
    blk_detach_try_buffer(r);
    aio_co_enter(front->ctx, qemu_coroutine_create(blk_detach_back_entry, r));

    front->has_returned = true;
    if (front->ret != NOT_DONE) {
        aio_bh_schedule_oneshot(front->ctx, blk_detach_front_end, front);
    }
    return &front->common;
}

BlockAIOCB *blk_detach_aio(BlkDetach *d, BlkDetachOp op, int64_t offset,
                           int64_t bytes, QEMUIOVector *qiov,
                           BdrvRequestFlags flags, BlockCompletionFunc *cb,
                           void *opaque)
{
    return blk_detach_submit(blk_detach_new_req(d, op, offset, bytes, qiov,
                                                flags), cb, opaque);
}

BlockAIOCB *blk_detach_aio_probe(BlkDetach *d, BlockCompletionFunc *cb,
                                 void *opaque)
{
    BlkDetachReq *r = blk_detach_new_req(d, BLK_DETACH_FLUSH, 0, 0, NULL, 0);

    r->probe = true;
    return blk_detach_submit(r, cb, opaque);
}

/*
 * Switching on and off, and looking at it
 */

static BlkDetach *blk_detach_new(BlockBackend *blk,
                                 const BlkDetachOptions *opts)
{
    BlkDetach *d = g_new0(BlkDetach, 1);

    d->blk = blk;
    d->tgm = &blk_get_public(blk)->throttle_group_member;
    d->opts = *opts;
    qemu_mutex_init(&d->lock);
    QSLIST_INIT(&d->ctxs);
    QTAILQ_INIT(&d->detached);
    for (int i = 0; i < WAIT__MAX; i++) {
        QTAILQ_INIT(&d->waiting[i]);
    }
    blk_detach_stats_init(d);
    blk_detach_register(d);
    return d;
}

static void blk_detach_free(BlkDetach *d)
{
    BlkDetachCtx *dctx;

    blk_detach_unregister(d);
    blk_detach_stats_cleanup(d);
    assert(QTAILQ_EMPTY(&d->detached));
    for (int i = 0; i < WAIT__MAX; i++) {
        assert(QTAILQ_EMPTY(&d->waiting[i]));
    }
    while ((dctx = QSLIST_FIRST(&d->ctxs))) {
        QSLIST_REMOVE_HEAD(&d->ctxs, next);
        assert(QTAILQ_EMPTY(&dctx->issued_reqs));
        blk_detach_pool_clear(&dctx->pool);
        qemu_spin_destroy(&dctx->lock);
        g_free(dctx);
    }
    qemu_mutex_destroy(&d->lock);
    g_free(d);
}

bool blk_set_detach(BlockBackend *blk, const BlkDetachOptions *opts,
                    Error **errp)
{
    BlkDetach **slot = blk_detach_slot(blk);
    GLOBAL_STATE_CODE();

    if (opts && replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "Requests cannot be detached under record/replay");
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
        blk_detach_graph_switch(blk_bs(blk), false);
        thread_pool_overdue_enable(false);
        blk_detach_free(*slot);
        *slot = NULL;
    }
    if (opts) {
        blk_drain(blk);
        *slot = blk_detach_new(blk, opts);
        thread_pool_overdue_enable(true);
        blk_detach_graph_switch(blk_bs(blk), true);
    }
    return true;
}

static unsigned int blk_detach_count_locked(BlkDetach *d, BlkDetachWait where)
{
    unsigned int n = 0;
    BlkDetachWaiter *w;

    QTAILQ_FOREACH(w, &d->waiting[where], next) {
        n++;
    }
    return n;
}

void blk_detach_query(BlockBackend *blk, BlkDetachInfo *info)
{
    BlkDetach *d = *blk_detach_slot(blk);

    *info = (BlkDetachInfo) {};
    if (!d) {
        return;
    }

    QEMU_LOCK_GUARD(&d->lock);
    info->detached = d->nr_detached;
    info->budget_used = qatomic_read(&d->budget_used);
    info->waiting_drained = blk_detach_count_locked(d, WAIT_DRAINED);
    info->waiting_budget = blk_detach_count_locked(d, WAIT_BUFFER) +
                           blk_detach_count_locked(d, WAIT_SLOT);
    info->waiting_fence = blk_detach_count_locked(d, WAIT_FENCE);
    blk_detach_stats_query_locked(d, info);
}
