/*
 * Cancellable requests: all BlockBackends at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Between the engine and the gate; see blk-gate.h for what others may use.
 */

#ifndef BLOCK_BLK_CANCEL_QUIESCE_H
#define BLOCK_BLK_CANCEL_QUIESCE_H

#include "block/block-common.h"
#include "system/block-backend-common.h"

/* A request that has been with the storage for longer is said to hang. */
#define BLK_CANCEL_OVERDUE_NS   (1 * NANOSECONDS_PER_SECOND)

/* What a BlockBackend with cancelling on has under way. */
typedef struct BlkCancelLoad {
    BlockBackend *blk;
    bool in_flight;             /* a drained section would wait */
    unsigned int issued;        /* with the storage, abandoned ones included */
    uint64_t ended;             /* those that have ended, ever */
    bool overdue;               /* the oldest has been there for long */
    unsigned int abandoned;
    int64_t oldest_ns;          /* longest time with the storage, or 0 */
    void *opaque;               /* the place in the list; NULL: begin */
} BlkCancelLoad;

/*
 * blk_cancel_any:
 *
 * Whether any BlockBackend has cancelling on.
 *
 * Context: BQL held; in another thread it is a hint.
 */
bool blk_cancel_any(void);

/*
 * blk_cancel_next_load:
 *
 * Go on to the next BlockBackend with cancelling on.
 *
 * Context: BQL held, and not released since the previous one.
 * Returns: false at the end.
 */
bool blk_cancel_next_load(BlkCancelLoad *load);

/*
 * blk_cancel_filter_waits:
 *
 * Whether requests wait in a throttle filter below such a BlockBackend, and
 * may be old without the storage hanging.
 *
 * Context: BQL held.
 */
bool blk_cancel_filter_waits(void);

/*
 * blk_cancel_close_gate:
 *
 * From now on each new blk_aio_*() request of these BlockBackends is parked
 * before it holds anything, and does not count as in flight; it can be
 * cancelled.  What is in flight goes on.  To be called only while it is open.
 *
 * Context: BQL held, outside a coroutine.
 */
void blk_cancel_close_gate(void);

/* The opposite; what is parked goes on.  In a coroutine it does so later. */
void blk_cancel_open_gate(void);

/*
 * blk_cancel_probe_flush:
 *
 * Flush the BlockBackend of @load by a request that passes the closed gate.
 *
 * Context: main loop, outside a coroutine.
 */
BlockAIOCB *blk_cancel_probe_flush(const BlkCancelLoad *load,
                                   BlockCompletionFunc *cb, void *opaque);

/*
 * blk_cancel_node_started_before:
 * @start_ns: of get_clock()
 * @oldest_ns: set to when the oldest has started
 *
 * Whoever asks a node for something - a job or an export as well - is seen if
 * a BlockBackend with cancelling on is above the node.  Flushes are not seen.
 *
 * Context: BQL held.
 * Returns: the node with the oldest request that has started before @start_ns,
 * or NULL; it is valid until the BQL is released.
 */
BlockDriverState *blk_cancel_node_started_before(int64_t start_ns,
                                                 int64_t *oldest_ns);

#endif /* BLOCK_BLK_CANCEL_QUIESCE_H */
