/*
 * Requests of a BlockBackend that can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The host kernel gives back next to nothing that it has been asked to do, so
 * nothing is cancelled below the BlockBackend.  Instead the caller gets its
 * request back, and the rest of it goes on with what is its own: the object,
 * which is the AIOCB as well, its coroutine, and the buffer that data goes
 * through.
 *
 *     NEW -> WAITING -> ISSUED -> RETURNED -> DONE
 *
 * WAITING  parked by a drained section, behind what was abandoned, in the
 *          throttle queue or for a buffer.  Cancelled: nothing was done.
 * ISSUED   given to the block graph.  Cancelled: it is abandoned, and runs on.
 * RETURNED the result is known, its callback is pending in a bottom half.
 *          Cancelled: the callback runs with the real result.
 *
 * Everything that this needs is done at the cancel.  A request that nobody
 * cancels costs what a plain one does, a link in a list of its thread, and a
 * look at what might be in its way.
 *
 * Only ISSUED requests are ever abandoned, and they end without the help of
 * any WAITING one; so a drained section, which waits for both, ends as well.
 *
 * Hooks: block-backend.c, io.c (bdrv_aio_cancel) and throttle-groups.c.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/rcu_queue.h"
#include "block/blk-cancel-flush.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"
#include "trace.h"
#include "trace/trace-block_cancel.h"

/* Requests that a cancel was refused, and that have ended; atomic */
static unsigned int nr_refused_ended;

unsigned int blk_cancel_refused_ended(void)
{
    return qatomic_load_acquire(&nr_refused_ended);
}

/* Requests whose memory a thread keeps */
#ifdef QEMU_SANITIZE_ADDRESS
#define MAX_UNUSED  0           /* who uses one after its end is to be seen */
#else
#define MAX_UNUSED  256
#endif

static void blk_cancel_unref(BlkCancelReq *r)
{
    BlkCancelCtx *ctx = r->ctx;

    if (likely(r->common.refcnt == 1 && ctx->nr_unused < MAX_UNUSED)) {
        QSLIST_INSERT_HEAD(&ctx->unused, r, unused);
        ctx->nr_unused++;
    } else {
        qemu_aio_unref(&r->common);
    }
}

static void blk_cancel_complete(BlkCancelReq *r, int ret)
{
    r->state = BLK_CANCEL_DONE;
    r->common.cb(r->common.opaque, ret);
}

/* The callback has run, and the storage has answered. */
static void blk_cancel_end(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;
    BlockBackend *blk = d->blk;
    bool refused = r->refused;

    if (unlikely(!d->free_starts) && r->co) {
        blk_cancel_end_started(d);
    }
    blk_cancel_unref(r);
    blk_dec_in_flight(blk);
    if (unlikely(refused)) {
        qatomic_inc(&nr_refused_ended);
        aio_wait_kick();
    }
}

/*
 * While it is with the storage
 */

static bool blk_cancel_may_take_long(const BlkCancelReq *r)
{
    return r->op == BLK_CANCEL_FLUSH || r->op == BLK_CANCEL_DISCARD ||
           (r->flags & BDRV_REQ_ZERO_WRITE);
}

static void blk_cancel_enter_issued(BlkCancelReq *r)
{
    BlkCancelCtx *ctx = r->ctx;

    r->issued_ns = r->waited ? get_clock() : r->start_ns;
    if (QTAILQ_EMPTY(&ctx->issued)) {
        qatomic_set_i64(&ctx->oldest_ns, r->issued_ns);
    }
    QTAILQ_INSERT_TAIL(&ctx->issued, r, issued);
    qatomic_set(&ctx->nr_issued, ctx->nr_issued + 1);
    if (unlikely(blk_cancel_may_take_long(r))) {
        qatomic_set(&ctx->nr_slow, ctx->nr_slow + 1);
    }
    r->state = BLK_CANCEL_ISSUED;
    trace_blk_cancel_issue(ctx->d->blk, r);
}

static void blk_cancel_leave_issued(BlkCancelReq *r)
{
    BlkCancelCtx *ctx = r->ctx;

    if (QTAILQ_FIRST(&ctx->issued) == r) {
        BlkCancelReq *next = QTAILQ_NEXT(r, issued);

        qatomic_set_i64(&ctx->oldest_ns, next ? next->issued_ns : 0);
    }
    QTAILQ_REMOVE(&ctx->issued, r, issued);
    qatomic_set(&ctx->nr_issued, ctx->nr_issued - 1);
    if (unlikely(blk_cancel_may_take_long(r))) {
        qatomic_set(&ctx->nr_slow, ctx->nr_slow - 1);
    }
    qatomic_set_u64(&ctx->ended, ctx->ended + 1);
}

