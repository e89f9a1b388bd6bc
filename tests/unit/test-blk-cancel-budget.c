/*
 * Requests of a BlockBackend that can be taken back: budget
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * How much may be in flight: bytes of buffer.
 */

#include "qemu/osdep.h"
#include <malloc.h>
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "blk-cancel-rig.h"

/* The n-th block of the disk; no two requests overlap unless said */
#define BLOCK(n)    ((n) * RIG_BLOCK)
#define NO_LIMIT    1000

/*
 * A buffer may be charged with more than the bytes in it; sizes here are
 * powers of two, for which there is no reason to.
 */

static Rig *rig_with_budget(const RigVariant *v, uint64_t budget)
{
    BlkCancelOptions opts = {
        .budget = budget,
        .damper = 100, .region = RIG_BLOCK,
    };

    return rig_new(v->mode, &opts);
}

/*
 * Bytes
 */

/* From submission to the end of the request, abandoned or not */
static void test_charge(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, 5 * RIG_BLOCK);
    g_autoptr(RigReq) a = rig_submit_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = rig_submit(rig, 1, v->op, BLOCK(1), 4 * RIG_BLOCK,
                                     0xbb);

    rig_wait(rig_nr_held(rig) == 2);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 5 * RIG_BLOCK);
    rig_release(rig, v->op, 0);
    rig_check_result(a, 0);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 4 * RIG_BLOCK);
    rig_cancel(b);
    rig_check_canceled(b);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 4 * RIG_BLOCK);
    rig_release(rig, v->op, BLOCK(1));
    rig_wait(rig_info(rig).budget_used == 0);
    rig_end(rig);
}

/* Ranges without data are not charged, whatever their size. */
static void test_charge_nothing(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, RIG_BLOCK);
    g_autoptr(RigReq) full = rig_submit_block(rig, 0, RIG_WRITE, 0);
    g_autoptr(RigReq) req = rig_submit(rig, 1, v->op, BLOCK(1),
                                       8 * RIG_BLOCK, 0);

    rig_wait(rig_nr_held(rig) == 2);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, RIG_BLOCK);
    rig_cancel(req);
    rig_check_canceled(req);
    rig_check_info(rig, 1, 0, 0, 0);
    rig_end(rig);
}

/* First come, first served, even if a later one would fit */
static void test_fifo(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, 4 * RIG_BLOCK);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, BLOCK(0), 2 * RIG_BLOCK,
                                     0xa1);
    g_autoptr(RigReq) b = rig_submit(rig, 1, v->op, BLOCK(4), 4 * RIG_BLOCK,
                                     0xa2);
    g_autoptr(RigReq) c = rig_submit(rig, 0, v->op, BLOCK(8), RIG_BLOCK, 0xa3);
    g_autoptr(RigReq) d = rig_submit(rig, 1, v->op, BLOCK(9), RIG_BLOCK, 0xa4);

    rig_settle(rig);
    rig_check_info(rig, 0, 0, 3, 0);
    g_assert_cmpuint(rig_nr_held(rig), ==, 1);

    rig_release(rig, v->op, BLOCK(0));
    rig_check_result(a, 0);
    rig_wait(rig_holds(rig, v->op, BLOCK(4)));
    rig_settle(rig);
    rig_check_info(rig, 0, 0, 2, 0);
    g_assert_cmpuint(rig_nr_held(rig), ==, 1);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 4 * RIG_BLOCK);

    rig_release(rig, v->op, BLOCK(4));
    rig_check_result(b, 0);
    rig_wait(rig_nr_held(rig) == 2);
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    rig_check_result(c, 0);
    rig_check_result(d, 0);
    rig_end(rig);
}

/* The copy of a write that waits is made before it is issued, not later. */
static void test_waiter_lands(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, RIG_BLOCK);
    g_autoptr(RigReq) a = rig_submit_block(rig, 0, RIG_WRITE, 0);
    g_autoptr(RigReq) b = rig_submit_block(rig, 1, RIG_WRITE, 1);

    rig_settle(rig);
    rig_check_info(rig, 0, 0, 1, 0);
    rig_release(rig, RIG_WRITE, BLOCK(0));
    rig_wait(rig_holds(rig, RIG_WRITE, BLOCK(1)));
    memset(b->buf, 0xee, RIG_BLOCK);
    rig_cancel(b);
    rig_check_canceled(b);
    rig_release_all(rig);
    rig_wait_idle(rig);
    rig_check_result(a, 0);
    rig_check_disk(rig, BLOCK(1), RIG_BLOCK, 0xa1);
    rig_end(rig);
}

