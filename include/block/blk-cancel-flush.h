/*
 * Cancellable requests: errors of flushes that nobody has been told
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_BLK_CANCEL_FLUSH_H
#define BLOCK_BLK_CANCEL_FLUSH_H

#include "block/block-common.h"
#include "system/block-backend-common.h"

/*
 * blk_cancel_co_keep_flush_error:
 * @ret: what a flush of @blk has returned, which nobody has been told
 *
 * If it is an error, the next flush of the storage below fails with it, whoever
 * asks for it: the guest, a command, or a job.  If one is kept already, that
 * stays.
 *
 * Context: any thread.
 */
void coroutine_fn blk_cancel_co_keep_flush_error(BlockBackend *blk, int ret);

/*
 * blk_cancel_get_flush_error:
 *
 * For a flush of @bs, which keeps an error, and has none of its own.
 *
 * Context: any thread.
 */
int blk_cancel_get_flush_error(BlockDriverState *bs);

/*
 * blk_cancel_begin_errors, blk_cancel_end_errors:
 * @told: somebody has been told, of those that were used in between
 *
 * In between errors are not used up by who flushes.  Context: BQL held.
 */
void blk_cancel_begin_errors(void);
void blk_cancel_end_errors(bool told);

#endif /* BLOCK_BLK_CANCEL_FLUSH_H */
