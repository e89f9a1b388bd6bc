/*
 * Requests of a BlockBackend that can be taken back: holding disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Who holds disks has nothing to wait for; who could not has changed nothing;
 * what waited meanwhile goes on as if nothing had been; and storage that only
 * is slow is not said to hang.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/throttle.h"
#include "qemu/timer.h"
#include "block/blk-hold.h"
#include "blk-cancel-rig.h"
#include "main-loop-wait.h"

#define BLOCK(n)    ((n) * RIG_BLOCK)

/* In all; half a second of this without progress, and the storage hangs */
#define TIMEOUT_MS  2000
#define STALL_NS    (TIMEOUT_MS / 4 * SCALE_MS)

/* One blk_hold_co_begin() */
typedef struct Entry {
    bool flush;
    bool over;
    bool ok;
    Error *err;
} Entry;

static void coroutine_fn enter_entry(void *opaque)
{
    Entry *e = opaque;

    e->ok = blk_hold_co_begin("test", e->flush ? BLK_HOLD_FLUSH : 0, &e->err);
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

/* A request that must not get through */
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
    blk_hold_end(false);
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
    blk_hold_end(false);
    rig_wait(rig_holds(rig, RIG_WRITE, BLOCK(2)));
    rig_release_all(rig);
    rig_check_result(newer, 0);
    rig_check_disk(rig, BLOCK(2), RIG_BLOCK, 0xb2);
    rig_end(rig);
}

/* It hangs: the disk is let go again, and the error says what hangs */
static void test_hangs(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    int64_t begin = get_clock();
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) newer = NULL;
    Error *err = NULL;
    Entry e;

    rig_wait(rig_nr_held(rig) == 1);
    g_assert_true(blk_hold_check("test", &error_abort));
    enter_begin(&e, false);
    newer = submit_parked(rig, 1, RIG_WRITE, 1);
    check_refused(&e, "has 1 request with the storage, 0 of them abandoned");
    g_assert_cmpint(get_clock() - begin, >=, STALL_NS);
    rig_wait(rig_holds(rig, RIG_WRITE, BLOCK(1)));

    /* By now it is known */
    g_assert_false(blk_hold_check("test", &err));
    error_free_or_abort(&err);
    enter_begin(&e, false);
    g_assert_true(e.over);
    check_refused(&e, "2 requests with the storage");

    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_check_result(newer, 0);
    enter_begin(&e, false);
    check_entered(&e);
    blk_hold_end(false);
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
    g_assert_false(e.over);
    check_refused(&e, "has 1 request with the storage, 1 of them abandoned");
    enter_begin(&e, false);
    g_assert_true(e.over);
    check_refused(&e, "1 of them abandoned");
    rig_release_all(rig);
    rig_wait_idle(rig);
    enter_begin(&e, false);
    check_entered(&e);
    blk_hold_end(false);
    rig_end(rig);
}

/* The guest takes back what is waited for: that is no end */
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
    blk_hold_end(false);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    rig_end(rig);
}

/* Drained and held: the request waits for both */
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
    blk_hold_end(false);
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

/* The VM stops: the devices wait for what is held */
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
    blk_hold_vm_stops();
    blk_drain(rig->blk);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 1);
    blk_hold_end(false);
    rig_check_result(a, 0);

    /* Nor is anything held for somebody else before the VM has stopped */
    enter_begin(&e, false);
    check_entered(&e);
    b = rig_submit(rig, 0, v->op, BLOCK(1), RIG_BLOCK, 0xb1);
    rig_wait(rig_req_calls(b));
    blk_hold_end(false);
    blk_hold_vm_stopped();
    rig_check_result(b, 0);
    rig_end(rig);
}

/* Two hold the disk; it is let go with the last */
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
    blk_hold_end(false);
    rig_settle(rig);
    g_assert_cmpuint(rig_info(rig).waiting_drained, ==, 1);
    blk_hold_end(false);
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_end(rig);
}

/* Nobody ends it: the disk is let go by itself, also in a nested event loop */
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
    blk_hold_end(false);
    rig_end(rig);
}

/* A flush is found to hang */
static void test_flush_hangs(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) newer = NULL;
    Entry e;

    enter_begin(&e, true);
    rig_wait(rig_holds(rig, RIG_FLUSH, 0));
    newer = submit_parked(rig, 1, v->op, 1);
    check_refused(&e, "waits for an answer of the storage");
    rig_wait(rig_nr_held(rig) == 2);

    enter_begin(&e, true);
    g_assert_true(e.over);
    check_refused(&e, "has 1 request with the storage");
    g_assert_cmpuint(rig_nr_held(rig), ==, 2);
    rig_release_all(rig);
    rig_check_result(newer, 0);
    rig_wait_idle(rig);
    enter_begin(&e, true);
    check_entered(&e);
    blk_hold_end(false);
    rig_end(rig);
}

