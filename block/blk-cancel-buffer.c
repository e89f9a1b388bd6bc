/*
 * Cancellable requests: the buffers that data goes through
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The storage may touch a request's memory long after the guest has it back, so
 * it gets memory of ours.  Allocating and freeing that for each request costs
 * more than copying: large buffers are mapped and unmapped each time.  So each
 * AioContext keeps a few, and what has been charged to the budget for them.
 * Only where that does not do threads meet, at a lock.
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/rcu_queue.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "block/host-limits.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"

#define MIN_SIZE        (4 * KiB)
#define MAX_POW2_SIZE   (1 * MiB)
#define MAX_SIZE        (1280 * KiB)    /* Linux' largest, as a rule */

#define MAX_SPARE       (64 * MiB)      /* of one AioContext */
#define COPY_SIZE       (4 * MiB)       /* before others get their turn */

uint64_t blk_cancel_buffer_size(uint64_t bytes)
{
    if (bytes > MAX_POW2_SIZE) {
        return bytes <= MAX_SIZE ? MAX_SIZE : ROUND_UP(bytes, MIN_SIZE);
    }
    return bytes <= MIN_SIZE ? MIN_SIZE : pow2ceil(bytes);
}

/*
 * Idle buffers.  Owned by the thread of the AioContext.
 */

/* @size: from blk_cancel_buffer_size(), MAX_SIZE at most */
static unsigned int size_class(uint64_t size)
{
    return size == MAX_SIZE ? BLK_CANCEL_POOL_CLASSES - 1
                            : ctz64(size) - ctz64(MIN_SIZE);
}

static void *idle_pop(BlkCancelCtx *ctx, uint64_t size)
{
    void **first, *buf;

    if (size > MAX_SIZE) {
        return NULL;
    }
    first = &ctx->idle[size_class(size)];
    buf = *first;
    if (buf) {
        memcpy(first, buf, sizeof(*first));
        ctx->idle_bytes -= size;
    }
    return buf;
}

static void idle_push(BlkCancelCtx *ctx, void *buf, uint64_t size)
{
    void **first = &ctx->idle[size_class(size)];

    memcpy(buf, first, sizeof(*first));
    *first = buf;
    ctx->idle_bytes += size;
}

/* Free the largest until they have @bytes at most. */
static void idle_shrink(BlkCancelCtx *ctx, uint64_t bytes)
{
    static const uint64_t size_of[BLK_CANCEL_POOL_CLASSES] = {
        4 * KiB, 8 * KiB, 16 * KiB, 32 * KiB, 64 * KiB,
        128 * KiB, 256 * KiB, 512 * KiB, 1 * MiB, MAX_SIZE,
    };

    for (int i = BLK_CANCEL_POOL_CLASSES - 1; i >= 0; i--) {
        while (ctx->idle_bytes > bytes && ctx->idle[i]) {
            qemu_vfree(idle_pop(ctx, size_of[i]));
        }
    }
}

void blk_cancel_free_idle(BlkCancelCtx *ctx)
{
    idle_shrink(ctx, 0);
}

/* A driver that does not fill it must not show the guest QEMU's memory. */
static void *new_buffer(BlkCancelReq *r, uint64_t size)
{
    size_t align = MAX(bdrv_opt_mem_align(blk_bs(r->ctx->d->blk)),
                       qemu_real_host_page_size());
    void *buf = host_has_addresses(BLK_CANCEL_START_ROOM + size)
                ? qemu_try_memalign(align, size) : NULL;

    return buf ? memset(buf, 0, size) : NULL;
}

/*
 * The budget
 */

/* Called with d->lock held. */
static bool charge_locked(BlkCancel *d, uint64_t bytes)
{
    uint64_t budget = qatomic_read_u64(&d->budget);

    if (d->charged > budget || bytes > budget - d->charged) {
        return false;
    }
    d->charged += bytes;
    return true;
}

/*
 * Called with d->lock held.  In the order in which they were asked for, so that
 * large requests get theirs.
 */