/* A read, a write or a discard */
static int coroutine_fn GRAPH_RDLOCK blk_cancel_co_issue_range(BlkCancelReq *r)
{
    BlockBackend *blk = r->ctx->d->blk;
    BdrvChild *root = blk_cancel_root(blk);
    bool is_ours = r->bounced || r->lent || (r->qiov && !r->bytes);
    QEMUIOVector *qiov = is_ours ? &r->bounce : r->qiov;
    BdrvRequestFlags flags = r->flags;
    int ret;

    ret = blk_check_byte_request(blk, r->offset, r->bytes);
    if (ret < 0) {
        return ret;
    }
    if (is_ours) {
        flags &= ~BDRV_REQ_REGISTERED_BUF;
    }
    if (unlikely(r->lent)) {
        blk_pin_offer(&r->pin);
    }
    switch (r->op) {
    case BLK_CANCEL_READ:
        trace_blk_co_preadv(blk, root->bs, r->offset, r->bytes, flags);
        return bdrv_co_preadv_part(root, r->offset, r->bytes, qiov, 0, flags);
    case BLK_CANCEL_WRITE:
        trace_blk_co_pwritev(blk, root->bs, r->offset, r->bytes, flags);
        if (!blk_enable_write_cache(blk)) {
            flags |= BDRV_REQ_FUA;
        }
        return bdrv_co_pwritev_part(root, r->offset, r->bytes, qiov, 0, flags);
    default:
        return bdrv_co_pdiscard(root, r->offset, r->bytes);
    }
}

/* What was lent and is not done goes through a buffer now. */
static bool coroutine_fn blk_cancel_co_again(BlkCancelReq *r)
{
    blk_pin_withdraw(&r->pin);
    if (!blk_cancel_lent_returned(r)) {
        return false;
    }
    blk_cancel_end_lent(r);
    r->bounced = true;
    blk_cancel_co_use_buffer(r);
    return true;
}

/* What blk_co_do_*() do behind their waits, which are behind us */
static int coroutine_fn blk_cancel_co_issue(BlkCancelReq *r)
{
    BlockBackend *blk = r->ctx->d->blk;

    GRAPH_RDLOCK_GUARD();

    switch (r->op) {
    case BLK_CANCEL_READ:
    case BLK_CANCEL_WRITE:
    case BLK_CANCEL_DISCARD:
        return blk_cancel_co_issue_range(r);
    case BLK_CANCEL_FLUSH:
        return blk_co_is_available(blk) ? bdrv_co_flush(blk_bs(blk))
                                        : -ENOMEDIUM;
    default:
        return blk_cancel_co_issue_zone_op(r);
    }
}

/* The storage has answered an abandoned request. */
static void coroutine_fn blk_cancel_co_end_abandoned(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;

    trace_blk_cancel_finished(d->blk, r, r->op, r->offset, r->bytes, r->ret,
                              get_clock() - r->start_ns);
    if (r->op == BLK_CANCEL_FLUSH) {
        blk_cancel_co_keep_flush_error(d->blk, r->ret);
    }
    blk_cancel_leave_abandoned(r);
}

static void coroutine_fn blk_cancel_entry(void *opaque)
{
    BlkCancelReq *r = opaque;
    BlockBackend *blk = r->ctx->d->blk;

    if (likely(!r->canceled)) {
        r->state = BLK_CANCEL_WAITING;
        blk_cancel_co_admit(r);
    }
    if (likely(!r->canceled)) {
        do {
            blk_cancel_enter_issued(r);
            r->ret = blk_cancel_co_issue(r);
            blk_cancel_leave_issued(r);
        } while (unlikely(r->lent) && blk_cancel_co_again(r));
        if (unlikely(r->abandoned)) {
            blk_cancel_co_end_abandoned(r);
        } else {
            if (r->bounced && r->op == BLK_CANCEL_READ && r->ret >= 0) {
                blk_cancel_co_copy_out(r);
            }
            trace_blk_cancel_end(blk, r, r->canceled ? -ECANCELED : r->ret);
        }
    } else {
        trace_blk_cancel_end(blk, r, -ECANCELED);
    }
    if (r->buf) {
        blk_cancel_put_buffer(r);
    } else if (unlikely(r->lent)) {
        blk_cancel_end_lent(r);
        blk_cancel_uncharge(r);
    }

    if (likely(!r->canceled)) {
        if (!r->has_returned) {
            r->state = BLK_CANCEL_RETURNED;
            return;
        }
        blk_cancel_complete(r, r->ret);
    }
    blk_cancel_end(r);
}

