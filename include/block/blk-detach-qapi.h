/*
 * Requests that can be taken back: the figures as QAPI knows them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_BLK_DETACH_QAPI_H
#define BLOCK_BLK_DETACH_QAPI_H

#include "qapi/qapi-types-block-detach.h"

/*
 * blk_detach_get_stats:
 *
 * Context: main loop, BQL held.
 * Returns: the figures of @blk, owned by the caller, or NULL if detaching is
 *          off.
 */
BlockDetachStats *blk_detach_get_stats(BlockBackend *blk);

/* The same, with the names of the device. */
BlockDetachInfo *blk_detach_get_info(BlockBackend *blk);

#endif /* BLOCK_BLK_DETACH_QAPI_H */
