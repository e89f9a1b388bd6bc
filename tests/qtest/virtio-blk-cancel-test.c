/*
 * Tests of virtio-blk's CANCEL request
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Here: what a CANCEL does to requests that hang, and what it leaves alone.
 * The wire format is in virtio-blk-cancel-wire.c; what a cancelled request may
 * still do to memory and disk, in -late.c; resets and the like in -stop.c.
 *
 * Tests wait for events, with generous bounds, and never for time.  "Nothing
 * happened" is said after something later has happened.
 */

#include "qemu/osdep.h"
#include "virtio-blk-cancel-lib.h"

#define MANY            200
#define MAX_ABANDONED    256     /* the device's limit of abandoned requests */

static Vbc *start_server(const void *base, const char *device)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.server = true;
    opts.device = device;
    return vbc_start(&opts);
}

/* The types that can be cancelled while the storage has them */
static const VbcReq hangs[] = {
    { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 4096 },
    { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 16, .len = 4096 },
    { .type = VIRTIO_BLK_T_FLUSH, .tag = 3 },
    { .type = VIRTIO_BLK_T_DISCARD, .tag = 4, .sector = 32, .len = 4096 },
    { .type = VIRTIO_BLK_T_WRITE_ZEROES, .tag = 5, .sector = 40, .len = 4096 },
    { .type = VIRTIO_BLK_T_IN, .tag = 1ull << 63, .sector = 65, .len = 65536 },
    { .type = VIRTIO_BLK_T_OUT, .tag = ~0ull, .sector = 193, .len = 65536 },
};

/* The used length says that nothing was read, and does not reach the status */
static void cancel_hung(Vbc *v, VbcReq *r)
{
    vbc_cancel_req(v, r);
    g_assert_cmpuint(r->used_len, ==,
                     r->type == VIRTIO_BLK_T_IN ? 0 : 1);
}

/* Each type alone; then again, all of them at once */
static void test_hung(const void *opts)
{
    Vbc *v = start_server(opts, NULL);
    VbcReq all[ARRAY_SIZE(hangs)];

    if (!v) {
        return;
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(hangs); i++) {
        VbcReq r = hangs[i];

        g_test_message("type %u", r.type);
        r.queue = v->q;
        vbc_write(v, 0, 512, i);        /* or a flush has nothing to do */
        vbc_hold(v);
        vbc_send(v, &r);
        vbc_sync(v, v->q);
        cancel_hung(v, &r);
        vbc_cancel(v, v->q, r.tag, VIRTIO_BLK_S_OK);
        vbc_release(v);
        vbc_settle(v);
        vbc_reap(v);
    }
    vbc_write(v, 0, 512, 99);
    vbc_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(hangs); i++) {
        all[i] = hangs[i];
        all[i].queue = v->q;
        vbc_send(v, &all[i]);
    }
    for (unsigned int i = ARRAY_SIZE(hangs); i-- > 0;) {
        vbc_expect_pending(v, &all[i]);
        cancel_hung(v, &all[i]);
    }
    vbc_release(v);
    vbc_write(v, 0, 512, 100);
    vbc_check_disk(v, 0, 512, 100);
    vbc_stop(v);
}

/* Not asked to be cancelled: everything completes when the storage does */
static void test_hung_not_cancelled(const void *opts)
{
    Vbc *v = start_server(opts, NULL);
    VbcReq all[ARRAY_SIZE(hangs)];

    if (!v) {
        return;
    }
    vbc_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(hangs); i++) {
        all[i] = hangs[i];
        all[i].queue = v->q;
        all[i].fill = i;
        vbc_send(v, &all[i]);
    }
    vbc_cancel(v, v->q, 1234, VIRTIO_BLK_S_OK);
    for (unsigned int i = 0; i < ARRAY_SIZE(hangs); i++) {
        if (hangs[i].type != VIRTIO_BLK_T_FLUSH) {
            vbc_expect_pending(v, &all[i]);
        }
    }
    vbc_release(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(hangs); i++) {
        vbc_expect(v, &all[i], VIRTIO_BLK_S_OK);
    }
    vbc_check_data(v, &all[0], VBC_OLD);
    vbc_check_data(v, &all[5], VBC_OLD);
    vbc_check_disk(v, all[1].sector, all[1].len, 1);
    vbc_check_disk(v, all[3].sector, all[3].len, VBC_ZEROES);
    vbc_check_disk(v, all[4].sector, all[4].len, VBC_ZEROES);
    vbc_check_disk(v, all[6].sector, all[6].len, 6);
    vbc_stop(v);
}

