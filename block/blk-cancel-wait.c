/*
 * Cancellable requests: where a request waits before it is issued
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * In this order: for the end of a drained section, behind what is abandoned
 * (blk-cancel-fence.c), in the throttle queue, and last for a buffer
 * (blk-cancel-buffer.c).  A cancel takes the request off each at once.
 *
 * The order keeps drained sections free of deadlock.  A request parked by one
 * holds nothing yet, and is not counted; all others are, and what they wait for
 * is held by requests that wait further on, or that the storage ends.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "block/block_int.h"
#include "block/throttle-cancel.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"
#include "trace/trace-block_cancel.h"

/*
 * The lists of waiting coroutines
 */

void blk_cancel_unwait_locked(BlkCancel *d, BlkCancelWaiter *w,
                              BlkCancelWaiterList *woken)
{
    if (w->where == WAIT_DRAINED) {
        /* Paired with the decrement in blk_cancel_co_park() */
        blk_inc_in_flight(d->blk);
    }
    if (w->where == WAIT_BUFFER) {
        qatomic_set(&d->nr_buffer_waiters, d->nr_buffer_waiters - 1);
    }
    d->waiting[w->where]--;
    QTAILQ_REMOVE(w->list, w, next);
    w->list = NULL;
    if (woken) {
        QTAILQ_INSERT_TAIL(woken, w, next);
    }
}

/* Context: the thread of the request */
static void blk_cancel_start_bh(void *opaque)
{
    blk_cancel_start(opaque);
}

void blk_cancel_wake(BlkCancelWaiterList *woken)
{
    BlkCancelWaiter *w;

    while ((w = QTAILQ_FIRST(woken))) {
        QTAILQ_REMOVE(woken, w, next);
        if (w->co) {
            aio_co_wake(w->co);
        } else {
            aio_bh_schedule_oneshot(w->req->ctx->ctx, blk_cancel_start_bh,
                                    w->req);
        }
    }
}

void blk_cancel_wake_later(BlkCancelWaiterList *woken)
{
    BlkCancelWaiter *w;

    while ((w = QTAILQ_FIRST(woken))) {
        QTAILQ_REMOVE(woken, w, next);
        aio_co_schedule(qemu_coroutine_get_aio_context(w->co), w->co);
    }
}

void blk_cancel_wait_locked(BlkCancel *d, BlkCancelWaiter *w,
                            BlkCancelWaiterList *list, BlkCancelWait where)
{
    trace_blk_cancel_wait(d->blk, w->req, where, w->offset, w->bytes);
    if (w->req) {
        w->req->waited = true;
    }
    w->where = where;
    w->list = list;
    d->waiting[where]++;
    QTAILQ_INSERT_TAIL(list, w, next);
}

void coroutine_fn blk_cancel_co_wait_unlock(BlkCancel *d, BlkCancelWaiter *w,
                                            BlkCancelWaiterList *list,
                                            BlkCancelWait where)
{
    w->co = qemu_coroutine_self();
    blk_cancel_wait_locked(d, w, list, where);
    qemu_mutex_unlock(&d->lock);
    qemu_coroutine_yield();
}

/*
 * Drained sections, and disks that are held
 */

bool blk_cancel_must_park(BlkCancel *d)
{
    return blk_in_drain(d->blk) || qatomic_read(&d->held);
}

void blk_cancel_park_locked(BlkCancel *d, BlkCancelWaiter *w)
{
    /*
     * Under the lock, so that the section cannot end before the request is on
     * the list.  blk_cancel_unwait_locked() has the increment.
     */
    blk_dec_in_flight(d->blk);
    blk_cancel_wait_locked(d, w, &d->parked, WAIT_DRAINED);
}

/*
 * Park a request that comes in a drained section or while its disk is held,
 * before it holds anything: the section waits for whoever waits for what it
 * would hold.
 */
static void coroutine_fn blk_cancel_co_park(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);

    qemu_mutex_lock(&d->lock);
    if (!blk_cancel_must_park(d)) {
        qemu_mutex_unlock(&d->lock);
        return;
    }
    /* Those that wait for it to end must not have the section wait for them */
    blk_cancel_start_waiters_locked(d, &woken);
    r->waiter.co = qemu_coroutine_self();
    blk_cancel_park_locked(d, &r->waiter);
    qemu_mutex_unlock(&d->lock);
    blk_cancel_wake(&woken);
    qemu_coroutine_yield();
}

void blk_cancel_drained_end(BlkCancel *d)
{
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);
    BlkCancelWaiter *w;

    if (!d || blk_in_drain(d->blk) || qatomic_read(&d->held)) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        while ((w = QTAILQ_FIRST(&d->parked))) {
            blk_cancel_unwait_locked(d, w, w->co ? &woken : NULL);
            if (!w->co) {
                blk_cancel_wait_locked(d, w, &d->for_end, WAIT_DAMPER);
            }
        }
        blk_cancel_start_waiters_locked(d, &woken);
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
    if (r->op != BLK_CANCEL_READ && r->op != BLK_CANCEL_WRITE) {
        return;
    }
    r->throttled = true;
    r->waited = true;
    throttle_group_co_intercept(r->ctx->d->tgm, r->bytes,
                                blk_cancel_direction(r), &r->canceled);
    r->throttled = false;
}

void coroutine_fn blk_cancel_co_admit(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;

    if (unlikely(blk_cancel_must_park(d))) {
        blk_cancel_co_park(r);
    }
    if (!r->canceled) {
        blk_cancel_co_pass_fence(d, &r->waiter);
    }
    if (unlikely(d->tgm->throttle_state) && !r->canceled) {
        blk_cancel_co_throttle(r);
    }
    if (r->bounced && !r->canceled) {
        blk_cancel_co_get_buffer(r);
    }
}

bool blk_cancel_unwait(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;

    if (r->throttled) {
        return throttle_group_co_remove(d->tgm, r->co, blk_cancel_direction(r));
    }

    QEMU_LOCK_GUARD(&d->lock);
    if (!r->waiter.list) {
        return false;
    }
    blk_cancel_unwait_locked(d, &r->waiter, NULL);
    return true;
}
