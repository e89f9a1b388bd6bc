/*
 * qcow2 below a disk with cancelling on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A query must not read from the image: if the storage hangs, the main loop
 * would wait for it with the BQL held.
 *
 * Hook: qcow2-bitmap.c (what is asked about bitmaps).
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "block/dirty-bitmap.h"
#include "qcow2-cancel.h"

static Qcow2BitmapInfoFlagsList *bitmap_flags(BdrvDirtyBitmap *bitmap)
{
    Qcow2BitmapInfoFlagsList *list = NULL, **tail = &list;

    /* It is marked on disk while it may change in memory */
    if (bdrv_dirty_bitmap_inconsistent(bitmap) ||
        !bdrv_dirty_bitmap_readonly(bitmap)) {
        QAPI_LIST_APPEND(tail, QCOW2_BITMAP_INFO_FLAGS_IN_USE);
    }
    if (bdrv_dirty_bitmap_enabled(bitmap)) {
        QAPI_LIST_APPEND(tail, QCOW2_BITMAP_INFO_FLAGS_AUTO);
    }
    return list;
}

Qcow2BitmapInfoList *qcow2_cancel_bitmaps(BlockDriverState *bs)
{
    Qcow2BitmapInfoList *list = NULL, **tail = &list;
    BdrvDirtyBitmap *bitmap;
    GLOBAL_STATE_CODE();

    FOR_EACH_DIRTY_BITMAP(bs, bitmap) {
        Qcow2BitmapInfo *info;

        if (!bdrv_dirty_bitmap_get_persistence(bitmap)) {
            continue;
        }
        info = g_new(Qcow2BitmapInfo, 1);
        *info = (Qcow2BitmapInfo) {
            .name = g_strdup(bdrv_dirty_bitmap_name(bitmap)),
            .granularity = bdrv_dirty_bitmap_granularity(bitmap),
            .flags = bitmap_flags(bitmap),
        };
        QAPI_LIST_APPEND(tail, info);
    }
    return list;
}