/* A hung target, and CANCELs that do not hit it */
static void test_missed(const void *opts)
{
    Vbc *v = start_server(opts, NULL);
    VbcReq target = {
        .type = VIRTIO_BLK_T_IN, .tag = 7, .sector = 8, .len = 4096,
        .fill = VBC_POISON,
    };
    VbcReq miss[] = {
        { .type = VBC_T_CANCEL, .len = 512, .direction = VBC_DATA_IN },
        { .type = VBC_T_CANCEL, .len = 512, .direction = VBC_DATA_OUT },
        { .type = VBC_T_CANCEL, .len = 1, .direction = VBC_DATA_OUT,
          .framing = VBC_FRAME_JOINED },
        { .type = VBC_T_CANCEL, .len = 1, .direction = VBC_DATA_IN,
          .framing = VBC_FRAME_JOINED },
        { .type = VBC_T_CANCEL | 1 },
        { .type = VBC_T_CANCEL | VBC_T_BARRIER },
        { .type = VBC_T_CANCEL | VBC_T_BARRIER | 1 },
        { .type = VBC_T_CANCEL | 1, .len = 512 },
    };

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send(v, &target);
    vbc_sync(v, 0);
    for (unsigned int i = 0; i < ARRAY_SIZE(miss); i++) {
        miss[i].tag = target.tag;
        vbc_do(v, &miss[i], miss[i].type == VBC_T_CANCEL ? VIRTIO_BLK_S_IOERR
                                                        : VIRTIO_BLK_S_UNSUPP);
    }
    vbc_cancel(v, 0, 6, VIRTIO_BLK_S_OK);
    vbc_cancel(v, 0, 7ull << 32, VIRTIO_BLK_S_OK);
    vbc_cancel(v, 0, 7ull | 1ull << 63, VIRTIO_BLK_S_OK);
    vbc_expect_pending(v, &target);
    vbc_check_data(v, &target, VBC_POISON);

    vbc_release(v);
    vbc_expect(v, &target, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &target, VBC_OLD);
    vbc_stop(v);
}

/* The CANCEL's header is cut at each byte, too, when it has a target */
static void test_hung_split(const void *opts)
{
    Vbc *v = start_server(opts, NULL);
    VbcReq target[VBC_HEADER];

    if (!v) {
        return;
    }
    vbc_hold(v);
    for (unsigned int i = 0; i < VBC_HEADER; i++) {
        VbcReq cancel = {
            .type = VBC_T_CANCEL, .split = i, .tag = 0x0102030405060708ull + i,
            .framing = i ? VBC_FRAME_PLAIN : VBC_FRAME_BYTES,
            .reserved = ~0u, .sector = ~0ull,   /* which the device ignores */
        };

        target[i] = (VbcReq) {
            .type = VIRTIO_BLK_T_IN, .split = i, .tag = cancel.tag,
            .sector = i, .len = 512,
        };
        vbc_send(v, &target[i]);
        vbc_do(v, &cancel, VIRTIO_BLK_S_OK);
        g_assert_cmpint(target[i].status, ==, VBC_S_CANCELED);
        g_assert_cmpuint(target[i].order, <, cancel.order);
    }
    vbc_release(v);
    vbc_stop(v);
}

