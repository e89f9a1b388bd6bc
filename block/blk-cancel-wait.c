/*
 * Cancellable requests: where a request waits before it is issued
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * In this order: for the end of a drained section, for a bounce buffer within
 * the budget, at the fence, for a slot with the storage, in the throttle
 * queue.  Each wait is a list from which a cancel takes the request at once.
 *
 * The order keeps drained sections free of deadlock.  A request parked by one
 * holds nothing yet; all others count as in flight, and what they wait for is
 * held by requests that wait further on, or that the storage ends.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/range.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"
#include "trace.h"

/* Bounce buffer that the request takes out of the budget. */
static uint64_t blk_cancel_cost(BlkCancelReq *r)
{
    return r->bounced ? blk_cancel_pool_size(r->bytes) : 0;
}

/* Whether @r, which holds nothing yet, must not go on. */
static bool blk_cancel_must_park(BlkCancelReq *r)
{
    return blk_in_drain(r->d->blk) ||
           (qatomic_read(&blk_cancel_gate_closed) && !r->probe);
}

/*
 * The lists of waiting coroutines
 */

/* Called with d->lock held.  The caller wakes @w once it has released it. */
static void blk_cancel_unwait_locked(BlkCancel *d, BlkCancelWaiter *w,
                                     BlkCancelWaiterList *woken)
{
    if (w->where == WAIT_BUFFER || w->where == WAIT_SLOT) {
        qatomic_dec(&d->nr_waiting);
    }
    if (w->where == WAIT_DRAINED) {
        /* Paired with the decrement in blk_cancel_co_wait_drained() */
        blk_inc_in_flight(d->blk);
    }
    QTAILQ_REMOVE(&d->waiting[w->where], w, next);
    w->where = WAIT_NOT;
    if (woken) {
        QTAILQ_INSERT_TAIL(woken, w, next);
    }
}

/* Each waiter may be gone once it has been woken. */
static void blk_cancel_wake(BlkCancelWaiterList *woken)
{
    BlkCancelWaiter *w;

    while ((w = QTAILQ_FIRST(woken))) {
        QTAILQ_REMOVE(woken, w, next);
        aio_co_wake(w->co);
    }
}

/*
 * Called with d->lock held, which is released while waiting and not taken
 * again.  The waiter is off its list when this returns: what it waited for has
 * been given to it, or it was cancelled.
 */
static void coroutine_fn
blk_cancel_co_wait_unlock(BlkCancel *d, BlkCancelWaiter *w, BlkCancelWait where)
{
    trace_blk_cancel_wait(d->blk, w->req, where, w->offset, w->bytes);
    if (w->req) {
        w->req->waited = true;
    }
    w->co = qemu_coroutine_self();
    w->where = where;
    QTAILQ_INSERT_TAIL(&d->waiting[where], w, next);
    qemu_mutex_unlock(&d->lock);
    qemu_coroutine_yield();
}

void blk_cancel_init_waiter(BlkCancelWaiter *w, BlkCancelReq *r,
                            int64_t offset, int64_t bytes)
{
    *w = (BlkCancelWaiter) {
        .req    = r,
        .where  = WAIT_NOT,
        .offset = offset,
        .bytes  = bytes,
    };
}

/*
 * The budget: bytes of bounce buffer, and slots with the storage
 */

static bool blk_cancel_take_bytes(BlkCancel *d, uint64_t bytes)
{
    uint64_t old, used = qatomic_read(&d->budget_used);

    do {
        old = used;
        if (bytes > d->opts.budget - old) {
            return false;
        }
        used = qatomic_cmpxchg(&d->budget_used, old, old + bytes);
    } while (used != old);
    return true;
}

/*
 * While nothing is abandoned the storage answers, and the guest's virtqueues
 * are limit enough.  Otherwise leave threads and events to other disks.
 */
