/*
 * Requests of a BlockBackend that can be taken back: the fence
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What an abandoned request that changes the disk holds up, and what it does
 * not.  In every test, older requests come from thread 0 and newer ones from
 * thread 1.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "blk-cancel-rig.h"

/* 10.0 has got flags here in a stable release, 10.2 has not. */
#if QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR > 0
#define blk_pdiscard(blk, offset, bytes, flags) \
    blk_pdiscard(blk, offset, bytes)
#define blk_co_pdiscard(blk, offset, bytes, flags) \
    blk_co_pdiscard(blk, offset, bytes)
#endif

/* The older request's range; a newer one's is inside unless said otherwise */
#define OLD_OFFSET  (16 * RIG_BLOCK)
#define OLD_BYTES   (8 * RIG_BLOCK)
#define NEW_OFFSET  (18 * RIG_BLOCK)
#define NEW_BYTES   (4 * RIG_BLOCK)

#define OLD         0xaa
#define NEW         0xbb

static uint8_t pattern_of(RigOp op, uint8_t written)
{
    return op == RIG_WRITE ? written :
           op == RIG_ZEROES ? RIG_ZEROED :
           op == RIG_DISCARD ? RIG_DISCARDED : RIG_INITIAL;
}

/* A abandoned request; the storage holds it as the @nr_held-th. */
static RigReq *abandon_at(Rig *rig, RigOp op, int64_t offset, int64_t bytes,
                         uint8_t pattern)
{
    unsigned int held = rig_nr_held(rig);
    RigReq *req = rig_submit(rig, 0, op, offset, bytes, pattern);

    rig_wait(rig_nr_held(rig) == held + 1);
    rig_cancel(req);
    rig_check_canceled(req);
    return req;
}

static RigReq *abandon(Rig *rig, RigOp op)
{
    return abandon_at(rig, op, OLD_OFFSET, OLD_BYTES, OLD);
}

/* A newer request waits, and they land in the order of their submission. */
static void test_waits(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, v->op);
    g_autoptr(RigReq) newer = rig_submit(rig, 1, v->newer, NEW_OFFSET,
                                         NEW_BYTES, NEW);
    uint8_t old_content = pattern_of(v->op, OLD);

    rig_settle(rig);
    rig_check_pending(newer);
    rig_check_info(rig, 1, 0, 0, 1);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);

    rig_release(rig, v->op, OLD_OFFSET);
    rig_wait(rig_holds(rig, v->newer, NEW_OFFSET));
    rig_check_info(rig, 0, 0, 0, 0);
    rig_check_disk(rig, OLD_OFFSET, OLD_BYTES, old_content);

    rig_release(rig, v->newer, NEW_OFFSET);
    rig_check_result(newer, 0);
    if (v->newer == RIG_READ) {
        rig_check_buf(newer, old_content);
    } else {
        rig_check_disk(rig, NEW_OFFSET, NEW_BYTES, pattern_of(v->newer, NEW));
    }
    rig_check_disk(rig, OLD_OFFSET, NEW_OFFSET - OLD_OFFSET, old_content);
    g_assert_cmpuint(rig_landed(rig, 0).op, ==, v->op);
    g_assert_cmpint(rig_landed(rig, 0).offset, ==, OLD_OFFSET);
    g_assert_cmpuint(rig_landed(rig, 1).op, ==, v->newer);
    rig_end(rig);
}

/* One sector in common is enough, at either end. */
static void test_waits_one_sector(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, RIG_WRITE);
    g_autoptr(RigReq) low = rig_submit(rig, 1, v->op, OLD_OFFSET - RIG_BLOCK,
                                       RIG_BLOCK + 512, NEW);
    g_autoptr(RigReq) high = rig_submit(rig, 1, v->op,
                                        OLD_OFFSET + OLD_BYTES - 512,
                                        RIG_BLOCK + 512, NEW);

    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 2);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_release_all(rig);
    rig_check_result(low, 0);
    rig_check_result(high, 0);
    rig_end(rig);
}

