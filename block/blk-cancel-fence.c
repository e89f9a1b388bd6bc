/*
 * Cancellable requests: the fence, and the damper
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An abandoned request that changes the disk fences its range: a request that
 * comes later and overlaps it waits until it has ended.
 *
 * Whatever is abandoned hangs, and so will others that ask for the same.  A
 * guest that tries again and again would fill threads, slots of a connection
 * and memory with them, until the part of the disk that works stops as well.
 * So a region of the disk where several hang takes no more, until one of them
 * has ended.  The rest of the disk goes on, until so many hang that the host's
 * memory is at stake.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "block/block_int.h"
#include "block/host-limits.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"

/* Flushes do not hang because of some range. */
#define REGION_FLUSH    UINT64_MAX

/* Protected by BlkCancel.lock; exists while it has entries */
typedef struct BlkCancelRegion {
    uint64_t number;
    unsigned int nr_abandoned;
    BlkCancelWaiterList waiters;
} BlkCancelRegion;

/*
 * The fence
 */

/* Called with d->lock held.  Returns: an abandoned request in @w's way. */
static BlkCancelReq *fence_blocker_locked(BlkCancel *d, BlkCancelWaiter *w)
{
    uint64_t last = w->offset + w->bytes - 1;
    IntervalTreeNode *node;

    for (node = interval_tree_iter_first(&d->fences, w->offset, last); node;
         node = interval_tree_iter_next(node, w->offset, last)) {
        BlkCancelReq *r = container_of(node, BlkCancelReq, range);

        if (r->seq <= w->seq) {
            return r;
        }
    }
    return NULL;
}

/* Called with d->lock held: those behind @r go on, or wait behind another. */
static void fence_unblock_locked(BlkCancelReq *r, BlkCancelWaiterList *woken)
{
    BlkCancel *d = r->ctx->d;
    BlkCancelWaiter *w;

    while ((w = QTAILQ_FIRST(&r->behind))) {
        BlkCancelReq *blocker = fence_blocker_locked(d, w);

        if (blocker) {
            QTAILQ_REMOVE(w->list, w, next);
            w->list = &blocker->behind;
            QTAILQ_INSERT_TAIL(w->list, w, next);
        } else {
            blk_cancel_unwait_locked(d, w, woken);
        }
    }
}

/*
 * The damper
 */

static uint64_t region_number(BlkCancel *d, BlkCancelWaiter *w)
{
    return w->req->op == BLK_CANCEL_FLUSH ? REGION_FLUSH
                                          : w->offset / d->opts.region;
}

/* Called with d->lock held. */
static bool region_is_full_locked(BlkCancel *d, BlkCancelRegion *region)
{
    bool tight = d->abandoned_cost > qatomic_read_u64(&d->budget) / 2 ||
                 d->nr_abandoned >= d->opts.max_abandoned / 8;

    return region->nr_abandoned >= (tight ? 1 : d->opts.damper);
}

/* Called with d->lock held. */
static void region_enter_locked(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;
    uint64_t number = region_number(d, &r->waiter);
    BlkCancelRegion *region = g_hash_table_lookup(d->regions, &number);

    if (!region) {
        region = g_new0(BlkCancelRegion, 1);
        region->number = number;
        QTAILQ_INIT(&region->waiters);
        g_hash_table_insert(d->regions, &region->number, region);
    }
    region->nr_abandoned++;
}

/* Called with d->lock held: for each that ends one more may try. */
static void region_leave_locked(BlkCancelReq *r, BlkCancelWaiterList *woken)
{
    BlkCancel *d = r->ctx->d;
    uint64_t number = region_number(d, &r->waiter);
    BlkCancelRegion *region = g_hash_table_lookup(d->regions, &number);
    BlkCancelWaiter *w;

    region->nr_abandoned--;
    while ((w = QTAILQ_FIRST(&region->waiters))) {
        blk_cancel_unwait_locked(d, w, woken);
        if (region->nr_abandoned) {
            return;
        }
    }
    if (!region->nr_abandoned) {
        g_hash_table_remove(d->regions, &number);
    }
}

/* @w: a request of ours.  One that asks for nothing hangs nowhere. */
static void coroutine_fn damper_co_pass(BlkCancel *d, BlkCancelWaiter *w)
{
    uint64_t number = region_number(d, w);
    BlkCancelRegion *region;

    if (!w->bytes && w->req->op != BLK_CANCEL_FLUSH) {
        return;
    }
    qemu_mutex_lock(&d->lock);
    region = g_hash_table_lookup(d->regions, &number);
    if (!region || !region_is_full_locked(d, region)) {
        qemu_mutex_unlock(&d->lock);
        return;
    }
    blk_cancel_co_wait_unlock(d, w, &region->waiters, WAIT_DAMPER);
}

/*
 * All together: each has a coroutine, and QEMU ends where there is nothing for
 * the stack of one.  A stack is 1 MiB of addresses, and two of the mappings
 * that the host allows a process; little of it is memory.
 */

/* Mappings that others have */
#define MAPS_OF_OTHERS  5000

/* What a stack may take of the memory that a control group allows */
#define STACK_MEMORY    (32 * KiB)
#define STACKS_PART     16

/* A disk may have so many however little there is */
#define MIN_STARTED     8

static unsigned int nr_all;             /* abandoned of all engines; atomic */
static unsigned int max_all;            /* set once; 0: not yet */