static bool blk_cancel_slot_free(BlkCancel *d, BlkCancelCtx *dctx)
{
    return !qatomic_read(&d->nr_abandoned) ||
           (qatomic_read(&d->issued) < d->opts.max_requests &&
            qatomic_read(&dctx->issued) < d->opts.ctx_quota);
}

static void blk_cancel_take_slot(BlkCancelReq *r)
{
    r->has_slot = true;
    qatomic_inc(&r->d->issued);
    qatomic_inc(&r->dctx->issued);
}

/*
 * Called with d->lock held.  Buffers are handed out in the order in which they
 * were asked for, so that large requests get theirs; slots go to the oldest
 * waiter whose AioContext has one.
 */
static void blk_cancel_hand_out_locked(BlkCancel *d, BlkCancelWaiterList *woken)
{
    BlkCancelWaiter *w, *next_w;

    while ((w = QTAILQ_FIRST(&d->waiting[WAIT_BUFFER])) &&
           blk_cancel_take_bytes(d, blk_cancel_cost(w->req))) {
        w->req->charged = true;
        blk_cancel_unwait_locked(d, w, woken);
    }

    QTAILQ_FOREACH_SAFE(w, &d->waiting[WAIT_SLOT], next, next_w) {
        if (blk_cancel_slot_free(d, w->req->dctx)) {
            blk_cancel_take_slot(w->req);
            blk_cancel_unwait_locked(d, w, woken);
        }
    }
}

static void blk_cancel_hand_out(BlkCancel *d)
{
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);
    BlkCancelWaiter *w;

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        blk_cancel_hand_out_locked(d, &woken);
    }

    /*
     * Not at once: this may be inside a cancel, whose caller may be walking a
     * list of requests, and does not expect others to end.
     */
    while ((w = QTAILQ_FIRST(&woken))) {
        QTAILQ_REMOVE(&woken, w, next);
        aio_co_schedule(qemu_coroutine_get_aio_context(w->co), w->co);
    }
}

void blk_cancel_release(BlkCancelReq *r)
{
    BlkCancel *d = r->d;

    if (r->buf) {
        blk_cancel_pool_put(&r->dctx->pool, r->buf, r->bytes);
    }
    if (r->charged) {
        qatomic_sub(&d->budget_used, blk_cancel_cost(r));
    }
    if (r->has_slot) {
        qatomic_dec(&r->dctx->issued);
        qatomic_dec(&d->issued);
    }

    /* Pairs with the one in blk_cancel_co_wait_budget(). */
    smp_mb();
    if (qatomic_read(&d->nr_waiting)) {
        blk_cancel_hand_out(d);
    }
}

/*
 * Called with d->lock held.  Bytes go to those that have waited longer first;
 * those that wait for a slot may all be of other AioContexts.
 */
static bool blk_cancel_try_take_locked(BlkCancelReq *r, BlkCancelWait where)
{
    BlkCancel *d = r->d;

    if (where == WAIT_BUFFER) {
        r->charged = QTAILQ_EMPTY(&d->waiting[WAIT_BUFFER]) &&
                     blk_cancel_take_bytes(d, blk_cancel_cost(r));
        return r->charged;
    }
    if (blk_cancel_slot_free(d, r->dctx)) {
        blk_cancel_take_slot(r);
    }
    return r->has_slot;
}

/* Wait in WAIT_BUFFER for bytes, or in WAIT_SLOT for a slot. */
static void coroutine_fn
blk_cancel_co_wait_budget(BlkCancelReq *r, BlkCancelWait where)
{
    BlkCancel *d = r->d;
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);

    qemu_mutex_lock(&d->lock);
    qatomic_inc(&d->nr_waiting);

    /*
     * Either we see what has been released just now, or who released it sees
     * that we are waiting; pairs with the one in blk_cancel_release().
     */
    smp_mb();
    if (blk_cancel_try_take_locked(r, where)) {
        qatomic_dec(&d->nr_waiting);
        qemu_mutex_unlock(&d->lock);
        return;
    }
    blk_cancel_co_wait_unlock(d, &r->waiter, where);
}

