/*
 * Cancellable requests: the operations of zoned storage
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * They are not abandoned: they write to their caller's memory, or may leave a
 * write pointer where nobody knows.  But while they wait - because their disk
 * is drained or held, or at the fence - they are taken back like all others;
 * and once they are issued it is known for how long they have been.
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "blk-cancel-core.h"

/* Abandoned writes may move any write pointer that these read or move. */
static void zone_wait_for_all(BlkCancelReq *r)
{
    r->waiter.offset = 0;
    r->waiter.bytes = INT64_MAX;
}

BlockAIOCB *blk_cancel_aio_zone_report(BlkCancel *d, int64_t offset,
                                       unsigned int *nr_zones,
                                       BlockZoneDescriptor *zones,
                                       BlockCompletionFunc *cb, void *opaque)
{
    BlkCancelReq *r = blk_cancel_new_req(d, BLK_CANCEL_ZONE_REPORT, offset, 0,
                                         NULL, 0, cb, opaque);

    r->zone.nr_zones = nr_zones;
    r->zone.zones = zones;
    zone_wait_for_all(r);
    return blk_cancel_submit(r);
}

BlockAIOCB *blk_cancel_aio_zone_mgmt(BlkCancel *d, BlockZoneOp op,
                                     int64_t offset, int64_t len,
                                     BlockCompletionFunc *cb, void *opaque)
{
    BlkCancelReq *r = blk_cancel_new_req(d, BLK_CANCEL_ZONE_MGMT, offset, len,
                                         NULL, 0, cb, opaque);

    r->zone.op = op;
    return blk_cancel_submit(r);
}

BlockAIOCB *blk_cancel_aio_zone_append(BlkCancel *d, int64_t *offset,
                                       QEMUIOVector *qiov,
                                       BdrvRequestFlags flags,
                                       BlockCompletionFunc *cb, void *opaque)
{
    BlkCancelReq *r = blk_cancel_new_req(d, BLK_CANCEL_ZONE_APPEND, *offset,
                                         qiov->size, qiov, flags, cb,
                                         opaque);

    r->zone.append_offset = offset;
    zone_wait_for_all(r);
    return blk_cancel_submit(r);
}

int coroutine_fn blk_cancel_co_issue_zone_op(BlkCancelReq *r)
{
    BlockBackend *blk = r->ctx->d->blk;
    int ret;

    if (!blk_co_is_available(blk)) {
        return -ENOMEDIUM;
    }
    switch (r->op) {
    case BLK_CANCEL_ZONE_REPORT:
        return bdrv_co_zone_report(blk_bs(blk), r->offset, r->zone.nr_zones,
                                   r->zone.zones);
    case BLK_CANCEL_ZONE_MGMT:
        ret = blk_check_byte_request(blk, r->offset, r->bytes);
        return ret < 0 ? ret : bdrv_co_zone_mgmt(blk_bs(blk), r->zone.op,
                                                 r->offset, r->bytes);
    case BLK_CANCEL_ZONE_APPEND:
        return bdrv_co_zone_append(blk_bs(blk), r->zone.append_offset, r->qiov,
                                   r->flags);
    default:
        g_assert_not_reached();
    }
}
