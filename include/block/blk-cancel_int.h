/*
 * Cancellable requests: what the hooks in the block layer call
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Included by block/block-backend.c and block/blk-cancel.c only.
 */

#ifndef BLOCK_BLK_CANCEL_INT_H
#define BLOCK_BLK_CANCEL_INT_H

#include "block/aio.h"
#include "block/blk-cancel.h"
#include "block/blk-cancel-graph.h"
#include "block/graph-lock.h"

/* One BlockBackend's engine; NULL in BlockBackend while cancelling is off. */
typedef struct BlkCancel BlkCancel;

/* The operations; scripts/blk-cancel-timeline has their numbers. */
typedef enum BlkCancelOp {
    BLK_CANCEL_READ,
    BLK_CANCEL_WRITE,           /* write zeroes too: BDRV_REQ_ZERO_WRITE */
    BLK_CANCEL_DISCARD,
    BLK_CANCEL_FLUSH,

    /* Can be cancelled before they are issued, and are not abandoned */
    BLK_CANCEL_ZONE_REPORT,
    BLK_CANCEL_ZONE_MGMT,
    BLK_CANCEL_ZONE_APPEND,
} BlkCancelOp;

/*
 * blk_cancel_slot:
 *
 * Where @blk keeps its engine.  Written in the main loop with the BQL held
 * while no request is in flight; read by every thread that submits one.
 */
BlkCancel **blk_cancel_slot(BlockBackend *blk);

/* block-backend.c: the coroutines of blk_aio_*(), by which it is told apart */
void coroutine_fn blk_aio_read_entry(void *opaque);
void coroutine_fn blk_aio_write_entry(void *opaque);
void coroutine_fn blk_aio_pdiscard_entry(void *opaque);
void coroutine_fn blk_aio_flush_entry(void *opaque);
void coroutine_fn blk_aio_ioctl_entry(void *opaque);

/*
 * blk_cancel_aio:
 * @entry: what it would do otherwise; not blk_aio_ioctl_entry
 * @qiov: the caller's buffers; NULL for all but reads and writes of data
 *
 * Submit a request that blk_aio_cancel_async() can take back.  Otherwise like
 * the blk_aio_*() function that it stands for: @cb runs exactly once, later,
 * in the AioContext of the caller.
 *
 * Context: any AioContext; may be called inside a coroutine.
 */
BlockAIOCB *blk_cancel_aio(BlkCancel *d, CoroutineEntry *entry, int64_t offset,
                           int64_t bytes, QEMUIOVector *qiov,
                           BdrvRequestFlags flags, BlockCompletionFunc *cb,
                           void *opaque);

/* The same for zone operations. */
BlockAIOCB *blk_cancel_aio_zone_report(BlkCancel *d, int64_t offset,
                                       unsigned int *nr_zones,
                                       BlockZoneDescriptor *zones,
                                       BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_cancel_aio_zone_mgmt(BlkCancel *d, BlockZoneOp op,
                                     int64_t offset, int64_t len,
                                     BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_cancel_aio_zone_append(BlkCancel *d, int64_t *offset,
                                       QEMUIOVector *qiov,
                                       BdrvRequestFlags flags,
                                       BlockCompletionFunc *cb, void *opaque);

void coroutine_fn blk_cancel_co_wait_fence(BlkCancel *const *d, int64_t offset,
                                           int64_t bytes);

/*
 * blk_cancel_co_fence:
 * @d: the engine, or NULL; by reference, so that without one nothing is loaded
 *
 * Wait until no abandoned request that changes the disk, and that was abandoned
 * before this call, overlaps the range.  To be called outside the graph lock
 * by each request that does not come through blk_cancel_aio().
 */
static inline void coroutine_fn
blk_cancel_co_fence(BlkCancel *const *d, int64_t offset, int64_t bytes)
{
    if (unlikely(*d)) {
        blk_cancel_co_wait_fence(d, offset, bytes);
    }
}

/* The node below @blk; NULL if there is none. */
BdrvChild *blk_cancel_root(BlockBackend *blk);

/* block-backend.c's own.  Returns: -errno, or 0. */
int coroutine_fn GRAPH_RDLOCK
blk_check_byte_request(BlockBackend *blk, int64_t offset, int64_t bytes);

/*
 * blk_cancel_in_flight:
 *
 * How many requests of @blk there are that a drained section would wait for.
 *
 * Context: any thread.
 */
unsigned int blk_cancel_in_flight(BlockBackend *blk);

/*
 * blk_cancel_drained_end:
 * @d: the engine, or NULL
 *
 * Resume what was parked, unless it is drained or held still.
 *
 * Context: main loop, BQL held.
 */
void blk_cancel_drained_end(BlkCancel *d);

#endif /* BLOCK_BLK_CANCEL_INT_H */
