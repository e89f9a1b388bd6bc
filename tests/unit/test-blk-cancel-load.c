/*
 * Requests of a BlockBackend that can be taken back: many of them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Loops that must leave nothing behind, and a hammer: two threads submit and
 * cancel at random, the storage answers at random, and every read is compared
 * with what it may return.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "blk-cancel-rig.h"

/*
 * Submit and cancel, over and over
 */

#define LOOPS       10000

/* Far below what LOOPS coroutines, or their bounce buffers, would take */
#define MAX_GROWTH  (512 * MiB)

/* Size of this process in bytes, or 0 if not known */
static uint64_t process_size(void)
{
    g_autofree char *statm = NULL;

    if (!g_file_get_contents("/proc/self/statm", &statm, NULL, NULL)) {
        return 0;
    }
    return g_ascii_strtoull(statm, NULL, 10) * qemu_real_host_page_size();
}

typedef struct Loop {
    Rig *rig;
    RigReq *req;
    unsigned int waiting;       /* requests that wait besides this one */
} Loop;

static unsigned int nr_waiting(Rig *rig)
{
    BlkCancelInfo info = rig_info(rig);

    return info.waiting_drained + info.waiting_budget + info.waiting_fence;
}

static void loop_fn(void *opaque)
{
    Loop *loop = opaque;
    RigReq *req = loop->req;

    for (int i = 0; i < LOOPS; i++) {
        req->calls = 0;
        rig_submit_here(req);
        rig_check_pending(req);
        g_assert_cmpuint(nr_waiting(req->rig), ==, loop->waiting + 1);
        rig_cancel_here(req);
        rig_check_canceled(req);
        g_assert_cmpuint(nr_waiting(req->rig), ==, loop->waiting);
    }
}

static void run_loop(Rig *rig, const RigVariant *v)
{
    uint64_t before;
    Loop loop = {
        .rig = rig,
        .req = rig_prepare(rig, 1, v->op, 0, RIG_BLOCK, 0xbb),
        .waiting = nr_waiting(rig),
    };
    uint64_t charged = rig_info(rig).budget_used;

    before = process_size();
    rig_run(loop.req->ctx, loop_fn, &loop);
    rig_settle(rig);
    g_assert_cmpuint(process_size(), <, before + MAX_GROWTH);
    g_assert_cmpuint(rig_info(rig).budget_used, ==, charged);
    rig_req_free(loop.req);
}

static void test_loop_fence(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);
    g_autoptr(RigReq) older = rig_submit(rig, 0, RIG_WRITE, 0, RIG_BLOCK,
                                         0xaa);
    g_autoptr(RigReq) stays = NULL;

    rig_wait(rig_nr_held(rig) == 1);
    rig_cancel(older);
    stays = rig_submit(rig, 0, RIG_READ, 0, RIG_BLOCK, 0);
    run_loop(rig, v);
    rig_check_info(rig, 1, 0, 0, 1);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_release_all(rig);
    rig_check_result(stays, 0);
    rig_check_buf(stays, 0xaa);
    rig_end(rig);
}

static void test_loop_budget(const RigVariant *v)
{
    BlkCancelOptions opts = {
        .budget = RIG_BLOCK, .damper = 100, .region = RIG_BLOCK,
    };
    Rig *rig = rig_new(v->mode, &opts);
    g_autoptr(RigReq) full = rig_submit(rig, 0, RIG_WRITE, 0, RIG_BLOCK, 0xaa);

    rig_wait(rig_nr_held(rig) == 1);
    run_loop(rig, v);
    rig_check_info(rig, 0, 0, 0, 0);
    g_assert_cmpuint(rig_arrived(rig), ==, 1);
    rig_release_all(rig);
    rig_check_result(full, 0);
    rig_end(rig);
}

static void test_loop_drained(const RigVariant *v)
{
    Rig *rig = rig_new(v->mode, NULL);

    bdrv_drained_begin(rig->bs);
    run_loop(rig, v);
    rig_check_info(rig, 0, 0, 0, 0);
    bdrv_drained_end(rig->bs);
    g_assert_cmpuint(rig_arrived(rig), ==, 0);
    rig_end(rig);
}