/* The caller knows @r, whose result has been there before. */
static void blk_cancel_returned_bh(void *opaque)
{
    BlkCancelReq *r = opaque;

    if (r->state == BLK_CANCEL_RETURNED) {
        blk_cancel_complete(r, r->ret);
    }
    blk_cancel_end(r);
}

/*
 * Cancelling
 */

/*
 * A write that may move a zone's write pointer leaves the zone unknown, beyond
 * the range that a fence can hold.
 */
static bool blk_cancel_is_zoned(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);

    return bs && bs->bl.zoned != BLK_Z_NONE;
}

/* Whether the storage touches nothing of the caller's. */
static bool blk_cancel_can_abandon(BlkCancelReq *r)
{
    if (blk_cancel_is_zone_op(r) ||
        (r->qiov && r->bytes && !r->bounced && !r->lent)) {
        return false;
    }
    if (blk_cancel_changes_disk(r) && blk_cancel_is_zoned(r->ctx->d->blk)) {
        return false;
    }
    return !blk_cancel_is_full();
}

static void blk_cancel_aio_cancel_async(BlockAIOCB *acb)
{
    BlkCancelReq *r = container_of(acb, BlkCancelReq, common);
    BlockBackend *blk = r->ctx->d->blk;
    bool wake = false;

    assert(r->ctx->ctx == qemu_get_current_aio_context());

    switch (r->state) {
    case BLK_CANCEL_NEW:
    case BLK_CANCEL_WAITING:
        trace_blk_cancel_asked(blk, acb, "waiting");
        wake = blk_cancel_unwait(r);
        break;
    case BLK_CANCEL_ISSUED:
        if (!blk_cancel_can_abandon(r) ||
            (unlikely(r->lent) && !blk_cancel_swap(r))) {
            trace_blk_cancel_asked(blk, acb, "refused");
            r->refused = true;
            return;
        }
        trace_blk_cancel_abandoned(blk, r, r->op, r->offset, r->bytes,
                                   get_clock() - r->start_ns);
        blk_cancel_enter_abandoned(r);
        break;
    case BLK_CANCEL_RETURNED:
        trace_blk_cancel_asked(blk, acb, "returned");
        blk_cancel_complete(r, r->ret);
        return;
    case BLK_CANCEL_DONE:
        return;
    }

    /*
     * The coroutine keeps a reference, and the in-flight count.  The owner of
     * the caller's may free anything.
     */
    r->canceled = true;
    qemu_aio_ref(acb);
    blk_cancel_complete(r, -ECANCELED);
    qemu_aio_unref(acb);
    if (wake && r->co) {
        aio_co_wake(r->co);
    } else if (wake) {
        trace_blk_cancel_end(blk, r, -ECANCELED);
        blk_cancel_end(r);
    }
}

static const AIOCBInfo blk_cancel_aiocb_info = {
    .aiocb_size     = sizeof(BlkCancelReq),
    .cancel_async   = blk_cancel_aio_cancel_async,
};

bool blk_aio_was_canceled(BlockAIOCB *acb)
{
    return acb->aiocb_info == &blk_cancel_aiocb_info &&
           container_of(acb, BlkCancelReq, common)->canceled;
}

bool blk_aio_waits(BlockAIOCB *acb)
{
    BlkCancelReq *r = container_of(acb, BlkCancelReq, common);

    return acb->aiocb_info == &blk_cancel_aiocb_info &&
           r->state <= BLK_CANCEL_WAITING && !blk_cancel_is_zone_op(r);
}

int64_t blk_aio_time_with_storage(BlockAIOCB *acb)
{
    BlkCancelReq *r;

    if (acb->aiocb_info != &blk_cancel_aiocb_info) {
        return -1;
    }
    r = container_of(acb, BlkCancelReq, common);
    return r->state == BLK_CANCEL_ISSUED ? get_clock() - r->issued_ns : -1;
}

/*
 * Submitting
 */

