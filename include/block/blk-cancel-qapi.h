/*
 * Requests that can be taken back: the figures as QAPI knows them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_BLK_CANCEL_QAPI_H
#define BLOCK_BLK_CANCEL_QAPI_H

#include "qapi/qapi-types-block-hung.h"

/*
 * blk_cancel_get_stats:
 *
 * Context: main loop, BQL held.
 * Returns: the figures of @blk, owned by the caller, or NULL if cancelling is
 *          off.
 */
BlockHungStats *blk_cancel_get_stats(BlockBackend *blk);

/* The same, with the names of the device. */
BlockHungInfo *blk_cancel_get_info(BlockBackend *blk);

#endif /* BLOCK_BLK_CANCEL_QAPI_H */
