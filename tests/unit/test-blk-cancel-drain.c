/*
 * Requests of a BlockBackend that can be taken back: drained sections and
 * teardown
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Drained sections wait for what the storage has, abandoned or not, and end
 * whatever else waits; what they park can be taken back for free.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "blk-cancel-rig.h"

#define BLOCK(n)    ((n) * RIG_BLOCK)

/* A write of BLOCK(@n) with content @n, held by the storage and abandoned */
static RigReq *abandon_block(Rig *rig, int thread, RigOp op, int n)
{
    unsigned int held = rig_nr_held(rig);
    RigReq *req = rig_submit(rig, thread, op, BLOCK(n), RIG_BLOCK, n);

    rig_wait(rig_nr_held(rig) == held + 1);
    rig_cancel(req);
    rig_check_canceled(req);
    return req;
}

/*
 * Abandoned requests
 */

static void drain_bdrv(Rig *rig)
{
    bdrv_drained_begin(rig->bs);
    g_assert_cmpuint(rig_nr_active(rig), ==, 0);
    bdrv_drained_end(rig->bs);
}

static void drain_blk(Rig *rig)
{
    blk_drain(rig->blk);
}

static void drain_all(Rig *rig)
{
    bdrv_drain_all();
}

static void do_test_abandoned(const RigVariant *v, void (*drain)(Rig *rig))
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = abandon_block(rig, 1, RIG_WRITE, 1);

    rig->drain_began = false;
    rig->on_drain = rig_release_all_soon;
    drain(rig);
    g_assert_true(rig->drain_began);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 2);
    rig_check_info(rig, 0, 0, 0, 0);
    rig_check_disk(rig, BLOCK(1), RIG_BLOCK, 1);
    rig_end(rig);
}

static void test_abandoned_bdrv(const RigVariant *v)
{
    do_test_abandoned(v, drain_bdrv);
}

static void test_abandoned_blk(const RigVariant *v)
{
    do_test_abandoned(v, drain_blk);
}

static void test_abandoned_all(const RigVariant *v)
{
    do_test_abandoned(v, drain_all);
}

/*
 * Waiters when the section begins: it ends, and nothing goes on inside it.
 */

static void check_quiet(Rig *rig)
{
    unsigned int arrived = rig_arrived(rig);

    g_assert_cmpuint(rig_nr_active(rig), ==, 0);
    g_assert_cmpuint(qatomic_read(&rig->bs->in_flight), ==, 0);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, arrived);
}

static void test_waiters_fence(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon_block(rig, 0, RIG_WRITE, 0);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xbb);
    g_autoptr(RigReq) b = rig_submit(rig, 1, v->op, 0, RIG_BLOCK, 0xcc);

    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 2);
    rig->on_drain = rig_release_all_soon;
    bdrv_drained_begin(rig->bs);
    rig_check_info(rig, 0, rig_info(rig).waiting_drained, 0, 0);
    check_quiet(rig);
    bdrv_drained_end(rig->bs);

    rig_check_result(a, 0);
    rig_check_result(b, 0);
    g_assert_cmpint(rig_landed(rig, 0).op, ==, RIG_WRITE);
    g_assert_cmphex(rig_landed(rig, 0).first, ==, 0);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 3);
    rig_end(rig);
}

/* The waiter is cancelled after the section has begun to wait. */
static void cancel_then_release_bh(void *opaque)
{
    RigReq *req = opaque;

    rig_cancel(req);
    rig_check_canceled(req);
    rig_release_all(req->rig);
}

static RigReq *cancel_while_draining_req;

static void cancel_while_draining(Rig *rig)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), cancel_then_release_bh,
                            cancel_while_draining_req);
}

static void test_waiter_fence_canceled(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon_block(rig, 0, RIG_WRITE, 0);
    g_autoptr(RigReq) req = rig_submit(rig, 1, v->op, 0, RIG_BLOCK, 0xbb);

    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    cancel_while_draining_req = req;
    rig->on_drain = cancel_while_draining;
    bdrv_drained_begin(rig->bs);
    rig_check_canceled(req);
    rig_check_info(rig, 0, 0, 0, 0);
    bdrv_drained_end(rig->bs);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_end(rig);
}

static void do_test_waiters_budget(const RigVariant *v,
                                   const BlkCancelOptions *opts)
{
    Rig *rig = rig_new(v->mode, opts);
    g_autoptr(RigReq) a = abandon_block(rig, 0, RIG_WRITE, 0);
    g_autoptr(RigReq) b = rig_submit(rig, 0, v->op, BLOCK(1), RIG_BLOCK, 1);
    g_autoptr(RigReq) c = rig_submit(rig, 1, v->op, BLOCK(2), RIG_BLOCK, 2);

    rig_settle(rig);
    rig_check_info(rig, 1, 0, 2, 0);
    rig->on_drain = rig_release_all_soon;
    bdrv_drained_begin(rig->bs);
    rig_check_info(rig, 0, rig_info(rig).waiting_drained,
                   rig_info(rig).waiting_budget, 0);
    check_quiet(rig);
    bdrv_drained_end(rig->bs);
    rig_check_result(b, 0);
    rig_check_result(c, 0);
    rig_end(rig);
}