static BlkCancelCtx *blk_cancel_get_ctx(BlkCancel *d, AioContext *aio_context)
{
    unsigned int bucket = ((uintptr_t)aio_context >> 8) %
                          BLK_CANCEL_CTX_BUCKETS;
    BlkCancelCtx *ctx;

    QSLIST_FOREACH_RCU(ctx, &d->ctxs[bucket], next) {
        if (likely(ctx->ctx == aio_context)) {
            return ctx;
        }
    }

    /* Only the thread of @aio_context looks for it, so it cannot come twice. */
    ctx = qemu_memalign(__alignof__(BlkCancelCtx), sizeof(*ctx));
    *ctx = (BlkCancelCtx) { .ctx = aio_context, .d = d };
    QTAILQ_INIT(&ctx->issued);
    QEMU_LOCK_GUARD(&d->lock);
    QSLIST_INSERT_HEAD_RCU(&d->ctxs[bucket], ctx, next);
    qatomic_set(&d->nr_ctxs, d->nr_ctxs + 1);
    return ctx;
}

BlkCancelReq *blk_cancel_new_req(BlkCancel *d, BlkCancelOp op, int64_t offset,
                                 int64_t bytes, QEMUIOVector *qiov,
                                 BdrvRequestFlags flags,
                                 BlockCompletionFunc *cb, void *opaque)
{
    BlkCancelCtx *ctx = blk_cancel_get_ctx(d, qemu_get_current_aio_context());
    BlkCancelReq *r = QSLIST_FIRST(&ctx->unused);

    if (likely(r)) {
        QSLIST_REMOVE_HEAD(&ctx->unused, unused);
        ctx->nr_unused--;
    } else {
        r = g_new(BlkCancelReq, 1);
    }
    r->common = (BlockAIOCB) {
        .aiocb_info = &blk_cancel_aiocb_info,
        .bs = blk_bs(d->blk),
        .cb = cb,
        .opaque = opaque,
        .refcnt = 1,
    };
    r->ctx = ctx;
    r->co = NULL;
    r->op = op;
    r->flags = flags;
    r->offset = offset;
    r->bytes = bytes;
    r->bounced = qiov && bytes && !blk_cancel_is_zone_op(r) &&
                 blk_cancel_buffer_size(bytes) <= qatomic_read_u64(&d->budget);
    r->start_ns = get_clock();
    r->state = BLK_CANCEL_NEW;
    r->has_returned = false;
    r->canceled = false;
    r->throttled = false;
    r->waited = false;
    r->refused = false;
    r->abandoned = false;
    r->ret = 0;
    r->qiov = qiov;
    r->buf = NULL;
    r->lent = false;
    /* Drivers look at an empty vector as well, after the caller's has gone */
    qemu_iovec_init_external(&r->bounce, NULL, 0);
    r->waiter.co = NULL;
    r->waiter.req = r;
    r->waiter.list = NULL;
    r->waiter.offset = offset;
    r->waiter.bytes = bytes;
    return r;
}

void blk_cancel_start(BlkCancelReq *r)
{
    r->co = qemu_coroutine_create(blk_cancel_entry, r);
    aio_co_enter(r->ctx->ctx, r->co);
}

BlockAIOCB *blk_cancel_submit(BlkCancelReq *r)
{
    BlockBackend *blk = r->ctx->d->blk;

    trace_blk_cancel_submit(blk, r, r->common.opaque, r->op, r->offset,
                            r->bytes, r->flags);
    blk_inc_in_flight(blk);
    /* Before it is asked whether it is held; pairs with blk_cancel_hold() */
    smp_mb__after_rmw();
    if (likely(!blk_cancel_waits_to_start(r))) {
        blk_cancel_start(r);
    }

    r->has_returned = true;
    if (r->state == BLK_CANCEL_RETURNED) {
        aio_bh_schedule_oneshot(r->ctx->ctx, blk_cancel_returned_bh, r);
    }
    return &r->common;
}

BlockAIOCB *blk_cancel_aio(BlkCancel *d, CoroutineEntry *entry, int64_t offset,
                           int64_t bytes, QEMUIOVector *qiov,
                           BdrvRequestFlags flags, BlockCompletionFunc *cb,
                           void *opaque)
{
    BlkCancelOp op = entry == blk_aio_read_entry     ? BLK_CANCEL_READ :
                     entry == blk_aio_write_entry    ? BLK_CANCEL_WRITE :
                     entry == blk_aio_pdiscard_entry ? BLK_CANCEL_DISCARD :
                                                       BLK_CANCEL_FLUSH;

    return blk_cancel_submit(blk_cancel_new_req(d, op, offset, bytes, qiov,
                                                flags, cb, opaque));
}
