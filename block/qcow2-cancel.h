/*
 * qcow2 below a disk with cancelling on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_QCOW2_CANCEL_H
#define BLOCK_QCOW2_CANCEL_H

#include "block/blk-hold.h"
#include "qapi/qapi-types-block-core.h"

/*
 * qcow2_cancel_bitmaps:
 *
 * Context: main loop, BQL held.
 * Returns: the persistent bitmaps of @bs as they are in memory, where all of
 * an active image are, and as they would be stored.
 */
Qcow2BitmapInfoList *qcow2_cancel_bitmaps(BlockDriverState *bs);

#endif /* BLOCK_QCOW2_CANCEL_H */
