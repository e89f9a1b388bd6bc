/*
 * Tests of virtio-blk's CANCEL request: no late effect
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a cancelled request may still do to memory and disk when the storage
 * goes on: nothing that a later request could tell.  And who has to wait for
 * that, and who has not.
 */

#include "qemu/osdep.h"
#include "virtio-blk-cancel-lib.h"

static Vbc *start_server(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.server = true;
    return vbc_start(&opts);
}

/* A cancelled read's buffer is the driver's */
static void test_late_read(const void *opts)
{
    Vbc *v = start_server(opts);
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 512 },
        { .type = VIRTIO_BLK_T_IN, .tag = 2, .sector = 9, .len = 4096 },
        { .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 64, .len = 262144 },
        { .type = VIRTIO_BLK_T_IN, .tag = 4, .sector = 1, .len = 1536,
          .framing = VBC_FRAME_JOINED },
    };

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_cancel_req(v, &r[i]);
        vbc_reuse(v, &r[i]);
    }
    vbc_release(v);
    vbc_settle(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_check_reused(v, &r[i]);
    }
    vbc_stop(v);
}

/* What @type, cancelled, leaves behind; a later write to its middle prevails */
static void check_late_write(Vbc *v, uint32_t type, int fill)
{
    VbcReq old = {
        .type = type, .tag = 1, .sector = 64, .len = 65536, .fill = fill,
        .queue = v->q,
    };
    VbcReq new = {
        .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 100, .len = 8192,
        .fill = 2,                  /* from another queue, if there is one */
    };

    vbc_write(v, 64, 65536, VBC_OLD);
    vbc_hold(v);
    vbc_send(v, &old);
    vbc_sync(v, v->q);
    vbc_cancel_req(v, &old);
    vbc_reuse(v, &old);
    vbc_send(v, &new);
    vbc_sync(v, 0);
    vbc_expect_pending(v, &new);

    vbc_release(v);
    vbc_expect(v, &new, VIRTIO_BLK_S_OK);
    vbc_check_disk(v, 100, 8192, 2);
    vbc_settle(v);
    vbc_check_disk(v, 100, 8192, 2);
    vbc_check_read(v, 100, 8192, 2);
    vbc_check_unspecified(v, 64, 36 * 512, fill);
    vbc_check_unspecified(v, 116, 76 * 512, fill);
    vbc_check_reused(v, &old);
}

static void test_late_write(const void *opts)
{
    Vbc *v = start_server(opts);

    if (!v) {
        return;
    }
    check_late_write(v, VIRTIO_BLK_T_OUT, 1);
    check_late_write(v, VIRTIO_BLK_T_WRITE_ZEROES, VBC_ZEROES);
    check_late_write(v, VIRTIO_BLK_T_DISCARD, VBC_ZEROES);
    vbc_stop(v);
}

/* The fence, one hung operation at a time */

static VbcReq fenced_write(uint32_t type)
{
    return (VbcReq) {
        .type = type, .tag = 1, .sector = 64, .len = 16 * 512, .fill = 1,
    };
}

static void hang_and_cancel(Vbc *v, VbcReq *r, const char *event)
{
    vbc_break(v, event, "first");
    vbc_send(v, r);
    vbc_wait_break(v, "first");
    vbc_expect_pending(v, r);
    vbc_cancel_req(v, r);
    vbc_reuse(v, r);
}