static void test_duplicate(const void *opts)
{
    Vbc *v = start_server(opts, NULL);
    VbcReq twin[2] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 7, .sector = 8, .len = 512 },
        { .type = VIRTIO_BLK_T_IN, .tag = 7, .sector = 16, .len = 512 },
    };
    unsigned int gone;

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send(v, &twin[0]);
    vbc_send(v, &twin[1]);
    vbc_cancel(v, 0, 7, VIRTIO_BLK_S_OK);
    gone = twin[0].order ? 0 : 1;
    g_assert_cmpint(twin[gone].status, ==, VBC_S_CANCELED);
    vbc_expect_pending(v, &twin[!gone]);

    vbc_release(v);
    vbc_expect(v, &twin[!gone], VIRTIO_BLK_S_OK);
    vbc_check_data(v, &twin[!gone], VBC_OLD);
    vbc_cancel(v, 0, 7, VIRTIO_BLK_S_OK);

    /* Asked twice, both are cancelled */
    vbc_hold(v);
    vbc_send(v, &twin[0]);
    vbc_send(v, &twin[1]);
    vbc_cancel(v, 0, 7, VIRTIO_BLK_S_OK);
    vbc_cancel(v, 0, 7, VIRTIO_BLK_S_OK);
    g_assert_cmpint(twin[0].status, ==, VBC_S_CANCELED);
    g_assert_cmpint(twin[1].status, ==, VBC_S_CANCELED);
    vbc_release(v);
    vbc_stop(v);
}

/* Tags belong to a virtqueue */
static void test_other_queue(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[2] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 7, .sector = 8, .len = 512 },
        { .type = VIRTIO_BLK_T_IN, .tag = 7, .sector = 16, .len = 512,
          .queue = 1 },
    };
    Vbc *v;

    opts.queues = MAX(opts.queues, 2);
    v = start_server(&opts, NULL);
    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send(v, &r[0]);
    vbc_sync(v, 0);
    vbc_cancel(v, 1, 7, VIRTIO_BLK_S_OK);
    vbc_expect_pending(v, &r[0]);

    vbc_send(v, &r[1]);
    vbc_cancel_req(v, &r[1]);
    vbc_expect_pending(v, &r[0]);

    vbc_send(v, &r[1]);
    vbc_cancel_req(v, &r[0]);
    vbc_expect_pending(v, &r[1]);

    vbc_release(v);
    vbc_expect(v, &r[1], VIRTIO_BLK_S_OK);
    vbc_check_data(v, &r[1], VBC_OLD);
    vbc_stop(v);
}

/* Neighbours that a device without cancelling would merge, and one kick */
static void check_batch(Vbc *v, uint32_t type)
{
    VbcReq r[8], cancel[2] = {
        { .type = VBC_T_CANCEL, .tag = 3, .queue = v->q },
        { .type = VBC_T_CANCEL, .tag = 7, .queue = v->q },
    };

    vbc_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        r[i] = (VbcReq) {
            .type = type, .tag = i, .sector = 8 + i, .len = 512,
            .fill = type == VIRTIO_BLK_T_OUT ? 1 : VBC_POISON, .queue = v->q,
        };
        vbc_add(v, &r[i]);
    }
    vbc_add(v, &cancel[0]);
    vbc_add(v, &cancel[1]);
    vbc_kick(v, v->q);

    for (unsigned int i = 0; i < ARRAY_SIZE(cancel); i++) {
        vbc_expect(v, &cancel[i], VIRTIO_BLK_S_OK);
        g_assert_cmpint(r[cancel[i].tag].status, ==, VBC_S_CANCELED);
        g_assert_cmpuint(r[cancel[i].tag].order, <, cancel[i].order);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        if (i != 3 && i != 7) {
            vbc_expect_pending(v, &r[i]);
        }
    }
    vbc_release(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        if (i == 3 || i == 7) {
            continue;
        }
        vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
        if (type == VIRTIO_BLK_T_IN) {
            vbc_check_data(v, &r[i], VBC_OLD);
        } else {
            vbc_check_disk(v, r[i].sector, 512, 1);
        }
    }
    vbc_settle(v);
}

static void test_batch(const void *opts)
{
    Vbc *v = start_server(opts, NULL);

    if (!v) {
        return;
    }
    check_batch(v, VIRTIO_BLK_T_IN);
    check_batch(v, VIRTIO_BLK_T_OUT);
    vbc_stop(v);
}

/* In the ring before its target, a CANCEL finds nothing */
static void test_batch_too_early(const void *opts)
{
    Vbc *v = start_server(opts, NULL);
    VbcReq target = { .type = VIRTIO_BLK_T_IN, .tag = 7, .len = 512 };
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 7 };

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_add(v, &cancel);
    vbc_add(v, &target);
    vbc_kick(v, 0);
    vbc_expect(v, &cancel, VIRTIO_BLK_S_OK);
    vbc_cancel(v, 0, 8, VIRTIO_BLK_S_OK);
    vbc_expect_pending(v, &target);
    vbc_release(v);
    vbc_expect(v, &target, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &target, VBC_OLD);
    vbc_stop(v);
}

