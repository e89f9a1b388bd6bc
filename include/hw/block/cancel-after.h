/*
 * cancel-after: how long the storage has before a guest may cancel
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_BLOCK_CANCEL_AFTER_H
#define HW_BLOCK_CANCEL_AFTER_H

#include "qemu/timer.h"
#include "block/blk-cancel.h"
#include "system/dma.h"

/*
 * cancel_too_early:
 * @acb: of blk_aio_*() or dma_blk_io(), or NULL
 * @after_ms: the device's property; 0: it is never too early
 *
 * Context: the AioContext of the request.
 * Returns: whether a cancel of the guest is to be refused, because the storage
 * has had the request for less.  What waits elsewhere can always be taken back.
 */
static inline bool cancel_too_early(BlockAIOCB *acb, uint32_t after_ms)
{
    int64_t ns;

    acb = after_ms && acb ? dma_blk_request(acb) : NULL;
    ns = acb ? blk_aio_time_with_storage(acb) : -1;
    return ns >= 0 && ns < (int64_t)after_ms * SCALE_MS;
}

#endif