/* A flush of the guest's, which must end with @ret */
static void check_flush(Rig *rig, int ret)
{
    g_autoptr(RigReq) flush = rig_submit(rig, 1, RIG_FLUSH, 0, 0, 0);

    rig_check_result(flush, ret);
}

/* The flush that prepares a command fails; the driver holds nothing then */
static void enter_with_error(Rig *rig)
{
    Entry e;

    enter_begin(&e, true);
    rig_wait(rig_holds(rig, RIG_FLUSH, 0));
    rig_set_holding(rig, false);
    rig_release_ret(rig, RIG_FLUSH, 0, -EIO);
    check_entered(&e);
}

/* The command's own flush fails, and nobody else is told */
static void test_flush_error(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);

    enter_with_error(rig);
    g_assert_cmpint(bdrv_flush(rig->bs), ==, -EIO);
    blk_hold_end(true);
    check_flush(rig, 0);
    rig_end(rig);
}

/* The command ignores it, or does not flush at all: the guest is told, once */
static void test_flush_error_ignored(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);

    enter_with_error(rig);
    g_assert_cmpint(bdrv_flush_all(), ==, -EIO);
    blk_hold_end(false);
    check_flush(rig, -EIO);
    check_flush(rig, 0);

    rig_set_holding(rig, true);
    enter_with_error(rig);
    blk_hold_end(false);
    check_flush(rig, -EIO);
    check_flush(rig, 0);
    rig_end(rig);
}

/* The guest has taken the flush back: the next one is told how it ended */
static void test_flush_error_late(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = rig_submit(rig, 0, RIG_FLUSH, 0, 0, 0);

    rig_wait(rig_holds(rig, RIG_FLUSH, 0));
    rig_cancel(a);
    rig_check_canceled(a);
    rig_set_holding(rig, false);
    rig_release_ret(rig, RIG_FLUSH, 0, -EIO);
    rig_wait_idle(rig);
    check_flush(rig, -EIO);
    check_flush(rig, 0);
    rig_end(rig);
}

/*
 * Storage that is slow: all requests together take longer than what is a hang
 * without progress, but they end, one by one
 */
static void test_slow(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    RigReq *req[6];
    Entry e;

    blk_hold_timeout_ms = 4 * TIMEOUT_MS;
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        req[i] = rig_submit(rig, i % 2, v->op, BLOCK(i), RIG_BLOCK, 0xaa);
    }
    rig_wait(rig_nr_held(rig) == ARRAY_SIZE(req));
    enter_begin(&e, false);
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        int64_t begin = get_clock();

        rig_wait(e.over || get_clock() - begin > STALL_NS);
        g_assert_false(e.over);
        rig_release(rig, v->op, BLOCK(i));
        rig_check_result(req[i], 0);
        rig_req_free(req[i]);
    }
    check_entered(&e);
    blk_hold_end(false);
    blk_hold_timeout_ms = TIMEOUT_MS;
    rig_end(rig);
}

/* What is known to hang is forgotten when it ends, also among others */
static void test_known(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) b = NULL;
    g_autofree char *why = NULL;
    Entry e;

    rig_wait(rig_nr_held(rig) == 1);
    enter_begin(&e, false);
    check_refused(&e, "has 1 request");
    /* It is refused at once, and the disk is not held for that */
    b = rig_submit(rig, 1, v->op, BLOCK(1), RIG_BLOCK, 0xbb);
    rig_wait(rig_nr_held(rig) == 2);
    enter_begin(&e, false);
    g_assert_true(e.over);
    check_refused(&e, "has 2 requests");
    why = blk_hold_describe();
    g_assert_nonnull(why);

    rig_release(rig, v->op, 0);
    rig_check_result(a, 0);
    enter_begin(&e, false);
    g_assert_false(e.over);
    rig_release_all(rig);
    rig_check_result(b, 0);
    check_entered(&e);
    blk_hold_end(false);
    g_assert_null(blk_hold_describe());
    rig_end(rig);
}

/*
 * A second disk: while the first seems to hang it is not held, and when the
 * first turns out to, it has never been
 */
static void test_suspect_alone(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL), *other = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    int64_t begin = get_clock();
    Entry e;

    rig_set_holding(other, false);
    rig_wait(rig_nr_held(rig) == 1);
    rig_wait(get_clock() - begin > STALL_NS);
    enter_begin(&e, false);
    while (!e.over) {
        g_autoptr(RigReq) b = rig_submit(other, 1, v->op, 0, RIG_BLOCK, 0xbb);

        rig_check_result(b, 0);
        g_assert_cmpuint(rig_info(other).waiting_drained, ==, 0);
    }
    check_refused(&e, "has 1 request");
    rig_release_all(rig);
    rig_check_result(a, 0);

    /* Then both are */
    enter_begin(&e, false);
    check_entered(&e);
    g_clear_pointer(&a, rig_req_free);
    a = submit_parked(rig, 0, v->op, 0);
    {
        g_autoptr(RigReq) b = submit_parked(other, 1, v->op, 0);

        blk_hold_end(false);
        rig_check_result(a, 0);
        rig_check_result(b, 0);
    }
    rig_end(other);
    rig_end(rig);
}

