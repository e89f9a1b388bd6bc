/*
 * Requests of a BlockBackend that can be taken back: the gate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Who has passed the gate has nothing to wait for; who has not has changed
 * nothing; and what waits at the gate goes on as if nothing had been.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/throttle.h"
#include "qemu/timer.h"
#include "block/blk-gate.h"
#include "blk-cancel-rig.h"
#include "main-loop-wait.h"

#define BLOCK(n)    ((n) * RIG_BLOCK)

/* One blk_gate_co_enter() */
typedef struct Entry {
    bool flush;
    bool over;
    bool ok;
    Error *err;
} Entry;

static void coroutine_fn enter_entry(void *opaque)
{
    Entry *e = opaque;

    e->ok = blk_gate_co_enter("test", e->flush, &e->err);
    e->over = true;
}

static void enter_begin(Entry *e, bool flush)
{
    *e = (Entry) { .flush = flush };
    aio_co_enter(qemu_get_aio_context(),
                 qemu_coroutine_create(enter_entry, e));
    if (!e->over) {
        rig_poll();     /* it closes now */
    }
}

static void check_refused(Entry *e, const char *what)
{
    rig_wait(e->over);
    g_assert_false(e->ok);
    if (!strstr(error_get_pretty(e->err), what)) {
        g_error("\"%s\" does not say \"%s\"", error_get_pretty(e->err), what);
    }
    error_free(e->err);
}

static void check_entered(Entry *e)
{
    rig_wait(e->over);
    g_assert_true(e->ok);
    g_assert_null(e->err);
}

/* A request that must not get through the gate */
static RigReq *submit_parked(Rig *rig, int thread, RigOp op, int n)
{
    unsigned int arrived = rig_arrived(rig);
    unsigned int parked = rig_info(rig).waiting_drained;
    RigReq *req = rig_submit(rig, thread, op, BLOCK(n), RIG_BLOCK, 0xb0 + n);

    rig_wait(rig_info(rig).waiting_drained == parked + 1);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, arrived);
    rig_check_pending(req);
    return req;
}

static void test_idle(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL;
    Entry e;

    enter_begin(&e, false);
    check_entered(&e);
    a = submit_parked(rig, 0, v->op, 0);
    b = submit_parked(rig, 1, v->op, 1);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 0);
    blk_gate_leave();
    /* A node flushes once at a time */
    rig_wait(rig_nr_held(rig) == (v->op == RIG_FLUSH ? 1 : 2));
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_check_result(b, 0);
    rig_end(rig);
}

/* What is in flight finishes; what comes meanwhile waits */
static void test_in_flight(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) b = rig_submit(rig, 1, v->op, BLOCK(1), RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) newer = NULL;
    Entry e;

    rig_wait(rig_nr_held(rig) == 2);
    enter_begin(&e, false);
    newer = submit_parked(rig, 1, RIG_WRITE, 2);
    rig_release(rig, v->op, 0);
    rig_check_result(a, 0);
    g_assert_false(e.over);
    rig_release(rig, v->op, BLOCK(1));
    check_entered(&e);
    rig_check_result(b, 0);
    rig_check_pending(newer);
    blk_gate_leave();
    rig_wait(rig_holds(rig, RIG_WRITE, BLOCK(2)));
    rig_release_all(rig);
    rig_check_result(newer, 0);
    rig_check_disk(rig, BLOCK(2), RIG_BLOCK, 0xb2);
    rig_end(rig);
}

/* It hangs: the gate opens again, and says what hangs */
static void test_hangs(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    int64_t begin = get_clock();
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) newer = NULL;
    Error *err = NULL;
    Entry e;

    rig_wait(rig_nr_held(rig) == 1);
    g_assert_true(blk_gate_check("test", &error_abort));
    enter_begin(&e, false);
    newer = submit_parked(rig, 1, RIG_WRITE, 1);
    check_refused(&e, "has 1 request with the storage, 0 of them abandoned");
    g_assert_cmpint(get_clock() - begin, >=, NANOSECONDS_PER_SECOND);
    rig_wait(rig_holds(rig, RIG_WRITE, BLOCK(1)));

    /* By now it is known */
    g_assert_false(blk_gate_check("test", &err));
    error_free_or_abort(&err);
    enter_begin(&e, false);
    g_assert_true(e.over);
    check_refused(&e, "2 requests with the storage");

    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_check_result(newer, 0);
    enter_begin(&e, false);
    check_entered(&e);
    blk_gate_leave();
    rig_end(rig);
}

