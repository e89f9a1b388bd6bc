/*
 * Tests of virtio-blk's CANCEL request: the wire
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Feature negotiation, the header and its framing, and CANCELs that have no
 * target or are none.  Nothing hangs here.
 */

#include "qemu/osdep.h"
#include "standard-headers/linux/virtio_pci.h"
#include "virtio-blk-cancel-lib.h"

/* Features */

static void check_offered(const char *device, bool stock, bool offered)
{
    VbcOptions opts = { .device = device, .stock = stock };
    g_autofree char *shown = NULL;
    Vbc *v = vbc_start(&opts);

    g_assert_cmpint(!!(qvirtio_get_features(v->dev) & VBC_F(VBC_F_CANCEL)), ==,
                    offered);
    shown = vbc_host_features(v);
    g_assert_cmpint(!!strstr(shown, "VIRTIO_BLK_F_CANCEL"), ==, offered);
    if (!offered) {
        vbc_cancel(v, 0, 1, VIRTIO_BLK_S_UNSUPP);
    }
    vbc_check_read(v, 8, 4096, VBC_OLD);
    vbc_stop(v);
}

static void test_offered_on(void)
{
    check_offered(NULL, false, true);
}

static void test_offered_default(void)
{
    check_offered(NULL, true, false);
}

static void test_offered_off(void)
{
    check_offered("'cancel': 'off'", true, false);
}

static void test_offered_legacy(void)
{
    check_offered("'cancel': 'on', 'disable-modern': true,"
                  " 'disable-legacy': 'off'", true, false);
}

/* Is FEATURES_OK kept after a driver accepts @features? */
static bool features_ok(Vbc *v, uint64_t features)
{
    QVirtioPCIDevice *pci = v->pci;
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                     VIRTIO_CONFIG_S_FEATURES_OK;

    qvirtio_reset(v->dev);
    v->dev->bus->set_status(v->dev, VIRTIO_CONFIG_S_ACKNOWLEDGE |
                                    VIRTIO_CONFIG_S_DRIVER);
    for (unsigned int i = 0; i < 2; i++) {
        qpci_io_writel(pci->pdev, pci->bar, pci->common_cfg_offset +
                       VIRTIO_PCI_COMMON_GFSELECT, i);
        qpci_io_writel(pci->pdev, pci->bar, pci->common_cfg_offset +
                       VIRTIO_PCI_COMMON_GF, features >> i * 32);
    }
    g_assert_cmphex(v->dev->bus->get_guest_features(v->dev), ==, features);
    v->dev->bus->set_status(v->dev, status);
    return vbc_device_status(v) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static void test_features_ok(void)
{
    VbcOptions opts = { .device = "'in_order': true" };
    uint64_t cancel = VBC_F(VBC_F_CANCEL);
    uint64_t version_1 = VBC_F(VIRTIO_F_VERSION_1);
    uint64_t in_order = VBC_F(VIRTIO_F_IN_ORDER);
    Vbc *v = vbc_start(&opts);

    g_assert_true(qvirtio_get_features(v->dev) & in_order);
    g_assert_true(features_ok(v, version_1));
    g_assert_true(features_ok(v, version_1 | cancel));
    g_assert_true(features_ok(v, version_1 | in_order));
    g_assert_false(features_ok(v, version_1 | in_order | cancel));
    g_assert_false(features_ok(v, cancel));
    g_assert_false(features_ok(v, in_order | cancel));

    /* Refusing leaves no trace */
    vbc_restart_device(v);
    vbc_check_read(v, 0, 512, VBC_OLD);
    vbc_stop(v);
}

/* Offered, but the driver is an old one: 16 bytes of header */
static void test_declined(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 1 };
    Vbc *v;

    opts.decline = true;
    v = vbc_start(&opts);
    vbc_write(v, 8, 4096, 1);
    vbc_check_read(v, 8, 4096, 1);
    for (cancel.split = 0; cancel.split < 16; cancel.split++) {
        vbc_do(v, &cancel, VIRTIO_BLK_S_UNSUPP);
    }
    cancel.split = 0;
    cancel.framing = VBC_FRAME_JOINED;
    vbc_do(v, &cancel, VIRTIO_BLK_S_UNSUPP);
    cancel.header = 24;
    vbc_do(v, &cancel, VIRTIO_BLK_S_UNSUPP);
    cancel.header = 0;
    cancel.len = 512;
    vbc_do(v, &cancel, VIRTIO_BLK_S_UNSUPP);

    /* The driver's successor accepts it */
    v->opts.decline = false;
    vbc_restart_device(v);
    vbc_cancel(v, 0, 1, VIRTIO_BLK_S_OK);
    vbc_check_read(v, 8, 4096, 1);
    vbc_stop(v);
}

