/*
 * Requests of a BlockBackend that can be taken back: the throttle queue
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A request that is throttled can be taken back for free, and the others of
 * its group go on as if it had never come.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/throttle.h"
#include "blk-cancel-rig.h"

#define BLOCK(n)    ((n) * RIG_BLOCK)

/* At one byte per second, what is throttled stays so until the test says. */
static void throttle_on(Rig *rig, const char *group, BucketType bucket,
                        uint64_t avg)
{
    ThrottleConfig cfg;

    throttle_config_init(&cfg);
    cfg.buckets[bucket].avg = avg;
    blk_io_limits_enable(rig->blk, group);
    blk_set_io_limits(rig->blk, &cfg);
    /* Let the restart of the queue be over */
    rig_settle(rig);
}

static void throttle_open(Rig *rig)
{
    ThrottleConfig cfg;

    throttle_config_init(&cfg);
    blk_set_io_limits(rig->blk, &cfg);
}

static void throttle_end(Rig *rig)
{
    rig_release_all(rig);
    throttle_open(rig);
    rig_wait_idle(rig);
    blk_io_limits_disable(rig->blk);
    rig_end(rig);
}

static void test_throttle_cancel(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL, c = NULL, newer = NULL;

    throttle_on(rig, "cancel", THROTTLE_BPS_TOTAL, 1);
    a = rig_submit(rig, 0, v->op, BLOCK(0), RIG_BLOCK, 0xa1);
    rig_wait(rig_holds(rig, v->op, BLOCK(0)));
    b = rig_submit(rig, 1, v->op, BLOCK(1), RIG_BLOCK, 0xa2);
    c = rig_submit(rig, 0, v->op, BLOCK(2), RIG_BLOCK, 0xa3);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);

    rig_cancel(b);
    rig_check_canceled(b);
    memset(b->buf, 0xee, RIG_BLOCK);
    rig_wait(rig_info(rig).budget_used ==
             (v->op == RIG_ZEROES ? 0 : RIG_BLOCK));
    rig_check_info(rig, 0, 0, 0, 0);
    rig_settle(rig);
    rig_check_pending(c);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);

    throttle_open(rig);
    rig_wait(rig_holds(rig, v->op, BLOCK(2)));
    newer = rig_submit(rig, 1, RIG_READ, BLOCK(1), RIG_BLOCK, 0);
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_check_result(c, 0);
    rig_check_result(newer, 0);
    rig_check_buf(newer, RIG_INITIAL);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 3);
    throttle_end(rig);
}

typedef struct ThrottleRun {
    Rig *rig;
    RigReq *req[4];
} ThrottleRun;

/* In one go, so that no timer can run in between */
static void submit_four_cancel_one(void *opaque)
{
    ThrottleRun *run = opaque;

    for (int i = 0; i < 4; i++) {
        rig_submit_here(run->req[i]);
    }
    g_assert_cmpuint(rig_arrived(run->rig), ==, 1);
    rig_cancel_here(run->req[1]);
    rig_check_canceled(run->req[1]);
}

/*
 * The first in the queue, for which the timer runs, is taken out: the next two
 * are issued when their time has come, and the second is not charged for a
 * request that never was.  That would take two minutes; it takes a second.
 */
static void test_throttle_goes_on(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    ThrottleRun run = { .rig = rig };

    for (int i = 0; i < 4; i++) {
        run.req[i] = rig_prepare(rig, 0, v->op, i == 1 ? 0 : BLOCK(i),
                                 i == 1 ? RIG_DISK_SIZE : RIG_BLOCK, 0xa0);
    }
    throttle_on(rig, "cancel", THROTTLE_BPS_TOTAL, 8 * KiB);
    rig_run(rig->ctx[0], submit_four_cancel_one, &run);
    rig_wait(rig_holds(rig, v->op, BLOCK(2)));
    rig_wait(rig_holds(rig, v->op, BLOCK(3)));
    rig_release_all(rig);
    for (int i = 0; i < 4; i++) {
        rig_wait(rig_req_calls(run.req[i]));
        g_assert_cmpint(run.req[i]->canceled, ==, i == 1);
        rig_req_free(run.req[i]);
    }
    g_assert_cmpuint(rig_arrived(rig), ==, 3);
    throttle_end(rig);
}

typedef struct ThrottlePause {
    RigReq *req;
    QemuEvent paused;
    QemuEvent go_on;
} ThrottlePause;

static void pause_then_cancel(void *opaque)
{
    ThrottlePause *pause = opaque;

    qemu_event_set(&pause->paused);
    qemu_event_wait(&pause->go_on);
    rig_cancel_here(pause->req);
    rig_check_canceled(pause->req);
}

/*
 * A request's turn has come, but its thread is busy and then cancels it: the
 * turn goes to the next.
 */
