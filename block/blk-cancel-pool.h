/*
 * Bounce buffers for abandonable requests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Allocating and freeing a buffer per request costs more than copying into it:
 * large ones are mapped and unmapped each time.  So each AioContext keeps a
 * few.  Nothing here is thread-safe; a pool belongs to one thread.
 */

#ifndef BLOCK_BLK_CANCEL_POOL_H
#define BLOCK_BLK_CANCEL_POOL_H

/* Sizes that are kept: 4 KiB, 8 KiB ... 1 MiB. */
#define BLK_CANCEL_POOL_CLASSES 9

typedef struct BlkCancelPool {
    void *idle[BLK_CANCEL_POOL_CLASSES]; /* each names the next in its head */
    size_t idle_bytes;
} BlkCancelPool;

/* Bytes of memory that a buffer for @bytes bytes of data takes. */
uint64_t blk_cancel_pool_size(uint64_t bytes);

/*
 * Get a buffer for @bytes bytes of data, at least one, aligned to @align at
 * least unless that is more than a page and the buffer comes from the pool.
 * It holds zeroes, or what an earlier user has left there.
 * Returns NULL when there is no memory.
 */
void *blk_cancel_pool_get(BlkCancelPool *pool, uint64_t bytes, size_t align);

/* Give back a buffer that was got for @bytes bytes of data. */
void blk_cancel_pool_put(BlkCancelPool *pool, void *buf, uint64_t bytes);

/* Free the idle buffers. */
void blk_cancel_pool_clear(BlkCancelPool *pool);

#endif /* BLOCK_BLK_CANCEL_POOL_H */
