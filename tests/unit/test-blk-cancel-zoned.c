/*
 * Requests of a BlockBackend that can be taken back: zoned storage
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What may move a write pointer is not abandoned: once it was issued, a cancel
 * is refused and it goes on as if nobody had asked.  While it waits it is taken
 * back like any other request.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/blk-cancel_int.h"
#include "block/blk-cancel-hold.h"
#include "block/blk-hold.h"
#include "blk-cancel-rig.h"

static const RigOp zone_ops[] = {
    RIG_ZONE_REPORT, RIG_ZONE_MGMT, RIG_ZONE_APPEND,
};

/* Refused again and again, and the storage does what it was told to do */
static void test_issued(const RigVariant *v)
{
    Rig *rig = rig_new_zoned(v->mode);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) b = rig_submit(rig, 1, v->op, RIG_DISK_SIZE / 4,
                                     RIG_BLOCK, 0xbb);

    rig_wait(rig_nr_held(rig) == 2);
    for (int i = 0; i < 3; i++) {
        rig_cancel(a);
        rig_cancel(b);
    }
    rig_settle(rig);
    rig_check_pending(a);
    rig_check_pending(b);
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release(rig, v->op, 0);
    rig_check_result(a, 0);
    rig_check_pending(b);
    rig_release_ret(rig, v->op, RIG_DISK_SIZE / 4, -EIO);
    rig_check_result(b, -EIO);
    if (v->op == RIG_WRITE || v->op == RIG_ZONE_APPEND) {
        rig_check_disk(rig, 0, RIG_BLOCK, 0xaa);
    }
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    rig_end(rig);
}

/* Parked by a drained section: nothing was done, and nothing will be */
static void test_parked(const RigVariant *v)
{
    Rig *rig = rig_new_zoned(v->mode);
    g_autoptr(RigReq) a = rig_prepare(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) b = rig_prepare(rig, 1, v->op, 0, RIG_BLOCK, 0xbb);

    bdrv_drained_begin(rig->bs);
    rig_submit_prepared(a);
    rig_submit_prepared(b);
    rig_settle(rig);
    rig_check_info(rig, 0, 2, 0, 0);
    rig_cancel(a);
    rig_check_canceled(a);
    rig_check_pending(b);
    bdrv_drained_end(rig->bs);

    rig_release_all(rig);
    rig_check_result(b, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_end(rig);
}

/* The gate keeps it away, knows of it, and says so when it hangs */
static void test_gate(const RigVariant *v)
{
    Rig *rig = rig_new_zoned(v->mode);
    g_autoptr(RigReq) req = NULL;
    g_autofree char *why = NULL;

    blk_cancel_hold(NULL);
    req = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    rig_wait(rig_info(rig).waiting_drained == 1);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    g_assert_cmpuint(blk_cancel_in_flight(rig->blk), ==, 0);
    blk_cancel_unhold();

    rig_wait(rig_nr_held(rig) == 1);
    rig_wait((why = blk_hold_describe()));
    g_assert_nonnull(strstr(why, "has 1 request with the storage, 0 of them"));
    rig_release_all(rig);
    rig_check_result(req, 0);
    rig_end(rig);
}

/* What lies beyond the disk does not reach the storage */
static void test_range(const RigVariant *v)
{
    static const int64_t ranges[][2] = {
        { RIG_DISK_SIZE, RIG_BLOCK }, { 0, RIG_DISK_SIZE + RIG_BLOCK },
        { -RIG_BLOCK, RIG_BLOCK }, { RIG_BLOCK, INT64_MAX },
        { INT64_MAX, RIG_BLOCK },
    };
    Rig *rig = rig_new_zoned(v->mode);

    for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
        g_autoptr(RigReq) req = rig_prepare(rig, 0, RIG_ZONE_MGMT, 0, 0, 0);

        req->offset = ranges[i][0];
        req->bytes = ranges[i][1];
        rig_submit_prepared(req);
        rig_check_result(req, -EIO);
    }
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    rig_end(rig);
}

/* Behind the budget */
static void test_budget(const RigVariant *v)
{
    const BlkCancelOptions opts = {
        .budget = RIG_BLOCK,
        .damper = 100, .region = RIG_BLOCK,
    };
    Rig *rig = rig_new_zoned(v->mode);
    g_autoptr(RigReq) first = NULL, second = NULL;

    g_assert_true(blk_set_cancel(rig->blk, &opts, &error_abort));
    first = rig_submit(rig, 0, RIG_WRITE, 0, RIG_BLOCK, 0xaa);
    rig_wait(rig_nr_held(rig) == 1);
    second = rig_submit(rig, 1, RIG_WRITE, RIG_BLOCK, RIG_BLOCK, 0xbb);
    rig_settle(rig);
    rig_check_info(rig, 0, 0, 1, 0);
    rig_cancel(second);
    rig_check_canceled(second);
    rig_cancel(first);
    rig_check_pending(first);

    rig_release_all(rig);
    rig_check_result(first, 0);
    rig_wait_idle(rig);
    rig_check_disk(rig, 0, RIG_BLOCK, 0xaa);
    rig_check_disk(rig, RIG_BLOCK, RIG_BLOCK, RIG_INITIAL);
    rig_end(rig);
}

/* Reads and flushes move no write pointer; nothing waits for them */
static void test_abandoned(const RigVariant *v)
{
    Rig *rig = rig_new_zoned(v->mode);
    g_autoptr(RigReq) old = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0);
    RigReq *req[ARRAY_SIZE(zone_ops)];

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(old);
    rig_check_canceled(old);
    rig_check_info(rig, 1, 0, 0, 0);
    for (int i = 0; i < ARRAY_SIZE(zone_ops); i++) {
        req[i] = rig_submit(rig, 1, zone_ops[i], 0, RIG_BLOCK, 0xcc);
        rig_wait(rig_holds(rig, zone_ops[i], 0));
        rig_release(rig, zone_ops[i], 0);
        rig_check_result(req[i], 0);
        rig_req_free(req[i]);
    }
    rig_check_disk(rig, 0, RIG_BLOCK, 0xcc);
    rig_check_info(rig, 1, 0, 0, 0);
    rig_end(rig);
}

void add_zoned_tests(void)
{
    static const RigOp writes[] = { RIG_WRITE, RIG_ZEROES, RIG_DISCARD };

    for (int i = 0; i < ARRAY_SIZE(writes); i++) {
        rig_add_op("zoned/issued", writes[i], test_issued);
        rig_add_op("zoned/parked", writes[i], test_parked);
    }
    for (int i = 0; i < ARRAY_SIZE(zone_ops); i++) {
        rig_add_op("zoned/issued", zone_ops[i], test_issued);
        rig_add_op("zoned/parked", zone_ops[i], test_parked);
        rig_add_op("zoned/gate", zone_ops[i], test_gate);
    }
    rig_add("zoned/range", test_range);
    rig_add("zoned/budget", test_budget);
    rig_add_op("zoned/abandoned", RIG_READ, test_abandoned);
    rig_add_op("zoned/abandoned", RIG_FLUSH, test_abandoned);
}