static void test_throttle_granted(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL, c = NULL;
    ThrottlePause pause;

    throttle_on(rig, "cancel", THROTTLE_BPS_TOTAL, 1);
    a = rig_submit(rig, 0, v->op, BLOCK(0), RIG_BLOCK, 0xa1);
    rig_wait(rig_holds(rig, v->op, BLOCK(0)));
    b = rig_submit(rig, 1, v->op, BLOCK(1), RIG_BLOCK, 0xa2);
    c = rig_submit(rig, 0, v->op, BLOCK(2), RIG_BLOCK, 0xa3);

    pause.req = b;
    qemu_event_init(&pause.paused, false);
    qemu_event_init(&pause.go_on, false);
    if (v->mode == RIG_TWO) {
        aio_bh_schedule_oneshot(rig->ctx[1], pause_then_cancel, &pause);
        qemu_event_wait(&pause.paused);
        /* The queue is restarted in thread 0, the group's home */
        throttle_open(rig);
        for (int i = 0; i < 4; i++) {
            rig_settle_thread(rig, 0);
        }
        g_assert_cmpuint(rig_arrived(rig), ==, 1);
        qemu_event_set(&pause.go_on);
        rig_wait(rig_req_calls(b));
    } else {
        /* One thread cannot come between */
        rig_cancel(b);
        throttle_open(rig);
    }
    rig_check_canceled(b);
    rig_wait(rig_holds(rig, v->op, BLOCK(2)));
    rig_settle(rig);
    qemu_event_destroy(&pause.paused);
    qemu_event_destroy(&pause.go_on);
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_check_result(c, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    throttle_end(rig);
}

/* The token is with a BlockBackend that has nothing to issue any more. */
static void test_throttle_other_member(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    Rig *other = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL, c = NULL;

    throttle_on(rig, "cancel", THROTTLE_BPS_TOTAL, 1);
    throttle_on(other, "cancel", THROTTLE_BPS_TOTAL, 1);
    a = rig_submit(rig, 0, v->op, BLOCK(0), RIG_BLOCK, 0xa1);
    rig_wait(rig_holds(rig, v->op, BLOCK(0)));
    b = rig_submit(rig, 0, v->op, BLOCK(1), RIG_BLOCK, 0xa2);
    c = rig_submit(other, 0, v->op, BLOCK(2), RIG_BLOCK, 0xa3);
    rig_settle(rig);
    rig_settle(other);
    rig_cancel(b);
    rig_check_canceled(b);
    rig_settle(other);
    g_assert_cmpuint(rig_arrived(other), ==, 0);

    /* Restarts this member's queue, which is empty, and nobody else's */
    throttle_open(rig);
    rig_wait(rig_holds(other, v->op, BLOCK(2)));
    rig_release_all(other);
    rig_check_result(c, 0);

    /* What is held has the graph's lock: release before anything is closed */
    rig_release_all(rig);
    rig_check_result(a, 0);
    throttle_end(other);
    throttle_end(rig);
}

/* A drained section opens the throttle queue, and waits for what was in it. */
static void test_throttle_drain(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL, c = NULL;

    throttle_on(rig, "cancel", THROTTLE_BPS_TOTAL, 1);
    a = rig_submit(rig, 0, v->op, BLOCK(0), RIG_BLOCK, 0xa1);
    rig_wait(rig_holds(rig, v->op, BLOCK(0)));
    b = rig_submit(rig, 0, v->op, BLOCK(1), RIG_BLOCK, 0xa2);
    c = rig_submit(rig, 1, v->op, BLOCK(2), RIG_BLOCK, 0xa3);
    rig_settle(rig);
    rig_cancel(a);
    rig_check_canceled(a);
    rig_cancel(b);
    rig_check_canceled(b);

    rig->on_drain = rig_release_all_soon;
    bdrv_drained_begin(rig->bs);
    g_assert_cmpuint(rig_nr_active(rig), ==, 0);
    rig_check_info(rig, 0, rig_info(rig).waiting_drained, 0, 0);
    bdrv_drained_end(rig->bs);
    rig_check_result(c, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    throttle_end(rig);
}

void add_throttle_tests(void)
{
    /* Throttle groups are objects */
    module_call_init(MODULE_INIT_QOM);

    rig_add_op("throttle/cancel", RIG_READ, test_throttle_cancel);
    rig_add_op("throttle/cancel", RIG_WRITE, test_throttle_cancel);
    rig_add_op("throttle/cancel", RIG_ZEROES, test_throttle_cancel);
    rig_add_op("throttle/goes-on", RIG_READ, test_throttle_goes_on);
    rig_add_op("throttle/goes-on", RIG_WRITE, test_throttle_goes_on);
    rig_add_op("throttle/granted", RIG_READ, test_throttle_granted);
    rig_add_op("throttle/granted", RIG_WRITE, test_throttle_granted);
    rig_add_op("throttle/other-member", RIG_READ, test_throttle_other_member);
    rig_add_op("throttle/other-member", RIG_WRITE,
               test_throttle_other_member);
    rig_add_op("throttle/drain", RIG_READ, test_throttle_drain);
    rig_add_op("throttle/drain", RIG_WRITE, test_throttle_drain);
}