/* More hang than the thread pool or the server's client take at once */
static void test_many(const void *opts)
{
    Vbc *v = start_server(opts, "'queue-size': 1024");
    g_autofree VbcReq *r = g_new0(VbcReq, MANY);
    g_autofree VbcReq *cancel = g_new0(VbcReq, MANY);

    if (!v) {
        return;
    }
    vbc_hold(v);
    for (unsigned int i = 0; i < MANY; i++) {
        r[i] = (VbcReq) {
            .type = i % 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, .tag = 100 + i,
            .sector = 8 * i, .len = 4096, .queue = v->q,
        };
        vbc_add(v, &r[i]);
    }
    vbc_kick(v, v->q);
    for (unsigned int i = 0; i < MANY; i++) {
        cancel[i] = (VbcReq) {
            .type = VBC_T_CANCEL, .tag = 100 + (i * 7) % MANY, .queue = v->q,
        };
        vbc_add(v, &cancel[i]);
    }
    vbc_kick(v, v->q);
    for (unsigned int i = 0; i < MANY; i++) {
        VbcReq *target = &r[(i * 7) % MANY];

        vbc_expect(v, &cancel[i], VIRTIO_BLK_S_OK);
        g_assert_cmpint(target->status, ==, VBC_S_CANCELED);
        g_assert_cmpuint(target->order, <, cancel[i].order);
    }
    qtest_qmp_assert_success(v->qts, "{'execute': 'query-status'}");
    vbc_release(v);
    for (unsigned int i = 0; i < MANY; i += 20) {
        vbc_write(v, 8 * i, 4096, 1);
        vbc_check_disk(v, 8 * i, 4096, 1);
    }
    vbc_stop(v);
}

/* What is over the limit of abandoned requests waits, and is cancelled too */
static void test_quota(const void *opts)
{
    Vbc *v = start_server(opts, "'queue-size': 1024");
    g_autofree VbcReq *r = g_new0(VbcReq, MAX_ABANDONED);
    VbcReq more[16], last;

    if (!v) {
        return;
    }
    vbc_hold(v);
    for (unsigned int i = 0; i < MAX_ABANDONED; i++) {
        r[i] = (VbcReq) {
            .type = VIRTIO_BLK_T_IN, .tag = i, .sector = i, .len = 512,
        };
        vbc_add(v, &r[i]);
    }
    vbc_kick(v, 0);
    vbc_sync(v, 0);
    for (unsigned int i = 0; i < MAX_ABANDONED; i++) {
        vbc_cancel_req(v, &r[i]);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(more); i++) {
        more[i] = (VbcReq) {
            .type = i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_FLUSH,
            .tag = 1000 + i, .sector = 8 * i, .len = i % 2 ? 4096 : 0,
            .fill = 1,
        };
        vbc_send(v, &more[i]);
    }
    last = (VbcReq) { .type = VIRTIO_BLK_T_IN, .sector = 8, .len = 512 };
    vbc_send(v, &last);
    for (unsigned int i = 0; i < ARRAY_SIZE(more); i++) {
        vbc_expect_pending(v, &more[i]);
        vbc_cancel_req(v, &more[i]);
    }
    vbc_expect_pending(v, &last);
    vbc_release(v);
    vbc_expect(v, &last, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &last, VBC_OLD);

    /* Cancelled while they waited, the writes have done nothing */
    vbc_settle(v);
    for (unsigned int i = 1; i < ARRAY_SIZE(more); i += 2) {
        vbc_check_disk(v, 8 * i, 4096, VBC_OLD);
    }
    vbc_stop(v);
}