/*
 * The hammer
 *
 * Each block of a small disk is filled with one value, the stamp of the write
 * that prevails.  The threads behave as a guest does that does not race with
 * itself: whoever writes a block has it alone, readers share it.  A block is
 * given back when the request has been completed or cancelled, so the next
 * user may meet an abandoned request at once.
 *
 * The oracle keeps for each block the values that it may have.  A write that
 * was acknowledged leaves one.  One that failed or was cancelled adds one.  A
 * read that was not cancelled must return one of these, and decides which.
 */

#define BLOCKS          12
#define MAX_RANGE       4
#define SLOTS           6           /* requests in flight per thread */
#define HAMMER_OPS      30000       /* requests per thread */
#define STAMPS          256

typedef struct Block {
    /* Protected by Hammer.lock */
    bool writer;
    unsigned int readers;
    bool may_be[STAMPS];
} Block;

typedef struct HammerThread HammerThread;

typedef struct Slot {
    /* Owned by the thread */
    HammerThread *thread;
    RigReq *req;                    /* NULL: free */
    uint8_t stamp;
    bool canceling;
} Slot;

typedef struct Hammer {
    /* Set once */
    Rig *rig;

    /* Main loop only */
    bool draining;
    unsigned int drain_bhs;         /* scheduled */

    QemuMutex lock;
    Block block[BLOCKS];            /* see there */
} Hammer;

struct HammerThread {
    /* Set once */
    Hammer *hammer;
    int n;

    /* Owned by the thread */
    GRand *rand;
    Slot slot[SLOTS];
    unsigned int left;              /* to be submitted */
    unsigned int canceled;

    bool done;                      /* atomic */
};

static bool writes(RigOp op)
{
    return op == RIG_WRITE || op == RIG_ZEROES || op == RIG_DISCARD;
}

/* Take the blocks of @req for it, unless they are in use. */
static bool hammer_take(Hammer *h, RigReq *req)
{
    unsigned int first = req->offset / RIG_BLOCK;
    unsigned int last = first + req->bytes / RIG_BLOCK;

    QEMU_LOCK_GUARD(&h->lock);
    for (unsigned int i = first; i < last; i++) {
        Block *b = &h->block[i];

        if (b->writer || (writes(req->op) && b->readers)) {
            return false;
        }
    }
    for (unsigned int i = first; i < last; i++) {
        h->block[i].writer |= writes(req->op);
        h->block[i].readers += !writes(req->op);
    }
    return true;
}

static void block_written(Block *b, Slot *slot, int ret)
{
    if (ret == 0) {
        memset(b->may_be, 0, sizeof(b->may_be));
    }
    b->may_be[slot->stamp] = true;
    b->writer = false;
}

static void block_read(Block *b, Slot *slot, const uint8_t *buf, int ret)
{
    if (ret == 0) {
        g_assert_true(b->may_be[buf[0]]);
        for (int i = 1; i < RIG_BLOCK; i++) {
            g_assert_cmphex(buf[i], ==, buf[0]);
        }
        memset(b->may_be, 0, sizeof(b->may_be));
        b->may_be[buf[0]] = true;
    }
    b->readers--;
}

static void hammer_give_back(Hammer *h, Slot *slot)
{
    RigReq *req = slot->req;
    unsigned int first = req->offset / RIG_BLOCK;

    QEMU_LOCK_GUARD(&h->lock);
    for (unsigned int i = 0; i < req->bytes / RIG_BLOCK; i++) {
        Block *b = &h->block[first + i];

        if (writes(req->op)) {
            block_written(b, slot, req->ret);
        } else {
            block_read(b, slot, req->buf + i * RIG_BLOCK, req->ret);
        }
    }
}

/* The callback's end */
static void hammer_then(RigReq *req)
{
    Slot *slot = req->opaque;
    HammerThread *t = slot->thread;

    g_assert_true(slot->req == req);
    if (req->canceled) {
        g_assert_true(slot->canceling);
        g_assert_cmpint(req->ret, ==, -ECANCELED);
        t->canceled++;
        if (req->op == RIG_READ) {
            rig_check_buf(req, RIG_UNREAD);
        }
    } else {
        g_assert_true(req->ret == 0 || req->ret == -EIO);
    }
    hammer_give_back(t->hammer, slot);

    /* A abandoned request must not need it, and must not touch it */
    memset(req->buf, 0xee, req->bytes);
}

