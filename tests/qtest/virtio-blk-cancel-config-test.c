/*
 * Tests of virtio-blk's CANCEL request: configurations of the device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Here: transports, virtqueues and threads, ring features, and the largest and
 * most fragmented requests.  Guest memory behind an IOMMU is in
 * virtio-blk-cancel-memory.c; throttling, error policies, accounting and
 * snapshots in -policy.c; image formats and block jobs in -layers.c.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "virtio-blk-cancel-lib.h"

#define IMAGE_SIZE      (600 * MiB)
#define BUDGET          (128 * MiB)     /* the device's default */

static Vbc *start_server(const void *base, const char *device)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.server = true;
    opts.device = device;
    return vbc_start(&opts);
}

/* Transports */

/* What hangs is cancelled, and the buffers are left alone later on */
static void check_hung(Vbc *v)
{
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 4096 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 16, .len = 4096,
          .fill = 1 },
        { .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 32, .len = 65536,
          .pieces = 16 },
    };
    VbcReq kept = {
        .type = VIRTIO_BLK_T_IN, .tag = 4, .sector = 8, .len = 512,
    };

    vbc_hold(v);
    kept.queue = v->q;
    vbc_send(v, &kept);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_cancel_req(v, &r[i]);
        vbc_reuse(v, &r[i]);
    }
    vbc_expect_pending(v, &kept);
    vbc_release(v);
    vbc_expect(v, &kept, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &kept, VBC_OLD);
    vbc_settle(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_check_reused(v, &r[i]);
    }
    vbc_write(v, 16, 4096, VBC_OLD);
}

/* A reset takes back what hangs, whatever the driver knows */
static void check_reset(Vbc *v)
{
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 4096 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 16, .len = 4096,
          .fill = 1 },
    };

    vbc_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_send(v, &r[i]);
    }
    vbc_sync(v, 0);
    vbc_restart_device(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_reuse(v, &r[i]);
    }
    vbc_sync(v, 0);
    vbc_release(v);
    vbc_write(v, 16, 4096, VBC_OLD);
    vbc_settle(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_check_reused(v, &r[i]);
    }
    vbc_check_disk(v, 16, 4096, VBC_OLD);
}

/* A driver of the legacy interface sees an ordinary disk */
static void check_legacy(Vbc *v)
{
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 1 };

    g_assert_cmphex(qvirtio_get_features(v->dev) & VBC_F(VBC_F_CANCEL), ==, 0);
    vbc_write(v, 8, 4096, 1);
    vbc_check_read(v, 8, 4096, 1);
    vbc_do(v, &cancel, VIRTIO_BLK_S_UNSUPP);
    cancel.header = VBC_HEADER;
    vbc_do(v, &cancel, VIRTIO_BLK_S_UNSUPP);
    vbc_settle(v);
    vbc_check_disk(v, 8, 4096, 1);
    check_reset(v);
}

static void test_transitional(void)
{
    VbcOptions opts = {
        .transport = VBC_PCI_LEGACY, .stock = true, .server = true,
        .device = "'cancel': 'on', 'disable-legacy': 'off',"
                  " 'disable-modern': false",
    };
    Vbc *v = vbc_start(&opts);

    if (!v) {
        return;
    }
    check_legacy(v);
    vbc_stop(v);

    /* A modern driver finds more in the same device */
    opts.transport = VBC_PCI;
    opts.stock = false;
    opts.device = "'disable-legacy': 'off', 'disable-modern': false";
    v = vbc_start(&opts);
    check_hung(v);
    check_reset(v);
    vbc_stop(v);
}

static void test_mmio_legacy(void)
{
    VbcOptions opts = {
        .transport = VBC_MMIO, .stock = true, .server = true,
        .device = "'cancel': 'on'",
        .args = "-global virtio-mmio.force-legacy=true",
    };
    Vbc *v = vbc_start(&opts);

    if (!v) {
        return;
    }
    check_legacy(v);
    vbc_stop(v);
}