static void test_waiters_budget(const RigVariant *v)
{
    BlkCancelOptions opts = {
        .budget = RIG_BLOCK, .damper = 100, .region = RIG_BLOCK,
    };

    do_test_waiters_budget(v, &opts);
}

/*
 * Requests that come inside the section
 */

/* Taken back: no trace of it is left, least of all a fence. */
static void do_test_parked(const RigVariant *v, int depth, bool all)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) parked = NULL, newer = NULL;

    if (all) {
        bdrv_drain_all_begin();
    }
    for (int i = 0; i < depth; i++) {
        bdrv_drained_begin(rig->bs);
    }

    parked = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    rig_settle(rig);
    rig_check_info(rig, 0, 1, 0, 0);
    rig_check_pending(parked);
    rig_cancel(parked);
    rig_check_canceled(parked);
    rig_check_info(rig, 0, 0, 0, 0);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 0);
    memset(parked->buf, 0xee, RIG_BLOCK);

    newer = rig_submit(rig, 1, RIG_READ, 0, RIG_BLOCK, 0);
    rig_settle(rig);
    rig_check_info(rig, 0, 1, 0, 0);
    check_quiet(rig);

    for (int i = 0; i < depth; i++) {
        g_assert_cmpuint(rig_arrived(rig), ==, 0);
        rig_check_info(rig, 0, 1, 0, 0);
        bdrv_drained_end(rig->bs);
    }
    if (all) {
        bdrv_drain_all_end();
    }

    rig_wait(rig_holds(rig, RIG_READ, 0));
    rig_check_info(rig, 0, 0, 0, 0);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    rig_release(rig, RIG_READ, 0);
    rig_check_result(newer, 0);
    rig_check_buf(newer, RIG_INITIAL);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_end(rig);
}

static void test_parked(const RigVariant *v)
{
    do_test_parked(v, 1, false);
}

static void test_parked_nested(const RigVariant *v)
{
    do_test_parked(v, 3, false);
}

static void test_parked_all(const RigVariant *v)
{
    do_test_parked(v, 0, true);
}

/* The section's end resumes the others, in their order. */
static void test_parked_some(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    RigReq *req[5];

    rig_set_holding(rig, false);
    bdrv_drained_begin(rig->bs);
    for (int i = 0; i < 5; i++) {
        req[i] = rig_submit(rig, i % 2, v->op, BLOCK(i), RIG_BLOCK, i);
    }
    rig_settle(rig);
    rig_check_info(rig, 0, 5, 0, 0);
    for (int i = 0; i < 5; i += 2) {
        rig_cancel(req[i]);
        rig_check_canceled(req[i]);
    }
    rig_check_info(rig, 0, 2, 0, 0);
    bdrv_drained_end(rig->bs);

    rig_check_result(req[1], 0);
    rig_check_result(req[3], 0);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 2);
    if (v->mode == RIG_ONE) {
        g_assert_cmpint(rig_landed(rig, 0).offset, <=,
                        rig_landed(rig, 1).offset);
    }
    for (int i = 0; i < 5; i++) {
        rig_req_free(req[i]);
    }
    rig_end(rig);
}

/* One that was parked and went on is abandoned like any other. */
static void test_parked_then_abandoned(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = NULL, newer = NULL;

    bdrv_drained_begin(rig->bs);
    req = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    rig_settle(rig);
    rig_check_info(rig, 0, 1, 0, 0);
    bdrv_drained_end(rig->bs);
    rig_wait(rig_holds(rig, v->op, 0));
    rig_cancel(req);
    rig_check_canceled(req);
    rig_check_info(rig, 1, 0, 0, 0);
    newer = rig_submit(rig, 1, RIG_WRITE, 0, RIG_BLOCK, 0xbb);
    rig_settle(rig);
    if (v->op == RIG_READ || v->op == RIG_FLUSH) {
        rig_check_info(rig, 1, 0, 0, 0);
    } else {
        rig_check_info(rig, 1, 0, 0, 1);
    }
    rig_release_all(rig);
    rig_check_result(newer, 0);
    rig_check_disk(rig, 0, RIG_BLOCK, 0xbb);
    rig_end(rig);
}