/* Free at once, and whoever waited behind it goes on if it fits. */
static void test_cancel_waiter(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, 4 * RIG_BLOCK);
    g_autoptr(RigReq) a = rig_submit(rig, 0, v->op, BLOCK(0), 2 * RIG_BLOCK,
                                     0xa1);
    g_autoptr(RigReq) large = rig_submit(rig, 1, v->op, BLOCK(4),
                                         4 * RIG_BLOCK, 0xa2);
    g_autoptr(RigReq) small = rig_submit_block(rig, 0, v->op, 8);
    g_autoptr(RigReq) last = rig_submit(rig, 1, v->op, BLOCK(9),
                                        2 * RIG_BLOCK, 0xa4);

    rig_settle(rig);
    rig_check_info(rig, 0, 0, 3, 0);
    rig_cancel(large);
    rig_check_canceled(large);
    memset(large->buf, 0xee, large->bytes);
    rig_wait(rig_holds(rig, v->op, BLOCK(8)));
    rig_settle(rig);
    rig_check_info(rig, 0, 0, 1, 0);
    rig_cancel(last);
    rig_check_canceled(last);
    rig_check_info(rig, 0, 0, 0, 0);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 3 * RIG_BLOCK);
    rig_release_all(rig);
    rig_check_result(a, 0);
    rig_check_result(small, 0);
    rig_wait_idle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
    rig_end(rig);
}

static void cancel_opaque(RigReq *req)
{
    RigReq *other = req->opaque;

    rig_cancel_here(other);
    rig_check_canceled(other);
}

/* It has got its buffer already, but could not make use of it yet. */
static void test_cancel_granted(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, RIG_BLOCK);
    g_autoptr(RigReq) a = rig_submit_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = rig_submit_block(rig, 0, v->op, 1);
    g_autoptr(RigReq) c = rig_submit_block(rig, 0, v->op, 2);

    rig_settle(rig);
    rig_check_info(rig, 0, 0, 2, 0);
    a->then = cancel_opaque;
    a->opaque = b;
    rig_release(rig, v->op, BLOCK(0));
    rig_check_result(a, 0);
    rig_wait(rig_holds(rig, v->op, BLOCK(2)));
    rig_check_canceled(b);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, RIG_BLOCK);
    rig_release_all(rig);
    rig_check_result(c, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    rig_end(rig);
}

/* A abandoned request keeps its buffer, so it keeps others waiting. */
static void test_abandoned_keeps(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, RIG_BLOCK);
    g_autoptr(RigReq) a = rig_submit_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = NULL;

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(a);
    b = rig_submit_block(rig, 1, v->op, 1);
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 1, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_release(rig, v->op, BLOCK(0));
    rig_wait(rig_holds(rig, v->op, BLOCK(1)));
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    rig_check_result(b, 0);
    rig_end(rig);
}

/* Larger than everything: issued as it is, and cannot be abandoned */
static void do_test_unbounced(Rig *rig, const RigVariant *v)
{
    g_autoptr(RigReq) req = rig_submit(rig, 0, v->op, BLOCK(16),
                                       5 * RIG_BLOCK, 0xaa);

    rig_wait(rig_holds(rig, v->op, BLOCK(16)));
    g_assert_cmpuint(rig->misaligned, ==, 1);
    rig_cancel(req);
    rig_cancel(req);
    rig_settle(rig);
    rig_check_pending(req);
    rig_check_info(rig, 0, 0, 0, 0);

    rig_release(rig, v->op, BLOCK(16));
    rig_check_result(req, 0);
    rig_check_buf(req, v->op == RIG_READ ? RIG_INITIAL : 0xaa);
    rig_check_disk(rig, BLOCK(16), 5 * RIG_BLOCK,
                   v->op == RIG_READ ? RIG_INITIAL : 0xaa);
    g_assert_cmpuint(rig_info(rig).abandoned_ever, ==, 0);
}