static void test_mmio(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vbc *v;

    opts.transport = VBC_MMIO;
    opts.args = "-global virtio-mmio.force-legacy=false";
    opts.server = true;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    check_hung(v);
    check_reset(v);
    check_hung(v);
    vbc_stop(v);
}

/* Virtqueues and threads */

#define PER_QUEUE       12

/* Targets and CANCELs of all virtqueues are on their way at the same time */
static void race_queues(Vbc *v, VbcReq *r, VbcReq *cancel, bool hung)
{
    unsigned int n = v->num_queues * PER_QUEUE;

    for (unsigned int i = 0; i < n; i++) {
        r[i] = (VbcReq) {
            .type = i % 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
            .tag = i / v->num_queues, .sector = 8 * i, .len = 4096,
            .fill = i % 3 ? VBC_POISON : 1, .queue = i % v->num_queues,
        };
        vbc_add(v, &r[i]);
    }
    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_kick(v, i);
    }
    for (unsigned int i = 0; i < n; i += 2) {
        cancel[i] = (VbcReq) {
            .type = VBC_T_CANCEL, .tag = r[i].tag, .queue = r[i].queue,
        };
        vbc_add(v, &cancel[i]);
    }
    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_kick(v, i);
    }
    for (unsigned int i = 0; i < n; i += 2) {
        vbc_expect(v, &cancel[i], VIRTIO_BLK_S_OK);
        g_assert_cmpuint(r[i].order, !=, 0);
        g_assert_cmpuint(r[i].order, <, cancel[i].order);
        if (hung) {
            g_assert_cmpint(r[i].status, ==, VBC_S_CANCELED);
            vbc_reuse(v, &r[i]);
        }
    }
    for (unsigned int i = 1; hung && i < n; i += 2) {
        vbc_expect_pending(v, &r[i]);
    }
}

static void check_queues(unsigned int queues, unsigned int iothreads)
{
    VbcOptions opts = { .queues = queues, .iothreads = iothreads };
    Vbc *v = start_server(&opts, NULL);
    VbcReq r[VBC_MAX_QUEUES * PER_QUEUE], cancel[VBC_MAX_QUEUES * PER_QUEUE];

    if (!v) {
        return;
    }
    g_assert_cmpuint(v->num_queues, ==, queues);
    vbc_hold(v);
    race_queues(v, r, cancel, true);
    vbc_release(v);
    for (unsigned int i = 1; i < queues * PER_QUEUE; i += 2) {
        vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
        if (r[i].type == VIRTIO_BLK_T_IN) {
            vbc_check_data(v, &r[i], VBC_OLD);
        } else {
            vbc_check_disk(v, r[i].sector, r[i].len, 1);
        }
    }
    vbc_settle(v);
    for (unsigned int i = 0; i < queues * PER_QUEUE; i += 2) {
        vbc_check_reused(v, &r[i]);
    }

    /* And while the storage answers */
    for (unsigned int round = 0; round < 5; round++) {
        race_queues(v, r, cancel, false);
        for (unsigned int i = 0; i < queues * PER_QUEUE; i++) {
            vbc_wait(v, &r[i]);
            g_assert_true(r[i].status == VIRTIO_BLK_S_OK ||
                          (i % 2 == 0 && r[i].status == VBC_S_CANCELED));
        }
    }
    vbc_stop(v);
}

static void test_queues_1_iothreads(void)
{
    check_queues(1, 2);
}

static void test_queues_16(void)
{
    check_queues(16, 0);
}

static void test_queues_16_iothread(void)
{
    check_queues(16, 1);
}

static void test_queues_16_iothreads(void)
{
    check_queues(16, 4);
}

/* Ring features */

static void set_used_event(Vbc *v, uint16_t at, bool wrap)
{
    QVirtQueue *vq = v->queue[v->q].vq;

    if (v->opts.ring & VBC_PACKED) {
        qtest_writew(v->qts, vq->avail, at | wrap << 15);
        qtest_writew(v->qts, vq->avail + 2, 2);     /* flags: at descriptor */
    } else {
        qtest_writew(v->qts, vq->avail + 4 + vq->size * 2, at);
    }
}