/* Get the bounce buffer, which has been charged, and copy a write's data. */
static void blk_cancel_fill_buffer(BlkCancelReq *r)
{
    size_t align = bdrv_opt_mem_align(blk_bs(r->d->blk));

    r->buf = blk_cancel_pool_get(&r->dctx->pool, r->bytes, align);
    if (!r->buf) {
        r->ret = -ENOMEM;
        return;
    }
    qemu_iovec_init_buf(&r->bounce, r->buf, r->bytes);
    if (r->op == BLK_CANCEL_WRITE) {
        qemu_iovec_to_buf(r->qiov, 0, r->buf, r->bytes);
    }
}

void blk_cancel_try_buffer(BlkCancelReq *r)
{
    BlkCancel *d = r->d;

    if (r->bounced && !blk_cancel_must_park(r) &&
        !qatomic_read(&d->nr_waiting) &&
        blk_cancel_take_bytes(d, blk_cancel_cost(r))) {
        r->charged = true;
        blk_cancel_fill_buffer(r);
    }
}

static void coroutine_fn blk_cancel_co_get_buffer(BlkCancelReq *r)
{
    if (!r->bounced || r->charged || r->canceled) {
        return;
    }
    blk_cancel_co_wait_budget(r, WAIT_BUFFER);
    if (!r->canceled) {
        blk_cancel_fill_buffer(r);
    }
}

static void coroutine_fn blk_cancel_co_get_slot(BlkCancelReq *r)
{
    if (r->canceled || r->ret < 0) {
        return;
    }
    if (!qatomic_read(&r->d->nr_abandoned)) {
        blk_cancel_take_slot(r);
        return;
    }
    blk_cancel_co_wait_budget(r, WAIT_SLOT);
}

/*
 * The fence
 */

static bool blk_cancel_in_the_way(BlkCancelReq *r, BlkCancelWaiter *w)
{
    return blk_cancel_changes_disk(r) && r->bytes && r->seq <= w->seq &&
           ranges_overlap(r->offset, r->bytes, w->offset, w->bytes);
}

static void coroutine_fn blk_cancel_co_pass_fence(BlkCancel *d,
                                                  BlkCancelWaiter *w)
{
    BlkCancelReq *r;

    /*
     * A range is entered before the guest can know that its request was
     * cancelled, and so before a request that must wait is made available.
     */
    if (likely(!qatomic_load_acquire(&d->nr_fences)) || !w->bytes) {
        return;
    }

    qemu_mutex_lock(&d->lock);
    w->seq = d->seq;
    w->blockers = 0;
    QTAILQ_FOREACH(r, &d->abandoned, next) {
        w->blockers += blk_cancel_in_the_way(r, w);
    }
    if (!w->blockers) {
        qemu_mutex_unlock(&d->lock);
        return;
    }
    blk_cancel_co_wait_unlock(d, w, WAIT_FENCE);
}

void coroutine_fn blk_cancel_co_wait_fence(BlkCancel *d, int64_t offset,
                                           int64_t bytes)
{
    BlkCancelWaiter w;

    blk_cancel_init_waiter(&w, NULL, offset, bytes);
    blk_cancel_co_pass_fence(d, &w);
}

/* Called with d->lock held, @r has finished. */
static void blk_cancel_unblock_locked(BlkCancelReq *r,
                                      BlkCancelWaiterList *woken)
{
    BlkCancel *d = r->d;
    BlkCancelWaiter *w, *next_w;

    QTAILQ_FOREACH_SAFE(w, &d->waiting[WAIT_FENCE], next, next_w) {
        if (blk_cancel_in_the_way(r, w) && --w->blockers == 0) {
            blk_cancel_unwait_locked(d, w, woken);
        }
    }
}

