/*
 * A rig for tests of abandoned requests: the block driver that hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * "test-hold" has its contents in memory.  A request stops in hold_co() until
 * the test releases it, then moves its data and is logged.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "blk-cancel-rig.h"

/*
 * The driver
 */

typedef struct BDRVHoldState {
    Rig *rig;
} BDRVHoldState;

/* From hold_new_node() to hold_open(); the main loop's */
static Rig *rig_being_opened;

static Rig *hold_rig(BlockDriverState *bs)
{
    BDRVHoldState *s = bs->opaque;

    return s->rig;
}

static int hold_open(BlockDriverState *bs, QDict *options, int flags,
                     Error **errp)
{
    BDRVHoldState *s = bs->opaque;

    s->rig = rig_being_opened;
    bs->supported_write_flags = BDRV_REQ_FUA;
    bs->supported_zero_flags = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                               BDRV_REQ_NO_FALLBACK;
    return 0;
}

static int64_t coroutine_fn hold_co_getlength(BlockDriverState *bs)
{
    return RIG_DISK_SIZE;
}

static void hold_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = 512;
    bs->bl.min_mem_alignment = RIG_MEM_ALIGN;
    bs->bl.opt_mem_alignment = RIG_MEM_ALIGN;
    if (hold_rig(bs)->zoned) {
        bs->bl.zoned = BLK_Z_HM;
        bs->bl.zone_size = RIG_DISK_SIZE / 4;
        bs->bl.nr_zones = 4;
        bs->bl.max_append_sectors = RIG_DISK_SIZE / 4 / BDRV_SECTOR_SIZE;
        bs->bl.write_granularity = RIG_BLOCK;
    }
}

static void hold_land_locked(Rig *rig, HeldOp *op)
{
    uint8_t *where = rig->disk + op->offset;

    switch (op->op) {
    case RIG_READ:
        qemu_iovec_from_buf(op->qiov, 0, where, op->bytes);
        break;
    case RIG_WRITE:
    case RIG_ZONE_APPEND:
        qemu_iovec_to_buf(op->qiov, 0, where, op->bytes);
        break;
    case RIG_ZEROES:
        memset(where, RIG_ZEROED, op->bytes);
        break;
    case RIG_DISCARD:
        memset(where, RIG_DISCARDED, op->bytes);
        break;
    default:
        break;
    }
}

static int coroutine_fn hold_co(BlockDriverState *bs, HeldOp *op)
{
    Rig *rig = hold_rig(bs);
    LandedOp landed;
    bool hold;

    WITH_QEMU_LOCK_GUARD(&rig->lock) {
        op->co = qemu_coroutine_self();
        op->ctx = qemu_get_current_aio_context();
        op->ret = rig->sync_ret;
        hold = rig->holding;
        rig->arrived++;
        rig->nr_active++;
        if (hold) {
            QTAILQ_INSERT_TAIL(&rig->held, op, next);
            rig->nr_held++;
        }
    }

    /* Whoever releases it schedules it in this thread: no wake-up is lost. */
    if (hold) {
        qemu_coroutine_yield();
    }

    /* Drivers may look at an empty vector, too, and late */
    if (op->qiov) {
        g_assert_cmpuint(op->qiov->size, ==, op->bytes);
    }

    QEMU_LOCK_GUARD(&rig->lock);
    if (op->ret == 0) {
        hold_land_locked(rig, op);
    }
    landed = (LandedOp) {
        .op = op->op,
        .offset = op->offset,
        .bytes = op->bytes,
        .ret = op->ret,
        .first = op->bytes ? rig->disk[op->offset] : 0,
    };
    g_array_append_val(rig->landed, landed);
    rig->nr_active--;
    return op->ret;
}

static void hold_note_buffer(Rig *rig, QEMUIOVector *qiov,
                             BdrvRequestFlags flags)
{
    QEMU_LOCK_GUARD(&rig->lock);
    for (int i = 0; i < qiov->niov; i++) {
        if (!QEMU_PTR_IS_ALIGNED(qiov->iov[i].iov_base, RIG_MEM_ALIGN)) {
            rig->misaligned++;
            break;
        }
    }
    if (flags & BDRV_REQ_REGISTERED_BUF) {
        rig->registered++;
    }
}