static bool interrupted(Vbc *v)
{
    return v->dev->bus->get_queue_isr_status(v->dev, v->queue[v->q].vq);
}

static void test_event_index(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;
    VbcReq r = { .type = VIRTIO_BLK_T_IN, .tag = 1, .len = 4096 };
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 1 };
    VbcQueue *q;
    Vbc *v;

    opts.features = VBC_F(VIRTIO_RING_F_EVENT_IDX);
    v = start_server(&opts, NULL);
    if (!v) {
        return;
    }
    q = &v->queue[v->q];
    r.queue = cancel.queue = v->q;
    vbc_check_read(v, 0, 512, VBC_OLD);     /* the first always interrupts */
    while (interrupted(v)) {
        /* reading clears it */
    }

    /* An interrupt for neither of them */
    vbc_hold(v);
    set_used_event(v, q->used_idx + 100, q->used_wrap);
    vbc_send(v, &r);
    vbc_sync(v, v->q);
    vbc_cancel_req(v, &r);
    vbc_sync(v, v->q);
    g_assert_false(interrupted(v));

    /* For the CANCEL, which comes behind its target */
    vbc_send(v, &r);
    vbc_sync(v, v->q);
    set_used_event(v, q->used_idx + (opts.ring & VBC_PACKED ? r.num_descs : 1),
                   q->used_wrap);
    g_assert_false(interrupted(v));
    vbc_do(v, &cancel, VIRTIO_BLK_S_OK);
    g_assert_cmpint(r.status, ==, VBC_S_CANCELED);
    while (!interrupted(v)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
    vbc_release(v);
    vbc_stop(v);
}

/* No CANCEL with in-order use, but a reset takes back what hangs */
static void test_in_order(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[8];
    Vbc *v;

    opts.features = VBC_F(VIRTIO_F_IN_ORDER);
    opts.decline = true;
    v = start_server(&opts, "'in_order': true");
    if (!v) {
        return;
    }
    for (unsigned int round = 0; round < 3; round++) {
        vbc_hold(v);
        for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
            r[i] = (VbcReq) {
                .type = VIRTIO_BLK_T_IN, .sector = 8 * i,
                .len = i % 2 ? 512 : 131072,
            };
            vbc_send(v, &r[i]);
        }
        if (round == 1) {
            vbc_restart_device(v);
            for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
                vbc_reuse(v, &r[i]);
            }
        }
        vbc_release(v);
        if (round == 1) {
            vbc_settle(v);
        }
        for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
            if (round == 1) {
                vbc_check_reused(v, &r[i]);
                continue;
            }
            vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
            vbc_check_data(v, &r[i], VBC_OLD);
            g_assert_true(i == 0 || r[i].order > r[i - 1].order);
        }
        vbc_check_read(v, 8, 512, VBC_OLD);
    }
    vbc_stop(v);
}

/* Sizes */

/* The queue is one request; its data comes in pieces that are no sectors */
static void test_fragmented(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq like[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 1, .len = 1022 * 512,
          .pieces = 1022 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 1, .len = 1022 * 512,
          .pieces = 1022, .fill = 1 },
        { .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 5, .len = 512,
          .pieces = 512 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 4, .sector = 5, .len = 1536,
          .pieces = 512, .fill = 2 },
    };
    Vbc *v = start_server(&opts, "'queue-size': 1024");

    if (!v) {
        return;
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(like); i++) {
        VbcReq r = like[i];
        VbcReq cancel = { .type = VBC_T_CANCEL, .tag = r.tag };
        bool fits = r.pieces < 1022 || opts.ring & VBC_INDIRECT;

        vbc_do(v, &r, VIRTIO_BLK_S_OK);
        if (r.type == VIRTIO_BLK_T_IN) {
            vbc_check_data(v, &r, i < 2 ? VBC_OLD : 1);
        } else {
            vbc_check_disk(v, r.sector, r.len, r.fill);
        }

        /* A CANCEL needs a descriptor as well */
        if (!fits) {
            continue;
        }
        r.fill = 3;
        vbc_hold(v);
        vbc_send(v, &r);
        vbc_sync(v, 0);
        vbc_do(v, &cancel, VIRTIO_BLK_S_OK);
        g_assert_cmpint(r.status, ==, VBC_S_CANCELED);
        vbc_reuse(v, &r);
        vbc_release(v);
        vbc_settle(v);
        vbc_check_reused(v, &r);
        vbc_write(v, 0, 1100 * 512, 1);
    }
    vbc_stop(v);
}