/* Neighbours are not held up. */
static void test_apart(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, v->op);
    g_autoptr(RigReq) low = rig_submit(rig, 1, v->newer,
                                       OLD_OFFSET - NEW_BYTES, NEW_BYTES, NEW);
    g_autoptr(RigReq) high = rig_submit(rig, 1, v->newer,
                                        OLD_OFFSET + OLD_BYTES, NEW_BYTES,
                                        NEW);

    rig_wait(rig_nr_held(rig) == 3);
    rig_check_info(rig, 1, 0, 0, 0);
    rig_release(rig, v->newer, low->offset);
    rig_release(rig, v->newer, high->offset);
    rig_check_result(low, 0);
    rig_check_result(high, 0);
    g_assert_true(rig_holds(rig, v->op, OLD_OFFSET));
    rig_end(rig);
}

/* A flush has no range; it neither waits nor promises anything about others */
static void test_flush_goes_on(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, v->op);
    g_autoptr(RigReq) flush = rig_submit(rig, 1, RIG_FLUSH, 0, 0, 0);

    rig_wait(rig_holds(rig, RIG_FLUSH, 0));
    rig_check_info(rig, 1, 0, 0, 0);
    rig_release(rig, RIG_FLUSH, 0);
    rig_check_result(flush, 0);
    rig_end(rig);
}

/* Nor has an ioctl: its "offset" is a number. */
static void test_ioctl_goes_on(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, v->op);
    g_autoptr(RigReq) req = rig_submit(rig, 1, RIG_IOCTL, OLD_OFFSET,
                                       RIG_BLOCK, 0);

    rig_wait(rig_holds(rig, RIG_IOCTL, 0));
    rig_release(rig, RIG_IOCTL, 0);
    rig_check_result(req, 0);
    rig_end(rig);
}

/*
 * Abandoned requests that change nothing fence nothing, also while another one
 * makes newcomers look.
 */
static void test_no_fence(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    int64_t offset = v->op == RIG_FLUSH ? 0 : OLD_OFFSET;
    g_autoptr(RigReq) other = NULL, alone = NULL, newer = NULL;
    g_autoptr(RigReq) older = abandon_at(rig, v->op, offset, OLD_BYTES, OLD);

    alone = rig_submit(rig, 1, v->newer, OLD_OFFSET, OLD_BYTES, NEW);
    rig_wait(rig_nr_held(rig) == 2);
    g_assert_true(rig_release_nth(rig, 1, 0));
    rig_check_result(alone, 0);

    other = abandon_at(rig, RIG_WRITE, OLD_OFFSET + OLD_BYTES, RIG_BLOCK, OLD);
    newer = rig_submit(rig, 1, v->newer, OLD_OFFSET, OLD_BYTES, NEW);
    rig_wait(rig_nr_held(rig) == 3);
    rig_check_info(rig, 2, 0, 0, 0);
    g_assert_true(rig_release_nth(rig, 2, 0));
    rig_check_result(newer, 0);
    g_assert_true(rig_holds(rig, v->op, offset));
    rig_end(rig);
}

/* Nor do requests that are merely slow. */
static void test_no_fence_in_flight(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) other = abandon_at(rig, RIG_WRITE, 0, RIG_BLOCK, OLD);
    g_autoptr(RigReq) slow = rig_submit(rig, 0, v->op, OLD_OFFSET, OLD_BYTES,
                                        OLD);
    g_autoptr(RigReq) newer = rig_submit(rig, 1, v->newer, NEW_OFFSET,
                                         NEW_BYTES, NEW);

    rig_wait(rig_nr_held(rig) == 3);
    rig_check_info(rig, 1, 0, 0, 0);
    rig_release_all(rig);
    rig_check_result(slow, 0);
    rig_check_result(newer, 0);
    rig_end(rig);
}