/* The header */

static void write_and_read(Vbc *v, const VbcReq *like, int fill)
{
    VbcReq out = *like, in = *like;

    out.type = VIRTIO_BLK_T_OUT;
    out.fill = fill;
    in.type = VIRTIO_BLK_T_IN;
    in.fill = VBC_POISON;
    out.len = in.len = 1024;
    vbc_do(v, &out, VIRTIO_BLK_S_OK);
    vbc_do(v, &in, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(in.used_len, ==, 1024 + 1);
    vbc_check_data(v, &in, fill);
    vbc_check_disk(v, like->sector, 1024, fill);
}

static void test_header_split(const void *opts)
{
    Vbc *v = vbc_start(opts);

    for (unsigned int split = 1; split < VBC_HEADER; split++) {
        VbcReq like = { .split = split, .sector = split * 3, .tag = ~0ull };
        VbcReq cancel = { .type = VBC_T_CANCEL, .split = split, .tag = split };

        write_and_read(v, &like, split);
        vbc_do(v, &cancel, VIRTIO_BLK_S_OK);
        g_assert_cmpuint(cancel.used_len, ==, 1);
    }
    vbc_stop(v);
}

static void test_header_bytes(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq like = { .framing = VBC_FRAME_BYTES, .sector = 5 };
    VbcReq cancel = { .type = VBC_T_CANCEL, .framing = VBC_FRAME_BYTES };

    write_and_read(v, &like, 77);
    vbc_do(v, &cancel, VIRTIO_BLK_S_OK);
    vbc_stop(v);
}

/* Data begins, and the status follows, in the middle of a descriptor */
static void test_header_joined(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq like = {
        .framing = VBC_FRAME_JOINED, .sector = 5, .tag = 5, .reserved = ~0u,
    };
    VbcReq cancel = { .type = VBC_T_CANCEL, .framing = VBC_FRAME_JOINED };

    write_and_read(v, &like, 1);
    for (like.split = 1; like.split < VBC_HEADER; like.split++) {
        write_and_read(v, &like, like.split + 1);
    }
    vbc_do(v, &cancel, VIRTIO_BLK_S_OK);
    vbc_stop(v);
}

static void check_short(Vbc *v, VbcReq *bad)
{
    VbcReq after = { .type = VIRTIO_BLK_T_IN, .len = 512 };
    VbcReq cancel = { .type = VBC_T_CANCEL };

    vbc_send(v, bad);
    vbc_settle(v);
    g_assert_true(vbc_device_status(v) & VIRTIO_CONFIG_S_NEEDS_RESET);

    vbc_send(v, &after);
    vbc_send(v, &cancel);
    vbc_settle(v);
    vbc_expect_pending(v, bad);
    vbc_expect_pending(v, &after);
    vbc_expect_pending(v, &cancel);

    vbc_restart_device(v);
    g_assert_false(vbc_device_status(v) & VIRTIO_CONFIG_S_NEEDS_RESET);
    vbc_check_read(v, 8, 512, VBC_OLD);
    vbc_cancel(v, 0, 0, VIRTIO_BLK_S_OK);
}

static void test_header_short(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq bad[] = {
        { .type = VIRTIO_BLK_T_IN, .len = 512, .header = 23 },
        { .type = VIRTIO_BLK_T_IN, .len = 512, .header = 16 },
        { .type = VIRTIO_BLK_T_FLUSH, .header = 1 },
        { .type = VBC_T_CANCEL, .header = 23 },
        { .type = VBC_T_CANCEL, .header = 23, .split = 8 },
        { .type = VBC_T_CANCEL, .header = 16 },
    };

    for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_test_message("type %u, %u bytes", bad[i].type, bad[i].header);
        check_short(v, &bad[i]);
    }
    vbc_stop(v);
}

