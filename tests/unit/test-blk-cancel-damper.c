/*
 * Requests of a BlockBackend that can be taken back: where several hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A region of the disk with a few abandoned requests takes no more; the rest of
 * the disk goes on.  And what nobody waits for any more still tells its error.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "block/blk-cancel-flush.h"
#include "blk-cancel-rig.h"

/* The n-th block of the disk; eight make a region, of which two may hang */
#define BLOCK(n)    ((n) * RIG_BLOCK)
#define REGION      (8 * RIG_BLOCK)
#define OTHER       8               /* the first block of the next region */

static Rig *rig_with_damper(const RigVariant *v, uint64_t budget)
{
    BlkCancelOptions opts = {
        .budget = budget, .damper = 2, .region = REGION,
    };

    return rig_new(v->mode, &opts);
}

/* One that hangs, and that nobody waits for */
static RigReq *abandon_block(Rig *rig, int thread, RigOp op, int n)
{
    RigReq *req = rig_submit_block(rig, thread, op, n);

    rig_wait(rig_holds(rig, op, BLOCK(n)));
    rig_cancel(req);
    rig_check_canceled(req);
    return req;
}

/* Nothing is limited while nothing is abandoned. */
static void test_idle(const RigVariant *v)
{
    Rig *rig = rig_with_damper(v, RIG_DISK_SIZE);
    RigReq *req[6];

    for (int i = 0; i < 6; i++) {
        req[i] = rig_submit_block(rig, i % 2, v->op, i);
    }
    rig_wait(rig_nr_held(rig) == 6);
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    for (int i = 0; i < 6; i++) {
        rig_check_result(req[i], 0);
        rig_req_free(req[i]);
    }
    rig_end(rig);
}

/*
 * Two hang: the third and the fourth wait, in whatever thread, and what is
 * elsewhere does not.  For each that ends one goes on.
 */
static void test_region(const RigVariant *v)
{
    Rig *rig = rig_with_damper(v, RIG_DISK_SIZE);
    g_autoptr(RigReq) a = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = abandon_block(rig, 1, v->op, 1);
    g_autoptr(RigReq) c = rig_submit_block(rig, 0, v->op, 2);
    g_autoptr(RigReq) d = rig_submit_block(rig, 1, v->op, 3);
    g_autoptr(RigReq) other = rig_submit_block(rig, 0, v->op, OTHER);

    rig_wait(rig_holds(rig, v->op, BLOCK(OTHER)));
    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, 2);
    g_assert_cmpuint(rig_arrived(rig), ==, 3);

    rig_release(rig, v->op, BLOCK(0));
    rig_wait(rig_holds(rig, v->op, BLOCK(2)));
    rig_settle(rig);
    rig_check_info(rig, 1, 0, 0, 1);

    rig_release(rig, v->op, BLOCK(1));
    rig_wait(rig_holds(rig, v->op, BLOCK(3)));
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    rig_check_result(c, 0);
    rig_check_result(d, 0);
    rig_check_result(other, 0);
    rig_end(rig);
}

/* A guest that tries again and again uses up nothing more. */
static void test_again(const RigVariant *v)
{
    Rig *rig = rig_with_damper(v, RIG_DISK_SIZE);
    g_autoptr(RigReq) a = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = abandon_block(rig, 0, v->op, 1);
    g_autoptr(RigReq) other = NULL;

    for (int i = 0; i < 50; i++) {
        g_autoptr(RigReq) again = rig_submit_block(rig, i % 2, v->op, 2);

        rig_settle(rig);
        rig_check_info(rig, 2, 0, 0, 1);
        rig_cancel(again);
        rig_check_canceled(again);
        rig_check_info(rig, 2, 0, 0, 0);
    }
    g_assert_cmpuint(rig_arrived(rig), ==, 2);
    other = rig_submit_block(rig, 1, v->op, OTHER);
    rig_wait(rig_holds(rig, v->op, BLOCK(OTHER)));
    rig_release_all(rig);
    rig_check_result(other, 0);
    rig_end(rig);
}