static void check_fence(Vbc *v, uint32_t type, const char *event, int fill)
{
    VbcReq first = fenced_write(type);
    VbcReq waits[] = {      /* both ends, all, one sector; each queue */
        { .type = VIRTIO_BLK_T_IN, .sector = 57, .len = 8 * 512 },
        { .type = VIRTIO_BLK_T_IN, .sector = 79, .len = 512, .queue = 1 },
        { .type = VIRTIO_BLK_T_OUT, .sector = 79, .len = 8 * 512, .fill = 2 },
        { .type = VIRTIO_BLK_T_OUT, .sector = 66, .len = 512, .fill = 2,
          .queue = 1 },
        { .type = VIRTIO_BLK_T_WRITE_ZEROES, .sector = 70, .len = 512 },
        { .type = VIRTIO_BLK_T_IN, .sector = 0, .len = 256 * 512 },
    };
    VbcReq runs[] = {
        { .type = VIRTIO_BLK_T_IN, .sector = 56, .len = 8 * 512 },
        { .type = VIRTIO_BLK_T_IN, .sector = 80, .len = 8 * 512, .queue = 1 },
        { .type = VIRTIO_BLK_T_OUT, .sector = 63, .len = 512, .queue = 1 },
        { .type = VIRTIO_BLK_T_OUT, .sector = 80, .len = 512 },
        { .type = VIRTIO_BLK_T_FLUSH },
        { .type = VIRTIO_BLK_T_FLUSH, .queue = 1 },
        { .type = VIRTIO_BLK_T_DISCARD, .sector = 512, .len = 4096 },
    };

    hang_and_cancel(v, &first, event);
    for (unsigned int i = 0; i < ARRAY_SIZE(waits); i++) {
        waits[i].tag = 100 + i;
        vbc_send(v, &waits[i]);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(runs); i++) {
        vbc_do(v, &runs[i], VIRTIO_BLK_S_OK);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(waits); i++) {
        vbc_expect_pending(v, &waits[i]);
    }
    vbc_check_disk(v, 64, 16 * 512, VBC_OLD);

    vbc_resume(v, "first");
    for (unsigned int i = 0; i < ARRAY_SIZE(waits); i++) {
        vbc_expect(v, &waits[i], VIRTIO_BLK_S_OK);
    }
    vbc_check_disk(v, 64, 2 * 512, fill);
    vbc_check_disk(v, 66, 512, 2);
    vbc_check_disk(v, 67, 3 * 512, fill);
    vbc_check_disk(v, 70, 512, VBC_ZEROES);
    vbc_check_disk(v, 71, 8 * 512, fill);
    vbc_check_disk(v, 79, 8 * 512, 2);
    vbc_check_reused(v, &first);
    vbc_write(v, 0, 256 * 512, VBC_OLD);
}

static void test_fence(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vbc *v;

    opts.queues = 2;
    v = vbc_start(&opts);
    check_fence(v, VIRTIO_BLK_T_OUT, "pwritev", 1);
    check_fence(v, VIRTIO_BLK_T_OUT, "write_aio", 1);
    check_fence(v, VIRTIO_BLK_T_WRITE_ZEROES, "pwritev_zero", VBC_ZEROES);
    vbc_stop(v);
}

/* What a read tells that waited is what the disk holds from then on */
static void test_fence_settled(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq first = fenced_write(VIRTIO_BLK_T_OUT);
    VbcReq read = {
        .type = VIRTIO_BLK_T_IN, .tag = 2, .sector = 64, .len = 16 * 512,
    };

    hang_and_cancel(v, &first, "pwritev");
    vbc_send(v, &read);
    vbc_check_read(v, 80, 512, VBC_OLD);
    vbc_expect_pending(v, &read);
    vbc_resume(v, "first");
    vbc_expect(v, &read, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &read, 1);
    vbc_check_disk(v, 64, 16 * 512, 1);
    vbc_stop(v);
}

/* Cancelled at the fence, a request has done nothing and delays nobody */
static void test_fence_waiter(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq first = fenced_write(VIRTIO_BLK_T_OUT);
    VbcReq waiter[3] = {
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 72, .len = 16 * 512,
          .fill = 2 },
        { .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 64, .len = 512 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 4, .sector = 64, .len = 512,
          .fill = 3 },
    };

    hang_and_cancel(v, &first, "pwritev");
    for (unsigned int i = 0; i < ARRAY_SIZE(waiter); i++) {
        vbc_send(v, &waiter[i]);
    }
    vbc_cancel_req(v, &waiter[0]);
    vbc_cancel_req(v, &waiter[1]);
    vbc_reuse(v, &waiter[0]);
    vbc_reuse(v, &waiter[1]);
    vbc_check_read(v, 80, 8 * 512, VBC_OLD);    /* overlaps only waiter[0] */
    vbc_expect_pending(v, &waiter[2]);

    vbc_resume(v, "first");
    vbc_expect(v, &waiter[2], VIRTIO_BLK_S_OK);
    vbc_settle(v);
    vbc_check_disk(v, 64, 512, 3);
    vbc_check_disk(v, 65, 15 * 512, 1);
    vbc_check_disk(v, 80, 8 * 512, VBC_OLD);
    vbc_check_reused(v, &waiter[0]);
    vbc_check_reused(v, &waiter[1]);
    vbc_stop(v);
}

/* Two abandoned writes: waiting is for those that it overlaps, and for all */
static void test_fence_two(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq first = fenced_write(VIRTIO_BLK_T_OUT);
    VbcReq second = {
        .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 128, .len = 512,
        .fill = 1,
    };
    VbcReq on_first = {
        .type = VIRTIO_BLK_T_OUT, .tag = 3, .sector = 64, .len = 512,
        .fill = 2,
    };
    VbcReq on_both = {
        .type = VIRTIO_BLK_T_IN, .tag = 4, .sector = 64, .len = 128 * 512,
    };

    hang_and_cancel(v, &first, "pwritev");
    vbc_break(v, "pwritev", "second");
    vbc_send(v, &second);
    vbc_wait_break(v, "second");
    vbc_cancel_req(v, &second);
    vbc_send(v, &on_first);
    vbc_send(v, &on_both);

    vbc_check_read(v, 80, 512, VBC_OLD);
    vbc_expect_pending(v, &on_first);
    vbc_resume(v, "first");
    vbc_expect(v, &on_first, VIRTIO_BLK_S_OK);
    vbc_check_read(v, 64, 512, 2);
    vbc_expect_pending(v, &on_both);
    vbc_resume(v, "second");
    vbc_expect(v, &on_both, VIRTIO_BLK_S_OK);
    vbc_check_disk(v, 128, 512, 1);
    vbc_stop(v);
}