/* What is parked must not keep an inner section from beginning. */
static void test_parked_budget(const RigVariant *v)
{
    BlkCancelOptions opts = {
        .budget = RIG_BLOCK, .damper = 100, .region = RIG_BLOCK,
    };
    Rig *rig = rig_new(v->mode, &opts);
    RigReq *req[4];

    rig_set_holding(rig, false);
    bdrv_drained_begin(rig->bs);
    for (int i = 0; i < 4; i++) {
        req[i] = rig_submit(rig, i % 2, v->op, BLOCK(i), RIG_BLOCK, i);
    }
    rig_settle(rig);
    bdrv_drained_begin(rig->bs);
    check_quiet(rig);
    bdrv_drained_end(rig->bs);
    check_quiet(rig);
    bdrv_drained_end(rig->bs);
    for (int i = 0; i < 4; i++) {
        rig_check_result(req[i], 0);
        rig_req_free(req[i]);
    }
    rig_end(rig);
}

/*
 * Teardown
 */

/* The last reference goes while requests are abandoned and others wait. */
static void test_unref(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon_block(rig, 0, RIG_WRITE, 0xa);
    g_autoptr(RigReq) b = abandon_block(rig, 1, RIG_READ, 0xb);
    g_autoptr(RigReq) c = rig_submit(rig, 1, v->op, BLOCK(0xa), RIG_BLOCK,
                                     0xcc);

    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, v->op == RIG_FLUSH ? 0 : 1);
    rig->on_drain = rig_release_all_soon;
    blk_unref(rig->blk);
    rig_check_result(c, 0);
    /* Closing the node may flush it */
    g_assert_cmpuint(rig_nr_landed(rig), >=, 3);
    if (v->op == RIG_READ) {
        rig_check_buf(c, 0xa);
    } else if (v->op == RIG_WRITE) {
        rig_check_disk(rig, BLOCK(0xa), RIG_BLOCK, 0xcc);
    }
    rig_free(rig);
}

/* The medium is taken out; what comes later has none. */
static void test_remove_medium(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = NULL;

    rig->on_drain = rig_release_all_soon;
    blk_remove_bs(rig->blk);
    g_assert_cmpuint(rig_landed(rig, 0).op, ==, v->op);
    rig_check_info(rig, 0, 0, 0, 0);
    b = rig_submit(rig, 1, v->op, 0, RIG_BLOCK, 0);
    rig_check_result(b, -ENOMEDIUM);
    rig_wait_idle(rig);
    blk_unref(rig->blk);
    rig_free(rig);
}

/* The device model leaves: cancelling is off for whoever comes next. */
static void test_detach_dev(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = NULL;
    char dev; /* never looked into */

    g_assert_cmpint(blk_attach_dev(rig->blk, (DeviceState *)&dev), ==, 0);
    blk_detach_dev(rig->blk, (DeviceState *)&dev);
    blk_set_perm(rig->blk, BLK_PERM_ALL, BLK_PERM_ALL, &error_abort);

    req = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0);
    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(req);
    rig_settle(rig);
    rig_check_pending(req);
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    rig_check_result(req, 0);
    rig_end(rig);
}

/* Switched on again: counters start anew, and it works. */
static void test_switch(const RigVariant *v)
{
    BlkCancelOptions opts = {
        .budget = RIG_BLOCK, .damper = 100, .region = RIG_BLOCK,
    };
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = NULL;

    rig_release_all(rig);
    rig_wait_idle(rig);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 1);
    g_assert_true(blk_set_cancel(rig->blk, &opts, &error_abort));
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);

    rig_set_holding(rig, true);
    b = rig_submit(rig, 1, v->op, 0, RIG_BLOCK, 0);
    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(b);
    rig_check_canceled(b);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 1);
    rig_end(rig);
}

void add_drain_tests(void)
{
    static const RigOp ranged[] = {
        RIG_READ, RIG_WRITE, RIG_ZEROES, RIG_DISCARD,
    };

    rig_add_ops("drain/abandoned-bdrv", test_abandoned_bdrv);
    rig_add_ops("drain/abandoned-blk", test_abandoned_blk);
    rig_add_ops("drain/abandoned-all", test_abandoned_all);
    for (int i = 0; i < ARRAY_SIZE(ranged); i++) {
        rig_add_op("drain/waiters-fence", ranged[i], test_waiters_fence);
        rig_add_op("drain/waiter-fence-canceled", ranged[i],
                   test_waiter_fence_canceled);
    }
    rig_add_op("drain/waiters-budget", RIG_READ, test_waiters_budget);
    rig_add_op("drain/waiters-budget", RIG_WRITE, test_waiters_budget);

    rig_add_ops("drain/parked", test_parked);
    rig_add_ops("drain/parked-nested", test_parked_nested);
    rig_add_ops("drain/parked-all", test_parked_all);
    rig_add_ops("drain/parked-some", test_parked_some);
    rig_add_ops("drain/parked-then-abandoned", test_parked_then_abandoned);
    rig_add_ops("drain/parked-budget", test_parked_budget);

    rig_add_ops("teardown/unref", test_unref);
    rig_add_ops("teardown/remove-medium", test_remove_medium);
    rig_add_ops("teardown/detach-dev", test_detach_dev);
    rig_add_ops("teardown/switch", test_switch);
}