/* A abandoned request that failed has ended, too. */
static void test_older_fails(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, v->op);
    g_autoptr(RigReq) newer = rig_submit(rig, 1, RIG_READ, NEW_OFFSET,
                                         NEW_BYTES, 0);

    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    rig_release_ret(rig, v->op, OLD_OFFSET, -EIO);
    rig_wait(rig_holds(rig, RIG_READ, NEW_OFFSET));
    rig_release(rig, RIG_READ, NEW_OFFSET);
    rig_check_result(newer, 0);
    rig_check_buf(newer, RIG_INITIAL);
    rig_end(rig);
}

/* Cancelling one that waits costs nothing, and leaves the others there. */
static void test_cancel_waiter(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, RIG_WRITE);
    uint64_t charged = rig_info(rig).budget_used;
    RigReq *newer[5];

    for (int i = 0; i < 5; i++) {
        newer[i] = rig_submit(rig, i % 2, v->op, NEW_OFFSET, NEW_BYTES, NEW);
    }
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 5);

    /* The first, one in the middle, the last */
    for (int i = 0; i < 5; i += 2) {
        rig_cancel(newer[i]);
        rig_check_canceled(newer[i]);
        rig_check_info(rig, 1, 0, 0, 4 - i / 2);
        memset(newer[i]->buf, 0xee, NEW_BYTES);
    }
    rig_check_pending(newer[1]);
    rig_check_pending(newer[3]);
    rig_cancel(newer[1]);
    rig_cancel(newer[3]);
    rig_check_info(rig, 1, 0, 0, 0);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, charged);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 1);

    rig_release_all(rig);
    rig_wait_idle(rig);
    rig_settle(rig);
    for (int i = 0; i < 5; i++) {
        rig_check_canceled(newer[i]);
        rig_req_free(newer[i]);
    }
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_check_disk(rig, OLD_OFFSET, OLD_BYTES, OLD);
    rig_end(rig);
}

/* The others do go on. */
static void test_cancel_one_waiter(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, RIG_WRITE);
    g_autoptr(RigReq) first = rig_submit(rig, 1, v->op, NEW_OFFSET, NEW_BYTES,
                                         NEW);
    g_autoptr(RigReq) second = rig_submit(rig, 1, RIG_READ, NEW_OFFSET,
                                          NEW_BYTES, 0);

    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 2);
    rig_cancel(first);
    rig_check_canceled(first);
    rig_check_info(rig, 1, 0, 0, 1);
    rig_release_all(rig);
    rig_check_result(second, 0);
    rig_check_buf(second, OLD);
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    rig_end(rig);
}

static void cancel_opaque(RigReq *req)
{
    RigReq *other = req->opaque;

    rig_cancel_here(other);
    rig_check_canceled(other);
}

/* The cancel comes from a callback, that is from inside a coroutine. */
static void test_cancel_in_callback(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, RIG_WRITE);
    g_autoptr(RigReq) req = rig_submit(rig, 1, RIG_READ, 0, RIG_BLOCK, 0);
    g_autoptr(RigReq) newer = rig_submit(rig, 1, v->op, NEW_OFFSET, NEW_BYTES,
                                         NEW);

    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    req->then = cancel_opaque;
    req->opaque = newer;
    rig_release(rig, RIG_READ, 0);
    rig_check_result(req, 0);
    rig_check_canceled(newer);
    rig_check_info(rig, 1, 0, 0, 0);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    rig_end(rig);
}

/* Ranges that no disk has are refused, and overlap nothing. */
static void test_beyond_end(const RigVariant *v)
{
    static const int64_t offsets[] = {
        RIG_DISK_SIZE - RIG_BLOCK, RIG_DISK_SIZE, INT64_MAX - NEW_BYTES,
        INT64_MAX - 511, INT64_MAX, -512, INT64_MIN,
    };
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, RIG_WRITE);

    for (int i = 0; i < ARRAY_SIZE(offsets); i++) {
        g_autoptr(RigReq) req = rig_prepare(rig, 1, v->op, 0, NEW_BYTES, NEW);

        req->offset = offsets[i];
        rig_submit_prepared(req);
        rig_check_result(req, -EIO);
    }
    rig_check_info(rig, 1, 0, 0, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_end(rig);
}