static void test_abandoned(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    Entry e;

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(a);
    rig_check_canceled(a);
    enter_begin(&e, false);
    g_assert_true(e.over);
    check_refused(&e, "has 1 request with the storage, 1 of them abandoned");
    rig_release_all(rig);
    rig_wait_idle(rig);
    enter_begin(&e, false);
    check_entered(&e);
    blk_gate_leave();
    rig_end(rig);
}

/* The guest takes back what the gate waits for: that will take long */
static void test_abandoned_meanwhile(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    Entry e;

    rig_wait(rig_nr_held(rig) == 1);
    enter_begin(&e, false);
    g_assert_false(e.over);
    rig_cancel(a);
    check_refused(&e, "1 of them abandoned");
    rig_end(rig);
}

static void test_cancel_parked(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL;
    Entry e;

    enter_begin(&e, false);
    check_entered(&e);
    a = submit_parked(rig, 1, v->op, 0);
    rig_cancel(a);
    rig_check_canceled(a);
    rig_check_info(rig, 0, 0, 0, 0);
    blk_gate_leave();
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    rig_end(rig);
}

/* A drained section and the gate: the request waits for both */
static void test_drained(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL;
    Entry e;

    enter_begin(&e, false);
    check_entered(&e);
    a = submit_parked(rig, 0, v->op, 0);
    bdrv_drained_begin(rig->bs);
    b = submit_parked(rig, 1, v->op, 1);
    bdrv_drained_end(rig->bs);
    rig_settle(rig);
    rig_check_info(rig, 0, 2, 0, 0);

    bdrv_drained_begin(rig->bs);
    blk_gate_leave();
    rig_settle(rig);
    rig_check_info(rig, 0, 2, 0, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    bdrv_drained_end(rig->bs);
    rig_wait(rig_nr_held(rig) == 2);
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_check_result(b, 0);
    rig_end(rig);
}

/* The VM stops: the devices wait for what waits at the gate */
static void test_vm_stops(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL;
    g_autoptr(RigReq) b = NULL;
    Entry e;

    enter_begin(&e, false);
    check_entered(&e);
    a = submit_parked(rig, 0, v->op, 0);
    rig_release_all(rig);
    blk_gate_vm_stops();
    blk_drain(rig->blk);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 1);
    blk_gate_leave();
    rig_check_result(a, 0);

    /* Nor is the gate closed for somebody else before the VM has stopped */
    enter_begin(&e, false);
    check_entered(&e);
    b = rig_submit(rig, 0, v->op, BLOCK(1), RIG_BLOCK, 0xb1);
    rig_wait(rig_req_calls(b));
    blk_gate_leave();
    blk_gate_vm_stopped();
    rig_check_result(b, 0);
    rig_end(rig);
}

/* Two are at the gate; it opens with the last */
static void test_two(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL;
    Entry e, f;

    enter_begin(&e, false);
    check_entered(&e);
    enter_begin(&f, true);
    g_assert_false(f.over);
    rig_wait(rig_holds(rig, RIG_FLUSH, 0));
    rig_release(rig, RIG_FLUSH, 0);
    check_entered(&f);
    a = submit_parked(rig, 0, v->op, 0);
    blk_gate_leave();
    rig_settle(rig);
    g_assert_cmpuint(rig_info(rig).waiting_drained, ==, 1);
    blk_gate_leave();
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_end(rig);
}

/* Nobody leaves: the gate opens by itself, also in a nested event loop */
static void test_forgotten(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL;
    Entry e;

    enter_begin(&e, false);
    check_entered(&e);
    a = submit_parked(rig, 1, v->op, 0);
    rig_release_all(rig);
    rig_check_result(a, 0);
    blk_gate_leave();
    rig_end(rig);
}

/* A flush is found to hang at the gate */
static void test_flush_hangs(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) newer = NULL;
    Entry e;

    enter_begin(&e, true);
    rig_wait(rig_holds(rig, RIG_FLUSH, 0));
    newer = submit_parked(rig, 1, v->op, 1);
    check_refused(&e, "1 of them abandoned");
    rig_wait(rig_nr_held(rig) == 2);
    rig_check_info(rig, 1, 0, 0, 0);

    enter_begin(&e, true);
    g_assert_true(e.over);
    check_refused(&e, "2 requests with the storage");
    rig_release_all(rig);
    rig_check_result(newer, 0);
    rig_wait_idle(rig);
    enter_begin(&e, true);
    check_entered(&e);
    blk_gate_leave();
    rig_end(rig);
}