/* A device that needs a reset gives nothing back, not even what hangs */
static void test_header_short_hung(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq hung = { .type = VIRTIO_BLK_T_IN, .tag = 1, .len = 512 };
    VbcReq abandoned = { .type = VIRTIO_BLK_T_OUT, .tag = 2, .len = 512 };
    VbcReq bad = { .type = VBC_T_CANCEL, .tag = 1, .header = 23 };
    VbcReq late = { .type = VBC_T_CANCEL, .tag = 1 };
    Vbc *v;

    opts.server = true;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send(v, &hung);
    vbc_send(v, &abandoned);
    vbc_cancel_req(v, &abandoned);
    vbc_send(v, &bad);
    vbc_send(v, &late);
    vbc_release(v);
    vbc_settle(v);
    g_assert_true(vbc_device_status(v) & VIRTIO_CONFIG_S_NEEDS_RESET);
    vbc_expect_pending(v, &bad);
    vbc_expect_pending(v, &late);

    vbc_restart_device(v);
    vbc_write(v, 0, 512, 5);
    vbc_check_read(v, 0, 512, 5);
    vbc_check_disk(v, 0, 512, 5);
    vbc_stop(v);
}

/* Requests of other types carry a tag too, and get what they always got */
static void test_other_types(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq id = {
        .type = VIRTIO_BLK_T_GET_ID, .tag = 3, .len = VIRTIO_BLK_ID_BYTES,
    };
    VbcReq req[] = {
        { .type = VIRTIO_BLK_T_FLUSH, .tag = 1 },
        { .type = VIRTIO_BLK_T_WRITE_ZEROES, .sector = 8, .len = 4096 },
        { .type = VIRTIO_BLK_T_DISCARD, .sector = 16, .len = 4096 },
    };
    VbcReq ioerr[] = {
        { .type = VIRTIO_BLK_T_IN, .sector = VBC_DISK_SIZE / 512, .len = 512 },
        { .type = VIRTIO_BLK_T_OUT, .sector = 0, .len = 511 },
        { .type = VIRTIO_BLK_T_DISCARD, .sector = 1ull << 60, .len = 512 },
    };
    VbcReq unsupp[] = {
        { .type = VIRTIO_BLK_T_WRITE_ZEROES, .len = 512, .flags = 2 },
        { .type = VIRTIO_BLK_T_DISCARD, .len = 512, .flags = 2 },
        { .type = VBC_T_CANCEL + 2 },
        { .type = VBC_T_CANCEL - 2 },
        { .type = VIRTIO_BLK_T_ZONE_REPORT, .len = 512 },
        { .type = VIRTIO_BLK_T_ZONE_OPEN, .tag = 4 },
    };
    char serial[VIRTIO_BLK_ID_BYTES + 1] = "";

    vbc_do(v, &id, VIRTIO_BLK_S_OK);
    qtest_memread(v->qts, id.data, serial, VIRTIO_BLK_ID_BYTES);
    g_assert_cmpstr(serial, ==, "cancel-me");

    for (unsigned int i = 0; i < ARRAY_SIZE(req); i++) {
        vbc_do(v, &req[i], VIRTIO_BLK_S_OK);
    }
    vbc_check_disk(v, 8, 4096, VBC_ZEROES);
    vbc_check_disk(v, 16, 4096, VBC_ZEROES);
    for (unsigned int i = 0; i < ARRAY_SIZE(ioerr); i++) {
        vbc_do(v, &ioerr[i], VIRTIO_BLK_S_IOERR);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(unsupp); i++) {
        vbc_do(v, &unsupp[i], VIRTIO_BLK_S_UNSUPP);
    }
    vbc_stop(v);
}