void blk_cancel_enter_abandoned(BlkCancelReq *r)
{
    BlkCancel *d = r->d;

    QEMU_LOCK_GUARD(&d->lock);
    blk_cancel_stats_enter_locked(r);
    r->abandoned = true;
    r->seq = ++d->seq;
    QTAILQ_INSERT_TAIL(&d->abandoned, r, next);
    qatomic_set(&d->nr_abandoned, d->nr_abandoned + 1);
    if (blk_cancel_changes_disk(r)) {
        qatomic_store_release(&d->nr_fences, d->nr_fences + 1);
    }
}

void blk_cancel_leave_abandoned(BlkCancelReq *r)
{
    BlkCancel *d = r->d;
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        blk_cancel_stats_leave_locked(r);
        QTAILQ_REMOVE(&d->abandoned, r, next);
        qatomic_set(&d->nr_abandoned, d->nr_abandoned - 1);
        if (blk_cancel_changes_disk(r)) {
            qatomic_set(&d->nr_fences, d->nr_fences - 1);
            blk_cancel_unblock_locked(r, &woken);
        }
    }
    blk_cancel_wake(&woken);
}

/*
 * Drained sections, and the gate
 */

/*
 * Park a request that comes in a drained section or at the closed gate, before
 * it holds anything: the section waits for whoever waits for what it would
 * hold.
 */
static void coroutine_fn blk_cancel_co_wait_drained(BlkCancelReq *r)
{
    BlkCancel *d = r->d;

    if (likely(r->charged || !blk_cancel_must_park(r))) {
        return;
    }

    qemu_mutex_lock(&d->lock);
    if (!blk_cancel_must_park(r)) {
        qemu_mutex_unlock(&d->lock);
        return;
    }
    /*
     * Under the lock, so that the section cannot end before the request is on
     * the list.  blk_cancel_unwait_locked() has the increment.
     */
    blk_dec_in_flight(d->blk);
    blk_cancel_co_wait_unlock(d, &r->waiter, WAIT_DRAINED);
}

void blk_cancel_drained_end(BlkCancel *d)
{
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);
    BlkCancelWaiter *w, *next_w;

    if (!d || blk_in_drain(d->blk) || qatomic_read(&blk_cancel_gate_closed)) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        QTAILQ_FOREACH_SAFE(w, &d->waiting[WAIT_DRAINED], next, next_w) {
            blk_cancel_unwait_locked(d, w, &woken);
        }
    }
    blk_cancel_wake(&woken);
}

/*
 * The throttle queue
 */

static ThrottleDirection blk_cancel_direction(BlkCancelReq *r)
{
    return r->op == BLK_CANCEL_READ ? THROTTLE_READ : THROTTLE_WRITE;
}

/* As in blk_co_do_preadv_part(), but outside the graph lock. */
static void coroutine_fn blk_cancel_co_throttle(BlkCancelReq *r)
{
    ThrottleGroupMember *tgm = r->d->tgm;

    if (r->canceled || r->ret < 0 || !tgm->throttle_state ||
        (r->op != BLK_CANCEL_READ && r->op != BLK_CANCEL_WRITE)) {
        return;
    }
    r->throttled = true;
    r->waited = true;
    throttle_group_co_intercept(tgm, r->bytes, blk_cancel_direction(r),
                                &r->canceled);
    r->throttled = false;
}

void coroutine_fn blk_cancel_co_admit(BlkCancelReq *r)
{
    blk_cancel_co_wait_drained(r);
    blk_cancel_co_get_buffer(r);
    if (!r->canceled) {
        blk_cancel_co_pass_fence(r->d, &r->waiter);
    }
    blk_cancel_co_get_slot(r);
    blk_cancel_co_throttle(r);
}

bool blk_cancel_unwait(BlkCancelReq *r)
{
    BlkCancel *d = r->d;

    if (r->throttled) {
        return throttle_group_co_remove(d->tgm, r->waiter.co,
                                        blk_cancel_direction(r));
    }

    QEMU_LOCK_GUARD(&d->lock);
    if (r->waiter.where == WAIT_NOT) {
        return false;
    }
    blk_cancel_unwait_locked(d, &r->waiter, NULL);
    return true;
}
