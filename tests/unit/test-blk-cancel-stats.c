/*
 * Requests of a BlockBackend that can be taken back: figures
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What is counted when, and what a reset of the figures leaves alone.  The
 * event, which needs a monitor, is in qtest/virtio-blk-cancel-figures-test.c.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/blk-cancel-qapi.h"
#include "blk-cancel-rig.h"

#define BLOCK(n)    ((n) * RIG_BLOCK)
#define COUNT       10000   /* cancels of each kind and thread */

static RigReq *abandon(Rig *rig, int thread, RigOp op, int64_t offset,
                      int64_t bytes)
{
    RigReq *req = rig_submit(rig, thread, op, offset, bytes, 0xaa);

    rig_wait(rig_holds(rig, op, op == RIG_FLUSH ? 0 : offset));
    rig_cancel(req);
    rig_check_canceled(req);
    return req;
}

static void test_abandoned(const RigVariant *v)
{
    uint64_t bytes = v->op == RIG_FLUSH ? 0 : 3 * RIG_BLOCK;
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL;
    g_autoptr(RigReq) b = NULL;
    BlkCancelInfo info;

    g_assert_cmpuint(rig_info(rig).max_ns, ==, 0);
    g_assert_cmpuint(rig_info(rig).budget, ==, BLK_CANCEL_DEFAULT_BUDGET);

    a = abandon(rig, 0, v->op, BLOCK(0), 3 * RIG_BLOCK);
    b = abandon(rig, 1, RIG_READ, BLOCK(8), RIG_BLOCK);
    info = rig_info(rig);
    g_assert_cmpuint(info.abandoned, ==, 2);
    g_assert_cmpuint(info.abandoned_bytes, ==, bytes + RIG_BLOCK);
    g_assert_cmpuint(info.abandoned_ever, ==, 2);
    g_assert_cmpint(info.oldest_ns, >, 0);
    g_assert_cmpint(info.max_ns, ==, info.oldest_ns);

    /* The younger finishes: the older still is the oldest */
    rig_release(rig, RIG_READ, BLOCK(8));
    rig_wait(rig_info(rig).abandoned == 1);
    g_assert_cmpuint(rig_info(rig).abandoned_bytes, ==, bytes);
    g_assert_cmpint(rig_info(rig).oldest_ns, >, info.oldest_ns);

    rig_release_all(rig);
    rig_wait_idle(rig);
    g_assert_cmpuint(rig_info(rig).abandoned_bytes, ==, 0);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 2);
    g_assert_cmpint(rig_info(rig).oldest_ns, ==, 0);
    g_assert_cmpint(rig_info(rig).max_ns, >, info.max_ns);
    rig_end(rig);
}

/* The highest age is that of the oldest, not that of the last */
static void test_max_age(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon(rig, 0, RIG_READ, BLOCK(0), RIG_BLOCK);
    g_autoptr(RigReq) b = NULL;
    int64_t max_ns;

    rig_release(rig, RIG_READ, BLOCK(0));
    rig_wait_idle(rig);
    max_ns = rig_info(rig).max_ns;
    g_assert_cmpint(max_ns, >, 0);

    /* Until another one is older */
    b = abandon(rig, 0, RIG_READ, BLOCK(1), RIG_BLOCK);
    g_assert_cmpint(rig_info(rig).max_ns, >=, max_ns);
    rig_wait(rig_info(rig).oldest_ns > max_ns);
    g_assert_cmpint(rig_info(rig).max_ns, >, max_ns);
    rig_end(rig);
}

/* One hang lasts from the first abandoned request to the last */
static void test_hang(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon(rig, 0, RIG_READ, BLOCK(0), RIG_BLOCK);
    g_autoptr(RigReq) b = abandon(rig, 1, RIG_READ, BLOCK(1), RIG_BLOCK);
    g_autoptr(RigReq) c = NULL;
    int64_t ns;

    g_assert_cmpuint(rig_info(rig).hang_requests, ==, 2);
    rig_release(rig, RIG_READ, BLOCK(0));
    rig_release(rig, RIG_READ, BLOCK(1));
    rig_wait_idle(rig);

    /* Over, it is remembered */
    g_assert_cmpuint(rig_info(rig).hang_requests, ==, 2);
    ns = rig_info(rig).hang_max_ns;
    g_assert_cmpint(ns, ==, rig_info(rig).max_ns);

    c = abandon(rig, 0, RIG_READ, BLOCK(2), RIG_BLOCK);
    g_assert_cmpuint(rig_info(rig).hang_requests, ==, 1);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 3);
    rig_end(rig);
}