/* With the last that hangs in the region all go on. */
static void test_all_go(const RigVariant *v)
{
    Rig *rig = rig_with_damper(v, RIG_DISK_SIZE);
    g_autoptr(RigReq) a = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = abandon_block(rig, 1, v->op, 1);
    RigReq *more[5];

    for (int i = 0; i < 5; i++) {
        more[i] = rig_submit_block(rig, i % 2, v->op, 2 + i);
    }
    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, 5);
    rig_release(rig, v->op, BLOCK(0));
    rig_wait(rig_nr_held(rig) == 2);
    rig_release(rig, v->op, BLOCK(1));
    rig_wait(rig_nr_held(rig) == 5);
    rig_check_info(rig, 0, 0, 0, 0);
    rig_release_all(rig);
    for (int i = 0; i < 5; i++) {
        rig_check_result(more[i], 0);
        rig_req_free(more[i]);
    }
    rig_end(rig);
}

/* When half of the budget hangs, one in a region is enough. */
static void test_tight(const RigVariant *v)
{
    Rig *rig = rig_with_damper(v, 4 * RIG_BLOCK);
    g_autoptr(RigReq) a = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) b = abandon_block(rig, 0, v->op, OTHER);
    g_autoptr(RigReq) c = NULL, d = NULL, e = NULL;

    c = abandon_block(rig, 1, v->op, OTHER + 1);
    d = rig_submit_block(rig, 0, v->op, 1);
    rig_settle(rig);
    rig_check_info(rig, 3, 0, 0, 1);
    e = rig_submit_block(rig, 1, v->op, 2 * OTHER);
    rig_wait(rig_holds(rig, v->op, BLOCK(2 * OTHER)));
    rig_release_all(rig);
    rig_check_result(d, 0);
    rig_check_result(e, 0);
    rig_end(rig);
}

/*
 * So many in all, each in a region of its own: nothing is issued any more,
 * until one has ended; then all that waited go on.
 */
static void test_max(const RigVariant *v)
{
    BlkCancelOptions opts = {
        .budget = RIG_DISK_SIZE, .damper = 2, .region = REGION,
        .max_abandoned = 3,
    };
    Rig *rig = rig_new(v->mode, &opts);
    RigReq *hung[3], *more[4];

    for (int i = 0; i < 3; i++) {
        hung[i] = rig_submit_block(rig, i % 2, v->op, i * OTHER);
    }
    rig_wait(rig_nr_held(rig) == 3);
    for (int i = 0; i < 3; i++) {
        rig_cancel(hung[i]);
        rig_check_canceled(hung[i]);
    }
    for (int i = 0; i < 4; i++) {
        more[i] = rig_submit_block(rig, i % 2, v->op, (3 + i) * OTHER);
    }
    rig_settle(rig);
    rig_check_info(rig, 3, 0, 0, 4);
    g_assert_cmpuint(rig_arrived(rig), ==, 3);
    rig_cancel(more[3]);
    rig_check_canceled(more[3]);
    rig_check_info(rig, 3, 0, 0, 3);

    rig_release(rig, v->op, 0);
    rig_wait(rig_nr_held(rig) == 5);
    rig_check_info(rig, 2, 0, 0, 0);
    rig_release_all(rig);
    for (int i = 0; i < 3; i++) {
        rig_check_result(more[i], 0);
        rig_req_free(hung[i]);
    }
    for (int i = 0; i < 4; i++) {
        rig_req_free(more[i]);
    }
    rig_end(rig);
}

/* Flushes hang by themselves, and hold up nothing but flushes. */
static void test_flush(const RigVariant *v)
{
    Rig *rig = rig_with_damper(v, RIG_DISK_SIZE);
    g_autoptr(RigReq) a = rig_submit(rig, 0, RIG_FLUSH, 0, 0, 0);
    g_autoptr(RigReq) b = rig_submit(rig, 1, RIG_FLUSH, 0, 0, 0);
    g_autoptr(RigReq) c = NULL, write = NULL;

    rig_wait(rig_nr_held(rig) == 1);
    rig_settle(rig);
    rig_cancel(a);
    rig_cancel(b);
    c = rig_submit(rig, 0, RIG_FLUSH, 0, 0, 0);
    rig_settle(rig);
    rig_check_info(rig, 2, 0, 0, 1);
    write = rig_submit_block(rig, 1, RIG_WRITE, 0);
    rig_wait(rig_holds(rig, RIG_WRITE, 0));
    rig_release_all(rig);
    rig_check_result(c, 0);
    rig_check_result(write, 0);
    rig_end(rig);
}