static void hand_out_locked(BlkCancel *d, BlkCancelWaiterList *woken)
{
    BlkCancelWaiter *w;

    while ((w = QTAILQ_FIRST(&d->for_buffer)) &&
           charge_locked(d, blk_cancel_buffer_size(w->bytes))) {
        w->granted = true;
        blk_cancel_unwait_locked(d, w, woken);
    }
}

/* Context: the thread of @ctx->ctx.  Keep @keep bytes for what comes next. */
static void give_back(BlkCancelCtx *ctx, uint64_t keep)
{
    BlkCancel *d = ctx->d;
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);

    idle_shrink(ctx, keep);
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        if (ctx->spare > keep) {
            d->charged -= ctx->spare - keep;
            qatomic_set_u64(&ctx->spare, keep);
        }
        hand_out_locked(d, &woken);
    }

    /*
     * Not at once: this may be inside a cancel, whose caller may be walking a
     * list of requests, and does not expect others to end.
     */
    blk_cancel_wake_later(&woken);
}

static void give_back_bh(void *opaque)
{
    BlkCancelCtx *ctx = opaque;
    BlockBackend *blk = ctx->d->blk;

    give_back(ctx, 0);
    blk_dec_in_flight(blk);
}

/* Called with d->lock held: somebody waits; what others keep is needed. */
static void ask_for_spare_locked(BlkCancel *d)
{
    BlkCancelCtx *ctx;

    for (int i = 0; i < BLK_CANCEL_CTX_BUCKETS; i++) {
        QSLIST_FOREACH(ctx, &d->ctxs[i], next) {
            blk_inc_in_flight(d->blk);
            aio_bh_schedule_oneshot(ctx->ctx, give_back_bh, ctx);
        }
    }
}

/* Half of the budget is nobody's, so that a thread that needs more finds it. */
static uint64_t max_spare(BlkCancel *d)
{
    return MIN(MAX_SPARE, qatomic_read_u64(&d->budget) / 2 /
                          qatomic_read(&d->nr_ctxs));
}

static void uncharge(BlkCancelCtx *ctx, uint64_t size)
{
    uint64_t max = max_spare(ctx->d);

    qatomic_set_u64(&ctx->spare, ctx->spare + size);
    if (unlikely(qatomic_read(&ctx->d->nr_buffer_waiters))) {
        give_back(ctx, 0);
    } else if (unlikely(ctx->spare > max)) {
        give_back(ctx, max - max / 8);
    }
}

/* Returns: false if @r has been cancelled meanwhile. */
static bool coroutine_fn co_charge_slow(BlkCancelReq *r, uint64_t size)
{
    BlkCancel *d = r->ctx->d;

    qemu_mutex_lock(&d->lock);
    if (QTAILQ_EMPTY(&d->for_buffer) && charge_locked(d, size)) {
        qemu_mutex_unlock(&d->lock);
        return true;
    }
    /* Who does not see this gets the bottom half later */
    qatomic_set(&d->nr_buffer_waiters, d->nr_buffer_waiters + 1);
    ask_for_spare_locked(d);
    r->waiter.granted = false;
    blk_cancel_co_wait_unlock(d, &r->waiter, &d->for_buffer, WAIT_BUFFER);
    if (!r->canceled) {
        return true;
    }
    if (r->waiter.granted) {
        uncharge(r->ctx, size);
    } else {
        /* Those behind it may fit */
        give_back(r->ctx, r->ctx->spare);
    }
    return false;
}

static bool coroutine_fn co_charge(BlkCancelReq *r, uint64_t size)
{
    BlkCancelCtx *ctx = r->ctx;

    if (likely(ctx->spare >= size &&
               !qatomic_read(&ctx->d->nr_buffer_waiters))) {
        qatomic_set_u64(&ctx->spare, ctx->spare - size);
        return true;
    }
    return co_charge_slow(r, size);
}