static RigReq *hammer_prepare(HammerThread *t, Slot *slot)
{
    static const RigOp ops[] = {
        RIG_READ, RIG_READ, RIG_READ, RIG_WRITE, RIG_WRITE, RIG_WRITE,
        RIG_ZEROES, RIG_DISCARD, RIG_FLUSH,
    };
    RigOp op = ops[g_rand_int_range(t->rand, 0, ARRAY_SIZE(ops))];
    int blocks = op == RIG_FLUSH ? 0 :
                 g_rand_int_range(t->rand, 1, MAX_RANGE + 1);
    int first = g_rand_int_range(t->rand, 0, BLOCKS - blocks + 1);
    RigReq *req;

    slot->stamp = op == RIG_ZEROES ? RIG_ZEROED :
                  op == RIG_DISCARD ? RIG_DISCARDED :
                  g_rand_int_range(t->rand, 0, STAMPS);
    slot->canceling = false;
    req = rig_prepare(t->hammer->rig, t->n, op, first * RIG_BLOCK,
                      blocks * RIG_BLOCK, slot->stamp);
    req->then = hammer_then;
    req->opaque = slot;
    return req;
}

static void hammer_submit(HammerThread *t, Slot *slot)
{
    RigReq *req = hammer_prepare(t, slot);

    if (!hammer_take(t->hammer, req)) {
        g_free(req->mem);
        g_free(req);
        return;
    }
    slot->req = req;
    t->left--;
    rig_submit_here(req);
    if (req->op == RIG_WRITE && g_rand_boolean(t->rand) &&
        rig_info(t->hammer->rig).waiting_budget == 0) {
        /* Sometimes at once, that is before the storage has answered */
        slot->canceling = true;
        rig_cancel_here(req);
    }
}

static void hammer_use(HammerThread *t, Slot *slot)
{
    RigReq *req = slot->req;

    if (!req) {
        if (t->left) {
            hammer_submit(t, slot);
        }
    } else if (rig_req_calls(req)) {
        rig_req_free(req);
        slot->req = NULL;
    } else if (g_rand_int_range(t->rand, 0, 12) == 0) {
        slot->canceling = true;
        rig_cancel_here(req);
    }
}

static bool hammer_is_idle(HammerThread *t)
{
    for (int i = 0; i < SLOTS; i++) {
        if (t->slot[i].req) {
            return false;
        }
    }
    return !t->left;
}

static void hammer_bh(void *opaque);

static void coroutine_fn hammer_co(void *opaque)
{
    HammerThread *t = opaque;

    for (int i = 0; i < 8; i++) {
        hammer_use(t, &t->slot[g_rand_int_range(t->rand, 0, SLOTS)]);
    }
}

/*
 * The storage answers, fails, or lets pass for a while.  It does so in the
 * requests' threads, so that none outruns the other.
 */
static void hammer_storage(Rig *rig, GRand *rand)
{
    switch (g_rand_int_range(rand, 0, 40)) {
    case 0:
        rig_set_holding(rig, false);
        break;
    case 1 ... 4:
        rig_set_holding(rig, true);
        break;
    case 5 ... 19:
        rig_release_nth(rig, g_rand_int_range(rand, 0, 6),
                        g_rand_int_range(rand, 0, 10) ? 0 : -EIO);
        break;
    default:
        break;
    }
}

/* A few steps outside or inside a coroutine, then let others run */
static void hammer_bh(void *opaque)
{
    HammerThread *t = opaque;
    Rig *rig = t->hammer->rig;

    hammer_storage(rig, t->rand);
    if (g_rand_int_range(t->rand, 0, 4)) {
        hammer_use(t, &t->slot[g_rand_int_range(t->rand, 0, SLOTS)]);
    } else {
        qemu_coroutine_enter(qemu_coroutine_create(hammer_co, t));
    }
    if (hammer_is_idle(t)) {
        qatomic_store_release(&t->done, true);
    } else {
        aio_bh_schedule_oneshot(rig->ctx[t->n], hammer_bh, t);
    }
}

/* The threads may switch holding on again at any time: release until it ends */
static void hammer_drain_bh(void *opaque)
{
    Hammer *h = opaque;

    h->drain_bhs--;
    if (h->draining) {
        rig_release_all(h->rig);
        h->drain_bhs++;
        aio_bh_schedule_oneshot(qemu_get_aio_context(), hammer_drain_bh, h);
    }
}