/* A cancelled read or flush keeps nobody waiting */
static void test_fence_none(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq read = {
        .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 64, .len = 8192,
    };
    VbcReq flush = { .type = VIRTIO_BLK_T_FLUSH, .tag = 2 };

    hang_and_cancel(v, &read, "read_aio");
    vbc_write(v, 64, 8192, 1);
    vbc_check_read(v, 64, 8192, 1);
    vbc_resume(v, "first");
    vbc_settle(v);
    vbc_check_reused(v, &read);

    hang_and_cancel(v, &flush, "flush_to_os");
    vbc_write(v, 64, 8192, 2);
    vbc_check_read(v, 64, 8192, 2);
    vbc_resume(v, "first");
    vbc_settle(v);
    vbc_check_reused(v, &flush);
    vbc_stop(v);
}

/* Requests that complete while they are cancelled */

#define RACERS          24
#define UNKNOWN         (-2)

static void check_racer(Vbc *v, VbcReq *r, int *content)
{
    if (r->status == VBC_S_CANCELED) {
        *content = r->type == VIRTIO_BLK_T_OUT ? UNKNOWN : *content;
        return;
    }
    g_assert_cmpint(r->status, ==, VIRTIO_BLK_S_OK);
    if (r->type == VIRTIO_BLK_T_OUT) {
        *content = r->fill;
    } else if (*content != UNKNOWN) {
        vbc_check_data(v, r, *content);
    }
}

/* @content: what is known of each racer's place on the disk */
static void race(Vbc *v, unsigned int round, int *content)
{
    VbcReq r[RACERS], cancel[RACERS];

    for (unsigned int i = 0; i < RACERS; i++) {
        bool write = g_test_rand_bit();

        r[i] = (VbcReq) {
            .type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
            .tag = round * RACERS + i, .sector = 8 * i, .len = 4096,
            .fill = write ? round : VBC_POISON, .queue = i % v->num_queues,
        };
        cancel[i] = (VbcReq) {
            .type = VBC_T_CANCEL, .tag = r[i].tag, .queue = r[i].queue,
        };
        vbc_add(v, &r[i]);
    }
    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_kick(v, i);
    }
    for (unsigned int i = round % 2; i < RACERS; i += 1 + round % 3) {
        vbc_send(v, &cancel[i]);
    }
    for (unsigned int i = round % 2; i < RACERS; i += 1 + round % 3) {
        vbc_expect(v, &cancel[i], VIRTIO_BLK_S_OK);
        g_assert_cmpuint(r[i].order, !=, 0);
        g_assert_cmpuint(r[i].order, <, cancel[i].order);
    }
    for (unsigned int i = 0; i < RACERS; i++) {
        vbc_wait(v, &r[i]);
        check_racer(v, &r[i], &content[i]);
    }
}

static void test_race(const void *opts)
{
    Vbc *v = vbc_start(opts);
    int content[RACERS] = { VBC_OLD };

    for (unsigned int round = 1; round <= 40; round++) {
        race(v, round, content);
    }
    vbc_settle(v);
    for (unsigned int i = 0; i < RACERS; i++) {
        if (content[i] != UNKNOWN) {
            vbc_check_disk(v, 8 * i, 4096, content[i]);
        }
    }
    vbc_stop(v);
}

void vbc_add_late_tests(void)
{
    unsigned int rings = VBC_SETUP_PLAIN | VBC_SETUP_RINGS;

    vbc_add_test("late/read", VBC_SETUP_ALL, test_late_read);
    vbc_add_test("late/write", VBC_SETUP_ALL, test_late_write);
    vbc_add_test("fence/overlap", rings, test_fence);
    vbc_add_test("fence/settled", VBC_SETUP_PLAIN, test_fence_settled);
    vbc_add_test("fence/waiter", rings, test_fence_waiter);
    vbc_add_test("fence/two", VBC_SETUP_PLAIN, test_fence_two);
    vbc_add_test("fence/none", VBC_SETUP_PLAIN, test_fence_none);
    vbc_add_test("race/completion", VBC_SETUP_ALL, test_race);
}