/* Several abandoned: one that overlaps them all waits for the last. */
static void test_cascade(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = NULL, b = NULL, c = NULL, newer = NULL;

    /* All three are issued before the first is cancelled */
    a = rig_submit(rig, 0, RIG_WRITE, 0, 4 * RIG_BLOCK, 0xa1);
    b = rig_submit(rig, 1, RIG_DISCARD, 2 * RIG_BLOCK, 4 * RIG_BLOCK, 0);
    c = rig_submit(rig, 0, RIG_ZEROES, 5 * RIG_BLOCK, 4 * RIG_BLOCK, 0);
    rig_wait(rig_nr_held(rig) == 3);
    rig_cancel(c);
    rig_cancel(a);
    rig_cancel(b);

    newer = rig_submit(rig, 1, v->op, RIG_BLOCK, 8 * RIG_BLOCK, NEW);
    rig_settle(rig);
    rig_check_info(rig, 3, 0, 0, 1);
    rig_release(rig, RIG_WRITE, 0);
    rig_wait(rig_nr_landed(rig) == 1);
    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, 1);
    rig_release(rig, RIG_ZEROES, 5 * RIG_BLOCK);
    rig_wait(rig_nr_landed(rig) == 2);
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    g_assert_cmpuint(rig_arrived(rig), ==, 3);
    rig_release(rig, RIG_DISCARD, 2 * RIG_BLOCK);
    rig_wait(rig_holds(rig, v->op, RIG_BLOCK));
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    rig_check_result(newer, 0);
    rig_end(rig);
}

/* Each waiter has its own reasons, and is woken for these. */
static void test_own_reason(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon_at(rig, RIG_WRITE, 0, RIG_BLOCK, 0xa1);
    g_autoptr(RigReq) b = abandon_at(rig, RIG_WRITE, RIG_BLOCK, RIG_BLOCK,
                                    0xa2);
    g_autoptr(RigReq) on_a = rig_submit(rig, 1, v->op, 0, RIG_BLOCK, NEW);
    g_autoptr(RigReq) on_b = rig_submit(rig, 1, v->op, RIG_BLOCK, RIG_BLOCK,
                                        NEW);

    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, 2);
    rig_release(rig, RIG_WRITE, RIG_BLOCK);
    rig_wait(rig_holds(rig, v->op, RIG_BLOCK));
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    g_assert_cmpuint(rig_arrived(rig), ==, 3);
    rig_release_all(rig);
    rig_check_result(on_a, 0);
    rig_check_result(on_b, 0);
    rig_end(rig);
}

/*
 * A waiter does not wait for what is abandoned after it came: it goes on when
 * the older one ends, whichever of the two ends first.
 */
static void do_test_later_abandoned(const RigVariant *v, bool later_ends_first)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) before = NULL, after = NULL, newer = NULL, newest = NULL;

    before = abandon_at(rig, RIG_WRITE, 0, RIG_BLOCK, 0xa1);
    after = rig_submit(rig, 0, RIG_WRITE, RIG_BLOCK, RIG_BLOCK, 0xa2);
    rig_wait(rig_nr_held(rig) == 2);
    newer = rig_submit(rig, 1, v->op, 0, 2 * RIG_BLOCK, NEW);
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    rig_cancel(after);
    rig_check_canceled(after);
    newest = rig_submit(rig, 1, RIG_READ, RIG_BLOCK, RIG_BLOCK, 0);
    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, 2);

    if (later_ends_first) {
        rig_release(rig, RIG_WRITE, RIG_BLOCK);
        rig_wait(rig_holds(rig, RIG_READ, RIG_BLOCK));
        rig_settle(rig);
        rig_check_info(rig, 1, 0, 0, 1);
        rig_check_pending(newer);
        rig_release(rig, RIG_WRITE, 0);
        rig_wait(rig_holds(rig, v->op, 0));
        rig_check_info(rig, 0, 0, 0, 0);
    } else {
        rig_release(rig, RIG_WRITE, 0);
        rig_wait(rig_holds(rig, v->op, 0));
        rig_settle(rig);
        rig_check_info(rig, 1, 0, 0, 1);
        rig_check_pending(newest);
    }
    rig_release_all(rig);
    rig_check_result(newer, 0);
    rig_check_result(newest, 0);
    rig_end(rig);
}

