/*
 * Cancellable requests: what disks have under way, and holding them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Between the engine and blk-hold.c; see blk-hold.h for what others may use.
 */

#ifndef BLOCK_BLK_CANCEL_HOLD_H
#define BLOCK_BLK_CANCEL_HOLD_H

#include "block/blk-cancel.h"
#include "block/blk-cancel-flush.h"
#include "block/block-common.h"
#include "block/graph-lock.h"
#include "system/block-backend-common.h"

/* What a BlockBackend with cancelling on has under way */
typedef struct BlkCancelLoad {
    BlockBackend *blk;
    bool in_flight;             /* a drained section would wait */
    bool held;                  /* see blk_cancel_hold() */
    unsigned int issued;        /* with the storage, abandoned ones included */
    unsigned int slow;          /* of these: flush, discard, write zeroes */
    unsigned int abandoned;
    int64_t oldest_ns;          /* longest time with the storage, or 0 */
    uint64_t ended;             /* by the storage, ever; an error is an end */
    void *opaque;               /* the place in the list; NULL: begin */
} BlkCancelLoad;

/* What a block node has under way, whoever has asked for it */
typedef struct BlkNodeLoad {
    BlockDriverState *bs;       /* the place in the list; NULL: begin */
    unsigned int requests;      /* and flush, begun not after the given epoch */
    bool cancels;               /* a BlockBackend with cancelling on is above */
    bool is_leaf;               /* no other node is below */
} BlkNodeLoad;

/*
 * The present one is read by each node's request as it begins; to add one is to
 * tell apart those that began before.  Written under the BQL; atomic.
 */
extern unsigned int blk_cancel_epoch;

/*
 * blk_cancel_any:
 *
 * Whether any BlockBackend has cancelling on.
 *
 * Context: BQL held; in another thread it is a hint.
 */
bool blk_cancel_any(void);

/*
 * blk_cancel_next_load, blk_cancel_next_node:
 *
 * Go on to the next BlockBackend with cancelling on, or node.
 *
 * Context: BQL held, and not released since the previous one.
 * Returns: false at the end.
 */
bool blk_cancel_next_load(BlkCancelLoad *load);
bool blk_cancel_next_node(BlkNodeLoad *load, unsigned int epoch);

/*
 * blk_cancel_hold:
 * @blk: hold this one, or NULL: all
 *
 * From now on each new blk_aio_*() request of the BlockBackend is parked before
 * it holds anything, and does not count as in flight; it can be cancelled.
 * What is in flight goes on, throttled or not.
 *
 * Context: BQL held, outside a coroutine.
 */
void blk_cancel_hold(BlockBackend *blk);

/* Hold none; what is parked goes on.  In a coroutine it does so later. */
void blk_cancel_unhold(void);

#endif /* BLOCK_BLK_CANCEL_HOLD_H */