static void test_larger(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, 4 * RIG_BLOCK);

    do_test_unbounced(rig, v);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 0);
    rig_end(rig);
}

/* It does not wait for a budget it does not use. */
static void test_larger_goes_on(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, 4 * RIG_BLOCK);
    g_autoptr(RigReq) a = rig_submit(rig, 1, RIG_WRITE, 0, 4 * RIG_BLOCK,
                                     0xa1);

    rig_wait(rig_nr_held(rig) == 1);
    do_test_unbounced(rig, v);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, 4 * RIG_BLOCK);
    rig_end(rig);
}

static void test_zero(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, 0);

    do_test_unbounced(rig, v);
    rig_end(rig);
}

static void submit_and_cancel(void *opaque)
{
    RigReq *req = opaque;

    rig_submit_here(req);
    rig_cancel_here(req);
    rig_check_canceled(req);
}

/* What was not issued can always be taken back: no buffer is at stake. */
static void test_zero_new(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, 0);
    g_autoptr(RigReq) req = rig_prepare(rig, 0, v->op, 0, RIG_BLOCK, 0xaa);

    rig_run_co(req->ctx, submit_and_cancel, req);
    rig_wait_idle(rig);
    rig_settle(rig);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    rig_end(rig);
}

/* An unbounced one that waits at the fence is not issued yet either. */
static void test_larger_at_fence(const RigVariant *v)
{
    Rig *rig = rig_with_budget(v, RIG_BLOCK);
    g_autoptr(RigReq) older = rig_submit_block(rig, 0, RIG_WRITE, 0);
    g_autoptr(RigReq) canceled = NULL, kept = NULL;

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(older);
    canceled = rig_submit(rig, 1, v->op, 0, 2 * RIG_BLOCK, 0xbb);
    kept = rig_submit(rig, 1, v->op, 0, 2 * RIG_BLOCK, 0xcc);
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 2);
    rig_cancel(canceled);
    rig_check_canceled(canceled);
    rig_release_all(rig);
    rig_check_result(kept, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    rig_end(rig);
}

/* What malloc() finds is not for guests, in all of a buffer of any size */
static void test_new_buffers(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);

    mallopt(M_PERTURB, 0x5a);
    rig_set_holding(rig, false);
    rig_set_sync_ret(rig, 1); /* it succeeds, and fills nothing */
    for (uint64_t bytes = 512; bytes <= RIG_DISK_SIZE; bytes *= 2) {
        g_autoptr(RigReq) req = rig_submit(rig, 0, RIG_READ, 0, bytes, 0);

        rig_check_result(req, 0);
        rig_check_buf(req, 0);
    }
    mallopt(M_PERTURB, 0);
    rig_end(rig);
}

void add_budget_tests(void)
{
    static const RigOp data[] = { RIG_READ, RIG_WRITE };
    static const RigOp no_data[] = { RIG_ZEROES, RIG_DISCARD, RIG_FLUSH };

    rig_add("budget/new-buffers", test_new_buffers);
    for (int i = 0; i < ARRAY_SIZE(data); i++) {
        rig_add_op("budget/charge", data[i], test_charge);
        rig_add_op("budget/fifo", data[i], test_fifo);
        rig_add_op("budget/cancel-waiter", data[i], test_cancel_waiter);
        rig_add_op("budget/cancel-granted", data[i], test_cancel_granted);
        rig_add_op("budget/abandoned-keeps", data[i], test_abandoned_keeps);
        rig_add_op("budget/larger", data[i], test_larger);
        rig_add_op("budget/larger-goes-on", data[i], test_larger_goes_on);
        rig_add_op("budget/larger-at-fence", data[i], test_larger_at_fence);
        rig_add_op("budget/zero", data[i], test_zero);
        rig_add_op("budget/zero-new", data[i], test_zero_new);
    }
    for (int i = 0; i < ARRAY_SIZE(no_data); i++) {
        rig_add_op("budget/charge-nothing", no_data[i], test_charge_nothing);
    }
    rig_add("budget/waiter-lands", test_waiter_lands);
}