/* In the main loop, now and then: nothing is with the storage inside. */
static void hammer_drain(Hammer *h)
{
    Rig *rig = h->rig;

    h->draining = true;
    h->drain_bhs++;
    aio_bh_schedule_oneshot(qemu_get_aio_context(), hammer_drain_bh, h);
    bdrv_drained_begin(rig->bs);
    h->draining = false;
    g_assert_cmpuint(rig_nr_active(rig), ==, 0);
    g_assert_cmpuint(rig_info(rig).abandoned, ==, 0);
    bdrv_drained_end(rig->bs);
    rig_set_holding(rig, true);
}

static void hammer_check_disk(Hammer *h)
{
    for (int i = 0; i < BLOCKS; i++) {
        uint8_t value = h->rig->disk[i * RIG_BLOCK];

        g_assert_true(h->block[i].may_be[value]);
        rig_check_disk(h->rig, i * RIG_BLOCK, RIG_BLOCK, value);
    }
}

static void do_test_hammer(const RigVariant *v, const BlkCancelOptions *opts,
                           unsigned int min_abandoned)
{
    Hammer h = { .rig = rig_new(v->mode, opts) };
    GRand *rand = g_rand_new_with_seed(g_test_rand_int());
    HammerThread t[2] = {};

    qemu_mutex_init(&h.lock);
    for (int i = 0; i < BLOCKS; i++) {
        h.block[i].may_be[RIG_INITIAL] = true;
    }
    for (int i = 0; i < 2; i++) {
        t[i].hammer = &h;
        t[i].n = i;
        t[i].rand = g_rand_new_with_seed(g_test_rand_int());
        t[i].left = HAMMER_OPS;
        for (int j = 0; j < SLOTS; j++) {
            t[i].slot[j].thread = &t[i];
        }
        aio_bh_schedule_oneshot(h.rig->ctx[i], hammer_bh, &t[i]);
    }

    while (!qatomic_load_acquire(&t[0].done) ||
           !qatomic_load_acquire(&t[1].done)) {
        if (g_rand_int_range(rand, 0, 200) == 0) {
            hammer_drain(&h);
        }
        rig_poll();
    }
    rig_release_all(h.rig);
    rig_wait_idle(h.rig);
    rig_wait(h.drain_bhs == 0);
    hammer_check_disk(&h);

    /* Otherwise it has shown nothing */
    g_test_message("%u and %u canceled, %" PRIu64 " abandoned", t[0].canceled,
                   t[1].canceled, rig_info(h.rig).abandoned_ever);
    g_assert_cmpuint(t[0].canceled, >, min_abandoned);
    g_assert_cmpuint(t[1].canceled, >, min_abandoned);
    g_assert_cmpuint(rig_info(h.rig).abandoned_ever, >, min_abandoned);
    for (int i = 0; i < 2; i++) {
        g_rand_free(t[i].rand);
    }
    g_rand_free(rand);
    qemu_mutex_destroy(&h.lock);
    rig_end(h.rig);
}

static void test_hammer(const RigVariant *v)
{
    do_test_hammer(v, NULL, HAMMER_OPS / 50);
}

/* So tight that requests wait for budget and quota all the time */
static void test_hammer_tight(const RigVariant *v)
{
    BlkCancelOptions opts = {
        .budget = 5 * RIG_BLOCK, .damper = 100, .region = RIG_BLOCK,
    };

    do_test_hammer(v, &opts, HAMMER_OPS / 500);
}

void add_load_tests(void)
{
    static const RigOp ops[] = {
        RIG_READ, RIG_WRITE, RIG_ZEROES, RIG_DISCARD,
    };

    for (int i = 0; i < ARRAY_SIZE(ops); i++) {
        rig_add_op("loop/fence", ops[i], test_loop_fence);
        rig_add_op("loop/drained", ops[i], test_loop_drained);
    }
    rig_add_op("loop/budget", RIG_READ, test_loop_budget);
    rig_add_op("loop/budget", RIG_WRITE, test_loop_budget);
    rig_add("hammer/default", test_hammer);
    rig_add("hammer/tight", test_hammer_tight);
}