/* All pieces in one place, so that a small guest can have large requests */
static VbcReq large_read(Vbc *v, uint64_t tag, uint64_t len)
{
    return (VbcReq) {
        .type = VIRTIO_BLK_T_IN, .tag = tag, .len = len, .pieces = len / MiB,
        .alias = true, .at = guest_alloc(&v->alloc, MiB),
    };
}

static void test_large(const void *base)
{
    g_autofree char *image = vbc_sparse_image(IMAGE_SIZE);
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq all, waits, over;
    VbcReq small = {
        .type = VIRTIO_BLK_T_IN, .tag = 4, .sector = 8, .len = 4096,
    };
    Vbc *v;

    opts.image = image;
    v = start_server(&opts, "'queue-size': 1024");
    if (!v) {
        unlink(image);
        return;
    }
    all = large_read(v, 1, BUDGET);
    waits = large_read(v, 2, BUDGET);
    over = large_read(v, 3, BUDGET + MiB);

    /* All of the budget; what comes then waits for it, or runs without */
    vbc_hold(v);
    vbc_send(v, &all);
    vbc_send(v, &waits);
    vbc_send(v, &small);
    vbc_send(v, &over);
    vbc_sync(v, 0);
    vbc_expect_pending(v, &waits);
    vbc_cancel_req(v, &waits);
    vbc_expect_pending(v, &small);
    vbc_cancel(v, 0, 3, VBC_S_NOT_CANCELED);
    vbc_cancel_req(v, &all);
    qtest_memset(v->qts, all.at, VBC_POISON, MiB);

    vbc_release(v);
    vbc_expect(v, &small, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &small, VBC_ZEROES);
    vbc_expect(v, &over, VIRTIO_BLK_S_OK);
    vbc_settle(v);
    for (uint64_t i = 0; i < MiB; i += 65536) {
        g_assert_cmphex(qtest_readb(v->qts, all.at + i), ==, VBC_POISON);
    }

    /* The whole budget is there again */
    vbc_do(v, &waits, VIRTIO_BLK_S_OK);
    vbc_stop(v);
    unlink(image);
}

int main(int argc, char **argv)
{
    unsigned int rings = VBC_SETUP_PLAIN | VBC_SETUP_RINGS;

    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/virtio-blk-cancel/transport/transitional",
                   test_transitional);
    if (qtest_has_machine("microvm")) {
        qtest_add_func("/virtio-blk-cancel/transport/mmio-legacy",
                       test_mmio_legacy);
        vbc_add_test("transport/mmio", rings, test_mmio);
    }
    qtest_add_func("/virtio-blk-cancel/queues/1-iothreads-2",
                   test_queues_1_iothreads);
    qtest_add_func("/virtio-blk-cancel/queues/16", test_queues_16);
    qtest_add_func("/virtio-blk-cancel/queues/16-iothread",
                   test_queues_16_iothread);
    qtest_add_func("/virtio-blk-cancel/queues/16-iothreads-4",
                   test_queues_16_iothreads);
    vbc_add_test("event-index", VBC_SETUP_ALL, test_event_index);
    vbc_add_test("in-order", rings, test_in_order);
    vbc_add_test("size/fragmented", rings, test_fragmented);
    vbc_add_test("size/large", VBC_SETUP_PLAIN, test_large);
    vbc_add_limit_tests();
    vbc_add_memory_tests();
    vbc_add_policy_tests();
    vbc_add_layer_tests();
    return g_test_run();
}