static unsigned int find_max_all(void)
{
    g_autofree char *contents = NULL;
    const char *end;
    uint64_t memory = MIN(host_cgroup_room("memory", "memory.max", NULL),
                          host_cgroup_room("memory", "memory.limit_in_bytes",
                                           NULL));
    unsigned int max = MIN(memory / STACKS_PART / STACK_MEMORY, UINT_MAX);
    int maps;

    /* A third of the stacks is for requests that are not abandoned */
    if (g_file_get_contents("/proc/sys/vm/max_map_count", &contents, NULL,
                            NULL) &&
        qemu_strtoi(contents, &end, 10, &maps) == 0) {
        max = MIN(max, MAX(maps - MAPS_OF_OTHERS, MAPS_OF_OTHERS) / 3);
    }
    return MAX(max, 1);
}

void blk_cancel_find_limits(BlkCancel *d)
{
    if (!max_all) {
        max_all = find_max_all();
    }
    d->free_starts = host_limits_addresses() ? 0 : d->opts.max_abandoned;
}

bool blk_cancel_is_full(void)
{
    return qatomic_read(&nr_all) >= max_all ||
           !host_has_addresses(BLK_CANCEL_CANCEL_ROOM);
}

/* Called with d->lock held. */
static bool may_start_locked(BlkCancel *d)
{
    return d->nr_abandoned < d->opts.max_abandoned &&
           (d->free_starts || d->nr_started - d->nr_abandoned < MIN_STARTED ||
            host_has_addresses(BLK_CANCEL_START_ROOM));
}

void blk_cancel_start_waiters_locked(BlkCancel *d, BlkCancelWaiterList *woken)
{
    BlkCancelWaiter *w;

    if (blk_cancel_must_park(d)) {
        /* Those that are parked have their coroutines until it need not */
        while ((w = QTAILQ_FIRST(&d->for_end))) {
            blk_cancel_unwait_locked(d, w, NULL);
            blk_cancel_park_locked(d, w);
        }
    }
    while ((w = QTAILQ_FIRST(&d->for_end)) && may_start_locked(d)) {
        d->nr_started += !d->free_starts;
        blk_cancel_unwait_locked(d, w, woken);
    }
}

bool blk_cancel_waits_to_start(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;

    if (likely(qatomic_read(&d->nr_abandoned) < d->free_starts)) {
        return false;
    }

    QEMU_LOCK_GUARD(&d->lock);
    if (blk_cancel_must_park(d)) {
        blk_cancel_park_locked(d, &r->waiter);
        return true;
    }
    if (QTAILQ_EMPTY(&d->for_end) && may_start_locked(d)) {
        d->nr_started += !d->free_starts;
        return false;
    }
    blk_cancel_wait_locked(d, &r->waiter, &d->for_end, WAIT_DAMPER);
    return true;
}

void blk_cancel_end_started(BlkCancel *d)
{
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        d->nr_started--;
        blk_cancel_start_waiters_locked(d, &woken);
    }
    blk_cancel_wake(&woken);
}

/*
 * Both
 */

void coroutine_fn blk_cancel_co_pass_fence(BlkCancel *d, BlkCancelWaiter *w)
{
    BlkCancelReq *blocker;

    /*
     * A request is entered before the guest can know that it was cancelled, and
     * so before one that must wait behind it is made available.
     */
    if (likely(!qatomic_load_acquire(&d->nr_abandoned))) {
        return;
    }

    qemu_mutex_lock(&d->lock);
    w->seq = d->seq;
    blocker = w->bytes ? fence_blocker_locked(d, w) : NULL;
    if (blocker) {
        blk_cancel_co_wait_unlock(d, w, &blocker->behind, WAIT_FENCE);
    } else {
        qemu_mutex_unlock(&d->lock);
    }
    if (w->req && !w->req->canceled) {
        damper_co_pass(d, w);
    }
}

void coroutine_fn blk_cancel_co_wait_fence(BlkCancel *const *d, int64_t offset,
                                           int64_t bytes)
{
    BlkCancelWaiter w = { .offset = offset, .bytes = bytes };

    blk_cancel_co_pass_fence(*d, &w);
}

static bool fences(BlkCancelReq *r)
{
    return blk_cancel_changes_disk(r) && r->bytes;
}

static uint64_t cost(BlkCancelReq *r)
{
    return r->buf ? blk_cancel_buffer_size(r->bytes) : 0;
}

void blk_cancel_enter_abandoned(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        blk_cancel_stats_enter_locked(r);
        r->abandoned = true;
        r->seq = ++d->seq;
        QTAILQ_INIT(&r->behind);
        QTAILQ_INSERT_TAIL(&d->abandoned, r, next);
        d->abandoned_cost += cost(r);
        region_enter_locked(r);
        if (fences(r)) {
            r->range.start = r->offset;
            r->range.last = r->offset + r->bytes - 1;
            interval_tree_insert(&r->range, &d->fences);
        }
        qatomic_store_release(&d->nr_abandoned, d->nr_abandoned + 1);
        qatomic_inc(&nr_all);
        /* It does not count among the few that may be started in any case */
        blk_cancel_start_waiters_locked(d, &woken);
    }
    blk_cancel_wake(&woken);
}

void blk_cancel_leave_abandoned(BlkCancelReq *r)
{
    BlkCancel *d = r->ctx->d;
    BlkCancelWaiterList woken = QTAILQ_HEAD_INITIALIZER(woken);

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        blk_cancel_stats_leave_locked(r);
        QTAILQ_REMOVE(&d->abandoned, r, next);
        qatomic_set(&d->nr_abandoned, d->nr_abandoned - 1);
        qatomic_dec(&nr_all);
        d->abandoned_cost -= cost(r);
        region_leave_locked(r, &woken);
        if (fences(r)) {
            interval_tree_remove(&r->range, &d->fences);
            fence_unblock_locked(r, &woken);
        }
        blk_cancel_start_waiters_locked(d, &woken);
    }
    blk_cancel_wake(&woken);
}