/* Larger than the whole budget: refused, and completes as if not asked */
static void check_refused(Vbc *v, VbcReq *r)
{
    r->queue = v->q;
    vbc_hold(v);
    vbc_send(v, r);
    vbc_sync(v, v->q);
    for (unsigned int i = 0; i < 3; i++) {
        vbc_cancel(v, v->q, r->tag, VBC_S_NOT_CANCELED);
        vbc_expect_pending(v, r);
    }
    vbc_release(v);
    vbc_expect(v, r, VIRTIO_BLK_S_OK);
    vbc_cancel(v, v->q, r->tag, VIRTIO_BLK_S_OK);
    if (r->type == VIRTIO_BLK_T_IN) {
        vbc_check_data(v, r, VBC_OLD);
    } else {
        vbc_check_disk(v, r->sector, r->len, r->fill);
    }
}

static void test_refused(const void *opts)
{
    Vbc *v = start_server(opts, "'cancel-budget': 4096");
    VbcReq big[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 8192 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 64, .len = 8192,
          .fill = 1 },
    };
    VbcReq small = {
        .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 8, .len = 4096,
    };

    if (!v) {
        return;
    }
    check_refused(v, &big[0]);
    check_refused(v, &big[1]);
    small.queue = v->q;
    vbc_hold(v);
    vbc_send(v, &small);
    vbc_sync(v, v->q);
    vbc_cancel_req(v, &small);
    vbc_release(v);
    vbc_stop(v);
}

static void test_refused_no_budget(const void *opts)
{
    Vbc *v = start_server(opts, "'cancel-budget': 0");
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 512 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 64, .len = 512,
          .fill = 1 },
    };

    if (!v) {
        return;
    }
    check_refused(v, &r[0]);
    check_refused(v, &r[1]);
    vbc_stop(v);
}

/* The budget is taken: the next one waits, and can be cancelled at once */
static void test_budget(const void *opts)
{
    Vbc *v = start_server(opts, "'cancel-budget': 8192");
    VbcReq r[4] = {
        { .type = VIRTIO_BLK_T_OUT, .tag = 0, .sector = 8, .len = 8192,
          .fill = 1 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 64, .len = 4096,
          .fill = 1 },
        { .type = VIRTIO_BLK_T_IN, .tag = 2, .sector = 128, .len = 8192 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 3, .sector = 192, .len = 512,
          .fill = 1 },
    };

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    vbc_cancel_req(v, &r[1]);       /* waits */
    vbc_cancel_req(v, &r[0]);       /* with the storage; keeps its budget */
    vbc_expect_pending(v, &r[2]);
    vbc_expect_pending(v, &r[3]);
    vbc_release(v);
    vbc_expect(v, &r[2], VIRTIO_BLK_S_OK);
    vbc_expect(v, &r[3], VIRTIO_BLK_S_OK);
    vbc_check_data(v, &r[2], VBC_OLD);
    vbc_check_disk(v, 192, 512, 1);
    vbc_settle(v);
    vbc_check_disk(v, 64, 4096, VBC_OLD);
    vbc_stop(v);
}

int main(int argc, char **argv)
{
    unsigned int rings = VBC_SETUP_PLAIN | VBC_SETUP_RINGS;

    g_test_init(&argc, &argv, NULL);
    vbc_add_wire_tests();
    vbc_add_test("hung/cancelled", VBC_SETUP_ALL, test_hung);
    vbc_add_test("hung/not-cancelled", VBC_SETUP_ALL, test_hung_not_cancelled);
    vbc_add_test("hung/missed", rings, test_missed);
    vbc_add_test("hung/split", rings, test_hung_split);
    vbc_add_test("hung/many", VBC_SETUP_ALL, test_many);
    vbc_add_test("tag/duplicate", VBC_SETUP_PLAIN, test_duplicate);
    vbc_add_test("tag/other-queue", VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS,
                 test_other_queue);
    vbc_add_test("batch/neighbours", VBC_SETUP_ALL, test_batch);
    vbc_add_test("batch/too-early", rings, test_batch_too_early);
    vbc_add_test("budget/quota", VBC_SETUP_PLAIN, test_quota);
    vbc_add_test("budget/refused", VBC_SETUP_ALL, test_refused);
    vbc_add_test("budget/none", VBC_SETUP_PLAIN, test_refused_no_budget);
    vbc_add_test("budget/waiting", VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS,
                 test_budget);
    vbc_add_late_tests();
    vbc_add_stop_tests();
    vbc_add_reset_tests();
    vbc_add_own_tests();
    return g_test_run();
}