static void test_later_abandoned(const RigVariant *v)
{
    do_test_later_abandoned(v, false);
}

static void test_later_ends_first(const RigVariant *v)
{
    do_test_later_abandoned(v, true);
}

/* One that has waited, and was then abandoned itself, fences as any other. */
static void test_waiter_abandoned(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) first = abandon(rig, RIG_WRITE);
    g_autoptr(RigReq) second = NULL, third = NULL;

    second = rig_submit(rig, 1, v->op, NEW_OFFSET, NEW_BYTES, NEW);
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    rig_release(rig, RIG_WRITE, OLD_OFFSET);
    rig_wait(rig_holds(rig, v->op, NEW_OFFSET));
    rig_cancel(second);
    rig_check_canceled(second);
    rig_check_info(rig, 1, 0, 0, 0);

    third = rig_submit(rig, 0, RIG_READ, OLD_OFFSET, OLD_BYTES, 0);
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);
    rig_release_all(rig);
    rig_check_result(third, 0);
    g_assert_cmphex(third->buf[NEW_OFFSET - OLD_OFFSET], ==,
                    pattern_of(v->op, NEW));
    g_assert_cmphex(third->buf[0], ==, OLD);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 2);
    rig_end(rig);
}

/*
 * Requests that the BlockBackend's user makes without an AIOCB
 */

typedef struct CoCall {
    Rig *rig;
    RigOp op;
    uint8_t buf[NEW_BYTES];
    int ret;
    bool done;
} CoCall;

static void coroutine_fn co_call_entry(void *opaque)
{
    CoCall *call = opaque;
    BlockBackend *blk = call->rig->blk;

    switch (call->op) {
    case RIG_READ:
        call->ret = blk_co_pread(blk, NEW_OFFSET, NEW_BYTES, call->buf, 0);
        break;
    case RIG_WRITE:
        call->ret = blk_co_pwrite(blk, NEW_OFFSET, NEW_BYTES, call->buf, 0);
        break;
    case RIG_ZEROES:
        call->ret = blk_co_pwrite_zeroes(blk, NEW_OFFSET, NEW_BYTES, 0);
        break;
    case RIG_DISCARD:
        call->ret = blk_co_pdiscard(blk, NEW_OFFSET, NEW_BYTES, 0);
        break;
    default:
        g_assert_not_reached();
    }
    qatomic_store_release(&call->done, true);
}

static void co_call_start(void *opaque)
{
    qemu_coroutine_enter(qemu_coroutine_create(co_call_entry, opaque));
}

static void test_co_waits(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, RIG_WRITE);
    CoCall call = { .rig = rig, .op = v->op };

    memset(call.buf, NEW, NEW_BYTES);
    rig_run(rig->ctx[1], co_call_start, &call);
    rig_settle(rig);
    g_assert_false(qatomic_read(&call.done));
    rig_check_info(rig, 1, 0, 0, 1);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);

    rig_release_all(rig);
    rig_wait(qatomic_load_acquire(&call.done));
    g_assert_cmpint(call.ret, ==, 0);
    g_assert_cmpuint(rig_landed(rig, 0).op, ==, RIG_WRITE);
    g_assert_cmpuint(rig_landed(rig, 1).op, ==, v->op);
    if (v->op == RIG_READ) {
        g_assert_cmphex(call.buf[0], ==, OLD);
        g_assert_cmphex(call.buf[NEW_BYTES - 1], ==, OLD);
    } else {
        rig_check_disk(rig, NEW_OFFSET, NEW_BYTES, pattern_of(v->op, NEW));
    }
    rig_end(rig);
}