/* What is throttled goes on, as in a drained section */
static void test_throttled(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL, newer = NULL;
    ThrottleConfig cfg;
    Entry e;

    throttle_config_init(&cfg);
    cfg.buckets[THROTTLE_BPS_TOTAL].avg = 1;
    blk_io_limits_enable(rig->blk, "gate");
    blk_set_io_limits(rig->blk, &cfg);
    rig_settle(rig);
    a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    rig_wait(rig_nr_held(rig) == 1);
    b = rig_submit(rig, 1, v->op, BLOCK(1), RIG_BLOCK, 0xaa);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_release_all(rig);
    enter_begin(&e, false);
    check_entered(&e);
    rig_check_result(a, 0);
    rig_check_result(b, 0);
    blk_gate_leave();

    newer = rig_submit(rig, 0, v->op, BLOCK(2), RIG_BLOCK, 0xaa);
    rig_settle(rig);
    rig_check_pending(newer);
    rig_cancel(newer);
    throttle_config_init(&cfg);
    blk_set_io_limits(rig->blk, &cfg);
    rig_wait_idle(rig);
    blk_io_limits_disable(rig->blk);
    rig_end(rig);
}

/* A job's request, for instance: it came by another BlockBackend */
static void test_other_user(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    BlockBackend *blk = rig->blk;
    BlockBackend *other = blk_new(blk_get_aio_context(blk),
                                  BLK_PERM_ALL, BLK_PERM_ALL);
    g_autoptr(RigReq) a = NULL;
    Entry e;

    blk_insert_bs(other, rig->bs, &error_abort);
    a = rig_prepare(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    rig->blk = other;
    rig_submit_prepared(a);
    rig->blk = blk;
    rig_wait(rig_nr_held(rig) == 1);
    enter_begin(&e, false);
    g_assert_false(e.over);
    check_refused(&e, "node ");
    rig_release_all(rig);
    rig_check_result(a, 0);
    blk_unref(other);
    rig_end(rig);
}

static void count_call(void *opaque)
{
    unsigned int *calls = opaque;

    g_assert_false(qemu_in_coroutine());
    (*calls)++;
}

/* Something that cannot be refused: it is done when the storage answers */
static void test_call(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    unsigned int calls = 0;
    int64_t begin = get_clock();

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(a);
    blk_gate_call("test", false, count_call, &calls);
    main_loop_wait_for(get_clock() - begin > NANOSECONDS_PER_SECOND / 4);
    g_assert_cmpuint(calls, ==, 0);
    rig_release_all(rig);
    main_loop_wait_for(calls);
    rig_wait_idle(rig);
    main_loop_wait_for(!blk_gate_is_entered());
    g_assert_cmpuint(calls, ==, 1);
    rig_end(rig);
}

/* Without cancelling it is done at once, whatever hangs */
static void test_off(const RigVariant *v)
{
    Rig *rig = rig_new_stock(v->mode);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    unsigned int calls = 0;
    Entry e;

    rig_wait(rig_nr_held(rig) == 1);
    g_assert_true(blk_gate_check("test", &error_abort));
    enter_begin(&e, true);
    g_assert_true(e.over);
    check_entered(&e);
    blk_gate_leave();
    blk_gate_call("test", true, count_call, &calls);
    g_assert_cmpuint(calls, ==, 1);
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_end(rig);
}

void add_gate_tests(void)
{
    rig_add_ops("gate/idle", test_idle);
    rig_add_op("gate/in-flight", RIG_READ, test_in_flight);
    rig_add_op("gate/in-flight", RIG_WRITE, test_in_flight);
    rig_add_op("gate/hangs", RIG_READ, test_hangs);
    rig_add_ops("gate/abandoned", test_abandoned);
    rig_add_op("gate/abandoned-meanwhile", RIG_WRITE, test_abandoned_meanwhile);
    rig_add_ops("gate/cancel-parked", test_cancel_parked);
    rig_add_op("gate/drained", RIG_WRITE, test_drained);
    rig_add_op("gate/vm-stops", RIG_WRITE, test_vm_stops);
    rig_add_op("gate/two", RIG_WRITE, test_two);
    rig_add_op("gate/forgotten", RIG_READ, test_forgotten);
    rig_add_op("gate/flush-hangs", RIG_WRITE, test_flush_hangs);
    rig_add_op("gate/throttled", RIG_WRITE, test_throttled);
    rig_add_op("gate/other-user", RIG_READ, test_other_user);
    rig_add_op("gate/call", RIG_WRITE, test_call);
    rig_add_op("gate/off", RIG_READ, test_off);
}