/*
 * Errors that would be lost
 */

static RigReq *abandon_flush(Rig *rig)
{
    RigReq *req = rig_submit(rig, 0, RIG_FLUSH, 0, 0, 0);

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(req);
    rig_check_canceled(req);
    return req;
}

static void flush_is(Rig *rig, int ret)
{
    g_autoptr(RigReq) req = rig_submit(rig, 1, RIG_FLUSH, 0, 0, 0);

    rig_check_result(req, ret);
}

/* An abandoned flush fails: the next one tells it, once; nothing else does. */
static void test_flush_error(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) a = abandon_flush(rig);
    g_autoptr(RigReq) read = NULL;

    rig_release_ret(rig, RIG_FLUSH, 0, -EIO);
    rig_wait_idle(rig);
    rig_release_all(rig);
    read = rig_submit_block(rig, 0, RIG_READ, 0);
    rig_check_result(read, 0);
    flush_is(rig, -EIO);
    flush_is(rig, 0);
    rig_end(rig);
}

static void coroutine_fn keep_entry(void *opaque)
{
    BlockBackend *blk = opaque;

    blk_cancel_co_keep_flush_error(blk, -ENOSPC);
    blk_cancel_co_keep_flush_error(blk, -EIO);
    blk_cancel_co_keep_flush_error(blk, 0);
}

/* The first error is told; a flush that fails by itself tells its own. */
static void test_flush_errors(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);

    rig_release_all(rig);
    qemu_coroutine_enter(qemu_coroutine_create(keep_entry, rig->blk));
    rig_set_sync_ret(rig, -EPERM);
    flush_is(rig, -EPERM);
    rig_set_sync_ret(rig, 0);
    flush_is(rig, -ENOSPC);
    flush_is(rig, 0);
    rig_end(rig);
}

/* What an abandoned request ended with is counted, unless it changes nothing */
static void test_failed(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) ok = abandon_block(rig, 0, v->op, 0);
    g_autoptr(RigReq) fails = abandon_block(rig, 1, v->op, 1);

    rig_release(rig, v->op, BLOCK(0));
    rig_wait(rig_info(rig).abandoned == 1);
    g_assert_cmpuint(rig_info(rig).failed, ==, 0);
    rig_release_ret(rig, v->op, BLOCK(1), -EIO);
    rig_wait_idle(rig);
    g_assert_cmpuint(rig_info(rig).failed, ==, v->op != RIG_READ);
    g_assert_true(blk_cancel_reset_stats(rig->blk));
    g_assert_cmpuint(rig_info(rig).failed, ==, 0);
    rig_end(rig);
}

void add_damper_tests(void)
{
    static const RigOp ops[] = { RIG_READ, RIG_WRITE, RIG_ZEROES, RIG_DISCARD };

    for (int i = 0; i < ARRAY_SIZE(ops); i++) {
        rig_add_op("damper/idle", ops[i], test_idle);
        rig_add_op("damper/region", ops[i], test_region);
        rig_add_op("damper/again", ops[i], test_again);
        rig_add_op("damper/all-go", ops[i], test_all_go);
        rig_add_op("damper/max", ops[i], test_max);
        rig_add_op("error/failed", ops[i], test_failed);
    }
    rig_add_op("damper/tight", RIG_READ, test_tight);
    rig_add_op("damper/tight", RIG_WRITE, test_tight);
    rig_add("damper/flush", test_flush);
    rig_add("error/flush", test_flush_error);
    rig_add("error/flush-first", test_flush_errors);
}