/* A flush may take as long as all of it may, and longer than a fourth */
static void test_flush_slow(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    int64_t begin;
    Entry e;

    enter_begin(&e, true);
    rig_wait(rig_holds(rig, RIG_FLUSH, 0));
    begin = get_clock();
    rig_wait(get_clock() - begin > 2 * STALL_NS);
    g_assert_false(e.over);
    rig_release_all(rig);
    check_entered(&e);
    blk_hold_end(false);
    rig_end(rig);
}

/*
 * What it took long to get is kept for a moment: who comes at once has nothing
 * to wait for
 */
static void test_kept(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) slow = rig_submit(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);
    g_autoptr(RigReq) newer = NULL;
    int64_t begin = get_clock();
    Entry e;

    rig_wait(rig_nr_held(rig) == 1);
    enter_begin(&e, false);
    rig_wait(get_clock() - begin > STALL_NS / 2);
    rig_release(rig, v->op, 0);
    check_entered(&e);
    rig_check_result(slow, 0);
    newer = submit_parked(rig, 1, RIG_WRITE, 1);
    blk_hold_end(false);
    enter_begin(&e, false);
    check_entered(&e);
    g_assert_cmpuint(rig_info(rig).waiting_drained, ==, 1);
    rig_check_pending(newer);
    blk_hold_end(false);
    rig_wait(rig_holds(rig, RIG_WRITE, BLOCK(1)));
    rig_release_all(rig);
    rig_check_result(newer, 0);
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
    blk_io_limits_enable(rig->blk, "hold");
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
    blk_hold_end(false);

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
    blk_hold_call("test", 0, count_call, &calls);
    main_loop_wait_for(get_clock() - begin > NANOSECONDS_PER_SECOND / 4);
    g_assert_cmpuint(calls, ==, 0);
    rig_release_all(rig);
    main_loop_wait_for(calls);
    rig_wait_idle(rig);
    main_loop_wait_for(!blk_hold_is_on());
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
    g_assert_true(blk_hold_check("test", &error_abort));
    enter_begin(&e, true);
    g_assert_true(e.over);
    check_entered(&e);
    blk_hold_end(false);
    blk_hold_call("test", BLK_HOLD_FLUSH, count_call, &calls);
    g_assert_cmpuint(calls, ==, 1);
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_end(rig);
}

void add_hold_tests(void)
{
    blk_hold_timeout_ms = TIMEOUT_MS;
    rig_add_ops("hold/idle", test_idle);
    rig_add_op("hold/in-flight", RIG_READ, test_in_flight);
    rig_add_op("hold/in-flight", RIG_WRITE, test_in_flight);
    rig_add_op("hold/hangs", RIG_READ, test_hangs);
    rig_add_ops("hold/abandoned", test_abandoned);
    rig_add_op("hold/abandoned-meanwhile", RIG_WRITE, test_abandoned_meanwhile);
    rig_add_ops("hold/cancel-parked", test_cancel_parked);
    rig_add_op("hold/drained", RIG_WRITE, test_drained);
    rig_add_op("hold/vm-stops", RIG_WRITE, test_vm_stops);
    rig_add_op("hold/two", RIG_WRITE, test_two);
    rig_add_op("hold/forgotten", RIG_READ, test_forgotten);
    rig_add_op("hold/flush-hangs", RIG_WRITE, test_flush_hangs);
    rig_add("hold/flush-error/told", test_flush_error);
    rig_add("hold/flush-error/ignored", test_flush_error_ignored);
    rig_add("hold/flush-error/late", test_flush_error_late);
    rig_add_op("hold/throttled", RIG_WRITE, test_throttled);
    rig_add_op("hold/other-user", RIG_READ, test_other_user);
    rig_add_op("hold/call", RIG_WRITE, test_call);
    rig_add_op("hold/slow", RIG_READ, test_slow);
    rig_add_op("hold/slow", RIG_WRITE, test_slow);
    rig_add_op("hold/known", RIG_WRITE, test_known);
    rig_add_op("hold/suspect-alone", RIG_WRITE, test_suspect_alone);
    rig_add("hold/flush-slow", test_flush_slow);
    rig_add_op("hold/kept", RIG_READ, test_kept);
    rig_add_op("hold/off", RIG_READ, test_off);
}