uint64_t blk_cancel_budget_used_locked(BlkCancel *d)
{
    uint64_t used = d->charged;
    BlkCancelCtx *ctx;

    for (int i = 0; i < BLK_CANCEL_CTX_BUCKETS; i++) {
        QSLIST_FOREACH(ctx, &d->ctxs[i], next) {
            used -= MIN(used, qatomic_read_u64(&ctx->spare));
        }
    }
    return used;
}

/* The machine's: what many disks that hang together may take */
static uint64_t machine_budget = BLK_CANCEL_MACHINE_BUDGET; /* BQL */

void blk_cancel_share_budget(void)
{
    BlkCancel *d = NULL;
    unsigned int n = 0;

    while ((d = blk_cancel_next(d))) {
        n++;
    }
    while ((d = blk_cancel_next(d))) {
        uint64_t share = MAX(machine_budget / n, BLK_CANCEL_MIN_SHARE);

        qatomic_set_u64(&d->budget, MIN(d->opts.budget, share));
    }
}

uint64_t blk_cancel_machine_budget(void)
{
    GLOBAL_STATE_CODE();
    return machine_budget;
}

void blk_cancel_set_machine_budget(uint64_t bytes)
{
    GLOBAL_STATE_CODE();
    machine_budget = bytes;
    blk_cancel_share_budget();
}

/*
 * A request's buffer
 */

/* A large copy lets others have their turn.  The request can be cancelled. */
static void coroutine_fn co_pause(BlkCancelReq *r)
{
    r->waited = true;
    aio_co_schedule(r->ctx->ctx, r->co);
    qemu_coroutine_yield();
}

/* Copy all data between the caller's memory and ours. */
static void coroutine_fn co_copy(BlkCancelReq *r, bool to_caller)
{
    for (uint64_t done = 0; done < r->bytes; done += COPY_SIZE) {
        uint64_t bytes = MIN(r->bytes - done, COPY_SIZE);

        if (done) {
            co_pause(r);
            if (r->canceled) {
                return;
            }
        }
        if (to_caller) {
            qemu_iovec_from_buf(r->qiov, done, r->buf + done, bytes);
        } else {
            qemu_iovec_to_buf(r->qiov, done, r->buf + done, bytes);
        }
    }
}

void coroutine_fn blk_cancel_co_copy_out(BlkCancelReq *r)
{
    /* With the storage no more: a cancel while it pauses ends the copy */
    r->state = BLK_CANCEL_WAITING;
    co_copy(r, true);
}

void coroutine_fn blk_cancel_co_use_buffer(BlkCancelReq *r)
{
    uint64_t size = blk_cancel_buffer_size(r->bytes);

    r->buf = idle_pop(r->ctx, size);
    if (unlikely(!r->buf)) {
        /* What is idle has been charged for; another size has it now */
        idle_shrink(r->ctx, r->ctx->spare);
        r->buf = new_buffer(r, size);
    }
    if (unlikely(!r->buf)) {
        r->bounced = false;
        uncharge(r->ctx, size);
        return;
    }
    qemu_iovec_init_buf(&r->bounce, r->buf, r->bytes);
    if (r->op == BLK_CANCEL_WRITE) {
        co_copy(r, false);
    }
}

void coroutine_fn blk_cancel_co_get_buffer(BlkCancelReq *r)
{
    if (!co_charge(r, blk_cancel_buffer_size(r->bytes))) {
        return;
    }
    if (likely(!r->ctx->d->opts.swap) || !blk_cancel_co_lend(r)) {
        blk_cancel_co_use_buffer(r);
    }
}

void blk_cancel_uncharge(BlkCancelReq *r)
{
    uncharge(r->ctx, blk_cancel_buffer_size(r->bytes));
}

void blk_cancel_put_buffer(BlkCancelReq *r)
{
    uint64_t size = blk_cancel_buffer_size(r->bytes);

    if (size <= MAX_SIZE) {
        idle_push(r->ctx, r->buf, size);
    } else {
        qemu_vfree(r->buf);
    }
    uncharge(r->ctx, size);
}