static void test_reset(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon(rig, 0, RIG_WRITE, BLOCK(0), RIG_BLOCK);
    g_autoptr(RigReq) behind = rig_submit(rig, 1, RIG_READ, BLOCK(0),
                                          RIG_BLOCK, 0);
    BlkCancelInfo before, after;

    rig_wait(rig_info(rig).waiting_fence == 1);
    blk_cancel_account(rig->blk, BLK_CANCEL_REFUSED);
    before = rig_info(rig);
    g_assert_true(blk_cancel_reset_stats(rig->blk));
    after = rig_info(rig);
    g_assert_cmpuint(after.abandoned_ever, ==, 0);
    g_assert_cmpuint(after.cancels[BLK_CANCEL_REFUSED], ==, 0);

    /* What is now stays, and so does the fence */
    rig_check_info(rig, 1, 0, 0, 1);
    g_assert_cmpuint(after.abandoned_bytes, ==, before.abandoned_bytes);
    g_assert_cmpuint(after.budget_used, ==, before.budget_used);
    g_assert_cmpuint(after.hang_requests, ==, 1);
    g_assert_cmpint(after.oldest_ns, >=, before.oldest_ns);
    rig_check_pending(behind);

    rig_release_all(rig);
    rig_check_result(behind, 0);
    rig_check_buf(behind, 0xaa);
    rig_wait_idle(rig);
    g_assert_cmpint(rig_info(rig).max_ns, >=, after.oldest_ns);
    g_assert_true(blk_cancel_reset_stats(rig->blk));
    g_assert_cmpint(rig_info(rig).max_ns, ==, 0);
    rig_end(rig);
}

static void count_cancels(void *opaque)
{
    Rig *rig = opaque;

    for (int i = 0; i < COUNT; i++) {
        for (int outcome = 0; outcome < BLK_CANCEL__MAX; outcome++) {
            blk_cancel_account(rig->blk, outcome);
        }
    }
}

static void count_cancels_bh(void *opaque)
{
    count_cancels(opaque);
}

/* None is lost when threads count at the same time */
static void test_cancels(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    BlkCancelInfo info;

    aio_bh_schedule_oneshot(rig->ctx[1], count_cancels_bh, rig);
    rig_run(rig->ctx[0], count_cancels, rig);
    rig_settle(rig);
    info = rig_info(rig);
    for (int outcome = 0; outcome < BLK_CANCEL__MAX; outcome++) {
        g_assert_cmpuint(info.cancels[outcome], ==, 2 * COUNT);
    }
    rig_end(rig);
}

/* As QAPI has them; this BlockBackend has no device and no name */
static void test_qapi(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) req = abandon(rig, 0, RIG_READ, 0, RIG_BLOCK);
    g_autoptr(BlockHungInfo) info = NULL;
    BlockHungStats *s;

    for (int outcome = 0; outcome < BLK_CANCEL__MAX; outcome++) {
        for (int i = 0; i <= outcome; i++) {
            blk_cancel_account(rig->blk, outcome);
        }
    }
    info = blk_cancel_get_info(rig->blk);
    g_assert_cmpstr(info->qom_path, ==, "");
    g_assert_null(info->qdev_id);
    g_assert_cmpstr(info->device, ==, "");
    g_assert_cmpstr(info->node_name, ==, bdrv_get_node_name(rig->bs));

    s = info->stats;
    g_assert_cmpuint(s->cancels->canceled, ==, 1);
    g_assert_cmpuint(s->cancels->completed, ==, 2);
    g_assert_cmpuint(s->cancels->not_found, ==, 3);
    g_assert_cmpuint(s->cancels->refused, ==, 4);
    g_assert_cmpuint(s->cancels->invalid, ==, 5);
    g_assert_cmpuint(s->cancels->received, ==, 15);
    g_assert_cmpuint(s->abandoned, ==, 1);
    g_assert_cmpuint(s->abandoned_bytes, ==, RIG_BLOCK);
    g_assert_cmpuint(s->abandoned_total, ==, 1);
    g_assert_cmpuint(s->oldest_age_ns, >, 0);
    g_assert_cmpuint(s->max_age_ns, ==, s->oldest_age_ns);
    g_assert_cmpuint(s->budget, ==, BLK_CANCEL_DEFAULT_BUDGET);
    g_assert_cmpuint(s->budget_used, ==, RIG_BLOCK);
    rig_end(rig);
}

/* Off, and on again */
static void test_off(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    const BlkCancelOptions opts = BLK_CANCEL_OPTIONS(RIG_BLOCK);

    blk_cancel_account(rig->blk, BLK_CANCEL_CANCELED);
    blk_set_cancel(rig->blk, NULL, &error_abort);
    g_assert_null(blk_cancel_get_info(rig->blk));
    g_assert_null(blk_cancel_get_stats(rig->blk));
    g_assert_false(blk_cancel_reset_stats(rig->blk));
    blk_cancel_account(rig->blk, BLK_CANCEL_CANCELED);
    g_assert_cmpuint(rig_info(rig).cancels[BLK_CANCEL_CANCELED], ==, 0);

    blk_set_cancel(rig->blk, &opts, &error_abort);
    g_assert_cmpuint(rig_info(rig).cancels[BLK_CANCEL_CANCELED], ==, 0);
    g_assert_cmpuint(rig_info(rig).budget, ==, RIG_BLOCK);
    rig_end(rig);
}

void add_stats_tests(void)
{
    rig_add_ops("stats/abandoned", test_abandoned);
    rig_add("stats/max-age", test_max_age);
    rig_add("stats/hang", test_hang);
    rig_add("stats/reset", test_reset);
    rig_add("stats/cancels", test_cancels);
    rig_add("stats/qapi", test_qapi);
    rig_add("stats/off", test_off);
}
