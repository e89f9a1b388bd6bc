/*
 * Detachable requests: what the hooks in the block layer call
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Included by block/block-backend.c and block/blk-detach.c only.
 */

#ifndef BLOCK_BLK_DETACH_INT_H
#define BLOCK_BLK_DETACH_INT_H

#include "block/aio.h"
#include "block/blk-detach.h"
#include "block/graph-lock.h"

/* One BlockBackend's engine; NULL in BlockBackend while detaching is off. */
typedef struct BlkDetach BlkDetach;

/* The operations; scripts/blk-detach-timeline has their numbers. */
typedef enum BlkDetachOp {
    BLK_DETACH_READ,
    BLK_DETACH_WRITE,           /* write zeroes too: BDRV_REQ_ZERO_WRITE */
    BLK_DETACH_DISCARD,
    BLK_DETACH_FLUSH,

    /* Can be cancelled before they are issued, and are not detached */
    BLK_DETACH_ZONE_REPORT,
    BLK_DETACH_ZONE_MGMT,
    BLK_DETACH_ZONE_APPEND,
} BlkDetachOp;

/*
 * blk_detach_slot:
 *
 * Where @blk keeps its engine.  Written in the main loop with the BQL held
 * while no request is in flight; read by every thread that submits one.
 */
BlkDetach **blk_detach_slot(BlockBackend *blk);

/*
 * blk_detach_aio:
 * @qiov: the caller's buffers; NULL for all but reads and writes of data
 *
 * Submit a request that blk_aio_cancel_async() can take back.  Otherwise like
 * the blk_aio_*() function that it stands for: @cb runs exactly once, later,
 * in the AioContext of the caller.
 *
 * Context: any AioContext; may be called inside a coroutine.
 */
BlockAIOCB *blk_detach_aio(BlkDetach *d, BlkDetachOp op, int64_t offset,
                           int64_t bytes, QEMUIOVector *qiov,
                           BdrvRequestFlags flags, BlockCompletionFunc *cb,
                           void *opaque);

/* The same for zone operations. */
BlockAIOCB *blk_detach_aio_zone_report(BlkDetach *d, int64_t offset,
                                       unsigned int *nr_zones,
                                       BlockZoneDescriptor *zones,
                                       BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_detach_aio_zone_mgmt(BlkDetach *d, BlockZoneOp op,
                                     int64_t offset, int64_t len,
                                     BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_detach_aio_zone_append(BlkDetach *d, int64_t *offset,
                                       QEMUIOVector *qiov,
                                       BdrvRequestFlags flags,
                                       BlockCompletionFunc *cb, void *opaque);

void coroutine_fn blk_detach_co_wait_fence(BlkDetach *d, int64_t offset,
                                           int64_t bytes);

/*
 * blk_detach_co_fence:
 * @d: the engine, or NULL
 *
 * Wait until no detached request that changes the disk, and that was detached
 * before this call, overlaps the range.  To be called outside the graph lock
 * by each request that does not come through blk_detach_aio(); one that does
 * has been here already and is told by BDRV_REQ_NO_QUEUE.
 */
static inline void coroutine_fn
blk_detach_co_fence(BlkDetach *d, int64_t offset, int64_t bytes,
                    BdrvRequestFlags flags)
{
    if (unlikely(d) && !(flags & BDRV_REQ_NO_QUEUE)) {
        blk_detach_co_wait_fence(d, offset, bytes);
    }
}

/* block-backend.c's own check.  Returns: -errno, or 0. */
int coroutine_fn GRAPH_RDLOCK
blk_check_byte_request(BlockBackend *blk, int64_t offset, int64_t bytes);

/*
 * blk_detach_in_flight:
 *
 * How many requests of @blk there are that a drained section would wait for.
 *
 * Context: any thread.
 */
unsigned int blk_detach_in_flight(BlockBackend *blk);

/*
 * blk_detach_drained_end:
 * @d: the engine, or NULL
 *
 * Resume what was parked, unless a drained section or the gate still holds it.
 *
 * Context: main loop, BQL held.
 */
void blk_detach_drained_end(BlkDetach *d);

#endif /* BLOCK_BLK_DETACH_INT_H */
