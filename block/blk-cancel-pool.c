/*
 * Bounce buffers for abandonable requests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "blk-cancel-pool.h"

#define POOL_MIN_SIZE   (4 * KiB)
#define POOL_MAX_SIZE   (POOL_MIN_SIZE << (BLK_CANCEL_POOL_CLASSES - 1))
#define POOL_MAX_IDLE   (8 * MiB) /* per pool */

uint64_t blk_cancel_pool_size(uint64_t bytes)
{
    if (bytes > POOL_MAX_SIZE) {
        return ROUND_UP(bytes, POOL_MIN_SIZE);
    }
    return MAX(pow2ceil(bytes), POOL_MIN_SIZE);
}

/* @size: from blk_cancel_pool_size(), POOL_MAX_SIZE at most */
static unsigned int blk_cancel_pool_class(uint64_t size)
{
    return ctz64(size) - ctz64(POOL_MIN_SIZE);
}

/* A driver that does not fill it must not show the guest QEMU's memory. */
static void *pool_new_buffer(uint64_t size, size_t align)
{
    void *buf = qemu_try_memalign(MAX(align, qemu_real_host_page_size()), size);

    return buf ? memset(buf, 0, size) : NULL;
}

void *blk_cancel_pool_get(BlkCancelPool *pool, uint64_t bytes, size_t align)
{
    uint64_t size = blk_cancel_pool_size(bytes);

    if (size <= POOL_MAX_SIZE) {
        unsigned int class = blk_cancel_pool_class(size);
        void *buf = pool->idle[class];

        if (buf) {
            memcpy(&pool->idle[class], buf, sizeof(void *));
            pool->idle_bytes -= size;
            return buf;
        }
    }
    return pool_new_buffer(size, align);
}

void blk_cancel_pool_put(BlkCancelPool *pool, void *buf, uint64_t bytes)
{
    uint64_t size = blk_cancel_pool_size(bytes);
    unsigned int class;

    if (size > POOL_MAX_SIZE || pool->idle_bytes + size > POOL_MAX_IDLE) {
        qemu_vfree(buf);
        return;
    }
    class = blk_cancel_pool_class(size);
    memcpy(buf, &pool->idle[class], sizeof(void *));
    pool->idle[class] = buf;
    pool->idle_bytes += size;
}

void blk_cancel_pool_clear(BlkCancelPool *pool)
{
    for (int class = 0; class < BLK_CANCEL_POOL_CLASSES; class++) {
        void *buf;

        while ((buf = pool->idle[class])) {
            memcpy(&pool->idle[class], buf, sizeof(void *));
            qemu_vfree(buf);
        }
    }
    pool->idle_bytes = 0;
}
