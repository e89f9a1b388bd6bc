/*
 * Cancellable requests: errors of flushes that nobody has been told
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Who flushes may have gone before the storage answers: a request that was
 * abandoned, a command that was refused.  An error is kept by the node at the
 * bottom then, for the next who flushes.
 *
 * Hook: io.c (bdrv_co_flush).
 */

#include "qemu/osdep.h"
#include "block/blk-cancel-flush.h"
#include "block/block.h"
#include "block/block_int.h"
#include "system/block-backend.h"

/* It is not known yet whether who flushes tells anybody.  BQL; atomic. */
static bool errors_stay;

void coroutine_fn blk_cancel_co_keep_flush_error(BlockBackend *blk, int ret)
{
    BlockDriverState *bs, *below;

    if (ret >= 0) {
        return;
    }
    GRAPH_RDLOCK_GUARD();
    bs = blk_bs(blk);
    if (bs) {
        /* Where all who flush a part of the chain come by */
        while ((below = bdrv_primary_bs(bs))) {
            bs = below;
        }
        qatomic_cmpxchg(&bs->kept_flush_error, 0, ret);
    }
}

int blk_cancel_get_flush_error(BlockDriverState *bs)
{
    if (qatomic_read(&errors_stay)) {
        qatomic_set(&bs->flush_error_used, true);
        return qatomic_read(&bs->kept_flush_error);
    }
    return qatomic_xchg(&bs->kept_flush_error, 0);
}

void blk_cancel_begin_errors(void)
{
    qatomic_set(&errors_stay, true);
}

void blk_cancel_end_errors(bool told)
{
    BlockDriverState *bs;
    GLOBAL_STATE_CODE();

    qatomic_set(&errors_stay, false);
    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        if (qatomic_xchg(&bs->flush_error_used, false) && told) {
            qatomic_set(&bs->kept_flush_error, 0);
        }
    }
}