static int coroutine_fn hold_co_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, QEMUIOVector *qiov,
                                       BdrvRequestFlags flags)
{
    HeldOp op = { RIG_READ, offset, bytes, qiov };

    hold_note_buffer(hold_rig(bs), qiov, flags);
    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, QEMUIOVector *qiov,
                                        BdrvRequestFlags flags)
{
    HeldOp op = { RIG_WRITE, offset, bytes, qiov };

    hold_note_buffer(hold_rig(bs), qiov, flags);
    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_pwrite_zeroes(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              BdrvRequestFlags flags)
{
    HeldOp op = { RIG_ZEROES, offset, bytes };

    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes)
{
    HeldOp op = { RIG_DISCARD, offset, bytes };

    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_flush(BlockDriverState *bs)
{
    HeldOp op = { RIG_FLUSH };

    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_ioctl(BlockDriverState *bs,
                                      unsigned long int req, void *buf)
{
    HeldOp op = { RIG_IOCTL };

    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_zone_report(BlockDriverState *bs,
                                            int64_t offset,
                                            unsigned int *nr_zones,
                                            BlockZoneDescriptor *zones)
{
    HeldOp op = { RIG_ZONE_REPORT, offset };

    *nr_zones = 0;
    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_zone_mgmt(BlockDriverState *bs,
                                          BlockZoneOp zone_op,
                                          int64_t offset, int64_t len)
{
    HeldOp op = { RIG_ZONE_MGMT, offset, len };

    return hold_co(bs, &op);
}

static int coroutine_fn hold_co_zone_append(BlockDriverState *bs,
                                            int64_t *offset,
                                            QEMUIOVector *qiov,
                                            BdrvRequestFlags flags)
{
    HeldOp op = { RIG_ZONE_APPEND, *offset, qiov->size, qiov };

    return hold_co(bs, &op);
}

static void hold_drain_begin(BlockDriverState *bs)
{
    Rig *rig = hold_rig(bs);

    rig->drain_began = true;
    if (rig->on_drain) {
        rig->on_drain(rig);
    }
}

static BlockDriver bdrv_hold = {
    .format_name            = "test-hold",
    .instance_size          = sizeof(BDRVHoldState),
    .bdrv_open              = hold_open,
    .bdrv_refresh_limits    = hold_refresh_limits,
    .bdrv_co_getlength      = hold_co_getlength,
    .bdrv_co_preadv         = hold_co_preadv,
    .bdrv_co_pwritev        = hold_co_pwritev,
    .bdrv_co_pwrite_zeroes  = hold_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = hold_co_pdiscard,
    .bdrv_co_flush          = hold_co_flush,
    .bdrv_co_ioctl          = hold_co_ioctl,
    .bdrv_co_zone_report    = hold_co_zone_report,
    .bdrv_co_zone_mgmt      = hold_co_zone_mgmt,
    .bdrv_co_zone_append    = hold_co_zone_append,
    .bdrv_drain_begin       = hold_drain_begin,
};

BlockDriverState *hold_new_node(Rig *rig)
{
    rig_being_opened = rig;
    return bdrv_new_open_driver(&bdrv_hold, NULL, BDRV_O_RDWR | BDRV_O_UNMAP,
                                &error_abort);
}

/*
 * Control of the driver
 */

void rig_set_holding(Rig *rig, bool holding)
{
    QEMU_LOCK_GUARD(&rig->lock);
    rig->holding = holding;
}

void rig_set_sync_ret(Rig *rig, int ret)
{
    QEMU_LOCK_GUARD(&rig->lock);
    rig->sync_ret = ret;
}

unsigned int rig_nr_held(Rig *rig)
{
    QEMU_LOCK_GUARD(&rig->lock);
    return rig->nr_held;
}

unsigned int rig_nr_active(Rig *rig)
{
    QEMU_LOCK_GUARD(&rig->lock);
    return rig->nr_active;
}

unsigned int rig_arrived(Rig *rig)
{
    QEMU_LOCK_GUARD(&rig->lock);
    return rig->arrived;
}

unsigned int rig_nr_landed(Rig *rig)
{
    QEMU_LOCK_GUARD(&rig->lock);
    return rig->landed->len;
}

LandedOp rig_landed(Rig *rig, unsigned int i)
{
    QEMU_LOCK_GUARD(&rig->lock);
    g_assert_cmpuint(i, <, rig->landed->len);
    return g_array_index(rig->landed, LandedOp, i);
}

static HeldOp *rig_find_locked(Rig *rig, RigOp op, int64_t offset)
{
    HeldOp *h;

    QTAILQ_FOREACH(h, &rig->held, next) {
        if (h->op == op && h->offset == offset) {
            return h;
        }
    }
    return NULL;
}

bool rig_holds(Rig *rig, RigOp op, int64_t offset)
{
    QEMU_LOCK_GUARD(&rig->lock);
    return rig_find_locked(rig, op, offset);
}

static void rig_release_locked(Rig *rig, HeldOp *h, int ret)
{
    QTAILQ_REMOVE(&rig->held, h, next);
    rig->nr_held--;
    h->ret = ret;
    aio_co_schedule(h->ctx, h->co);
}

void rig_release_ret(Rig *rig, RigOp op, int64_t offset, int ret)
{
    HeldOp *h;

    QEMU_LOCK_GUARD(&rig->lock);
    h = rig_find_locked(rig, op, offset);
    g_assert_nonnull(h);
    rig_release_locked(rig, h, ret);
}

void rig_release(Rig *rig, RigOp op, int64_t offset)
{
    rig_release_ret(rig, op, offset, 0);
}

bool rig_release_nth(Rig *rig, unsigned int n, int ret)
{
    HeldOp *h;

    QEMU_LOCK_GUARD(&rig->lock);
    QTAILQ_FOREACH(h, &rig->held, next) {
        if (n-- == 0) {
            rig_release_locked(rig, h, ret);
            return true;
        }
    }
    return false;
}

void rig_release_all(Rig *rig)
{
    HeldOp *h, *tmp;

    QEMU_LOCK_GUARD(&rig->lock);
    rig->holding = false;
    QTAILQ_FOREACH_SAFE(h, &rig->held, next, tmp) {
        rig_release_locked(rig, h, 0);
    }
}

static void release_all_bh(void *opaque)
{
    rig_release_all(opaque);
}

void rig_release_all_soon(Rig *rig)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), release_all_bh, rig);
}

void rig_check_disk(Rig *rig, int64_t offset, int64_t bytes, uint8_t pattern)
{
    QEMU_LOCK_GUARD(&rig->lock);
    for (int64_t i = offset; i < offset + bytes; i++) {
        g_assert_cmphex(rig->disk[i], ==, pattern);
    }
}