static void check_then_release_bh(void *opaque)
{
    Rig *rig = opaque;

    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    if (rig_info(rig).waiting_fence == 0) {
        /* The request is still on its way to its thread */
        aio_bh_schedule_oneshot(qemu_get_aio_context(), check_then_release_bh,
                                rig);
        return;
    }
    rig_check_info(rig, 1, 0, 0, 1);
    rig_release_all(rig);
}

/* blk_pread() and friends, from the main loop */
static void test_sync_waits(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = abandon(rig, RIG_WRITE);
    g_autofree uint8_t *buf = g_malloc(NEW_BYTES);
    int ret;

    memset(buf, NEW, NEW_BYTES);
    /* Runs while the call polls */
    aio_bh_schedule_oneshot(qemu_get_aio_context(), check_then_release_bh,
                            rig);
    switch (v->op) {
    case RIG_READ:
        ret = blk_pread(rig->blk, NEW_OFFSET, NEW_BYTES, buf, 0);
        break;
    case RIG_WRITE:
        ret = blk_pwrite(rig->blk, NEW_OFFSET, NEW_BYTES, buf, 0);
        break;
    case RIG_ZEROES:
        ret = blk_pwrite_zeroes(rig->blk, NEW_OFFSET, NEW_BYTES, 0);
        break;
    case RIG_DISCARD:
        ret = blk_pdiscard(rig->blk, NEW_OFFSET, NEW_BYTES, 0);
        break;
    default:
        g_assert_not_reached();
    }
    g_assert_cmpint(ret, ==, 0);
    g_assert_cmpuint(rig_nr_landed(rig), ==, 2);
    if (v->op == RIG_READ) {
        g_assert_cmphex(buf[0], ==, OLD);
    } else {
        rig_check_disk(rig, NEW_OFFSET, NEW_BYTES, pattern_of(v->op, NEW));
    }
    rig_end(rig);
}

void add_fence_tests(void)
{
    static const RigOp older[] = { RIG_WRITE, RIG_ZEROES, RIG_DISCARD };
    static const RigOp newer[] = {
        RIG_READ, RIG_WRITE, RIG_ZEROES, RIG_DISCARD,
    };

    for (int i = 0; i < ARRAY_SIZE(older); i++) {
        for (int j = 0; j < ARRAY_SIZE(newer); j++) {
            rig_add_pair("fence/waits", older[i], newer[j], test_waits);
            rig_add_pair("fence/apart", older[i], newer[j], test_apart);
            rig_add_pair("fence/not-in-flight", older[i], newer[j],
                         test_no_fence_in_flight);
        }
        rig_add_op("fence/flush-goes-on", older[i], test_flush_goes_on);
        rig_add_op("fence/ioctl-goes-on", older[i], test_ioctl_goes_on);
        rig_add_op("fence/older-fails", older[i], test_older_fails);
        rig_add_op("fence/waiter-abandoned", older[i], test_waiter_abandoned);
    }
    for (int j = 0; j < ARRAY_SIZE(newer); j++) {
        rig_add_pair("fence/none", RIG_READ, newer[j], test_no_fence);
        rig_add_pair("fence/none", RIG_FLUSH, newer[j], test_no_fence);
        rig_add_op("fence/one-sector", newer[j], test_waits_one_sector);
        rig_add_op("fence/cancel-waiter", newer[j], test_cancel_waiter);
        rig_add_op("fence/cancel-one-waiter", newer[j],
                   test_cancel_one_waiter);
        rig_add_op("fence/cancel-in-callback", newer[j],
                   test_cancel_in_callback);
        rig_add_op("fence/beyond-end", newer[j], test_beyond_end);
        rig_add_op("fence/cascade", newer[j], test_cascade);
        rig_add_op("fence/own-reason", newer[j], test_own_reason);
        rig_add_op("fence/later-abandoned", newer[j], test_later_abandoned);
        rig_add_op("fence/later-ends-first", newer[j], test_later_ends_first);
        rig_add_op("fence/co-request", newer[j], test_co_waits);
        rig_add_op("fence/sync-request", newer[j], test_sync_waits);
    }
}