/* CANCELs without a target */

static void test_no_target(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq ignored = {
        .type = VBC_T_CANCEL, .tag = 9, .reserved = ~0u, .sector = ~0ull,
    };
    VbcReq twice[2] = {
        { .type = VBC_T_CANCEL, .tag = 10 },
        { .type = VBC_T_CANCEL, .tag = 10 },
    };
    VbcReq done = { .type = VIRTIO_BLK_T_IN, .tag = 11, .len = 512 };

    /* Never there */
    vbc_cancel(v, 0, 0, VIRTIO_BLK_S_OK);
    vbc_cancel(v, 0, 1, VIRTIO_BLK_S_OK);
    vbc_cancel(v, 0, ~0ull, VIRTIO_BLK_S_OK);
    vbc_do(v, &ignored, VIRTIO_BLK_S_OK);

    /* Naming a CANCEL, which is no target */
    vbc_add(v, &twice[0]);
    vbc_add(v, &twice[1]);
    vbc_kick(v, 0);
    vbc_expect(v, &twice[0], VIRTIO_BLK_S_OK);
    vbc_expect(v, &twice[1], VIRTIO_BLK_S_OK);

    /* Completed by itself */
    vbc_do(v, &done, VIRTIO_BLK_S_OK);
    vbc_cancel(v, 0, 11, VIRTIO_BLK_S_OK);
    g_assert_cmpint(done.status, ==, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &done, VBC_OLD);
    vbc_stop(v);
}

/* A used CANCEL interrupts as any other request does */
static void test_interrupt(const void *opts)
{
    Vbc *v = vbc_start(opts);
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 1, .queue = v->q };
    gint64 end = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;

    while (v->dev->bus->get_queue_isr_status(v->dev, v->queue[v->q].vq)) {
        /* reading clears it */
    }
    vbc_do(v, &cancel, VIRTIO_BLK_S_OK);
    while (!v->dev->bus->get_queue_isr_status(v->dev, v->queue[v->q].vq)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
    vbc_stop(v);
}

void vbc_add_wire_tests(void)
{
    qtest_add_func("/virtio-blk-cancel/offered/on", test_offered_on);
    qtest_add_func("/virtio-blk-cancel/offered/default", test_offered_default);
    qtest_add_func("/virtio-blk-cancel/offered/off", test_offered_off);
    qtest_add_func("/virtio-blk-cancel/offered/legacy", test_offered_legacy);
    qtest_add_func("/virtio-blk-cancel/features-ok/combinations",
                   test_features_ok);
    vbc_add_test("declined", VBC_SETUP_PLAIN | VBC_SETUP_RINGS, test_declined);
    vbc_add_test("header/split", VBC_SETUP_PLAIN | VBC_SETUP_RINGS,
                 test_header_split);
    vbc_add_test("header/bytes", VBC_SETUP_PLAIN | VBC_SETUP_RINGS,
                 test_header_bytes);
    vbc_add_test("header/joined", VBC_SETUP_PLAIN | VBC_SETUP_RINGS,
                 test_header_joined);
    vbc_add_test("header/short", VBC_SETUP_PLAIN | VBC_SETUP_RINGS,
                 test_header_short);
    vbc_add_test("header/short-while-hung", VBC_SETUP_ALL,
                 test_header_short_hung);
    vbc_add_test("other-types", VBC_SETUP_PLAIN | VBC_SETUP_RINGS,
                 test_other_types);
    vbc_add_test("no-target", VBC_SETUP_ALL, test_no_target);
    vbc_add_test("interrupt", VBC_SETUP_ALL, test_interrupt);
}
