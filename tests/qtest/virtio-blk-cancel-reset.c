/*
 * Tests of virtio-blk's CANCEL request: resets
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device with cancel= is reset while its storage hangs, in every way that
 * a guest and QMP have, and with drivers that know the feature or do not.  The
 * storage is let go only after the reset is over.
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "standard-headers/linux/pci_regs.h"
#include "virtio-blk-cancel-lib.h"

/* Only what the disk of a guest that knows nothing of CANCEL has */
#define CANCEL_ONLY "'cancel': 'reset', 'rerror': 'stop', 'werror': 'stop'"

static Vbc *start(const void *base, const char *device)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.server = true;
    opts.device = device;
    return vbc_start(&opts);
}

static Vbc *start_stock(const void *base, const char *device)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.stock = true;
    return start(&opts, device);
}

/* Ways to reset the device; each starts it again */

static void reset_function(Vbc *v)
{
    QPCIDevice *pdev = v->pci->pdev;
    uint8_t cap = qpci_find_capability(pdev, PCI_CAP_ID_EXP, 0);

    g_assert_cmphex(cap, !=, 0);
    /* As Linux does: quiet first */
    qpci_config_writew(pdev, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE);
    qpci_config_writew(pdev, cap + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR);
    vbc_find_device(v);
    vbc_start_device(v);
}

static void reset_secondary_bus(Vbc *v)
{
    QPCIDevice *port = qpci_device_find(v->bus, QPCI_DEVFN(VBC_SLOT, 0));
    uint16_t ctl = qpci_config_readw(port, PCI_BRIDGE_CONTROL);

    qpci_config_writew(port, PCI_BRIDGE_CONTROL,
                       ctl | PCI_BRIDGE_CTL_BUS_RESET);
    qpci_config_writew(port, PCI_BRIDGE_CONTROL, ctl);
    g_free(port);
    vbc_find_device(v);
    vbc_start_device(v);
}

static void reset_system(Vbc *v)
{
    qtest_qmp_assert_success(v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(v->qts, "RESET");
    vbc_find_device(v);
    vbc_start_device(v);
}

static bool knows_cancel(Vbc *v)
{
    return v->dev->features & VBC_F(VBC_F_CANCEL);
}

/*
 * The storage still hangs.  The device serves its virtqueues; what overlaps a
 * write from before the reset waits for it, and can be cancelled.
 */
static void check_serves(Vbc *v, VbcReq *lost)
{
    VbcReq r = {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 64, .len = 512,
        .fill = 99, .queue = v->q,
    };

    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        vbc_reuse(v, &lost[i]);
    }
    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_sync(v, i);
        if (knows_cancel(v)) {
            vbc_cancel(v, i, 1, VIRTIO_BLK_S_OK);
        }
    }
    if (knows_cancel(v)) {
        vbc_send(v, &r);
        vbc_cancel_req(v, &r);
    }
}

/* After that the storage goes on, and nothing late is to be seen. */
static void check_orders(Vbc *v, VbcReq *lost, int fill)
{
    VbcReq write = {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 64, .len = 8192,
        .fill = fill, .queue = v->q,
    };

    vbc_send(v, &write);
    vbc_expect_pending(v, &write);
    vbc_release(v);
    vbc_expect(v, &write, VIRTIO_BLK_S_OK);
    vbc_settle(v);
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        vbc_check_reused(v, &lost[i]);
    }
    vbc_check_disk(v, 64, 8192, fill);
    vbc_check_read(v, 64, 8192, fill);
}

static void check_reset(Vbc *v, void (*reset)(Vbc *v))
{
    VbcReq r[VBC_HANGING];

    if (!v) {
        return;
    }
    for (unsigned int round = 0; round < 2; round++) {
        vbc_hang_some(v, r);
        vbc_watch_begin(v);
        reset(v);
        check_serves(v, r);
        vbc_watch_end(v);
        check_orders(v, r, 2 + round);
    }
    vbc_stop(v);
}

static void test_status(const void *opts)
{
    check_reset(start(opts, NULL), vbc_restart_device);
}

static void test_system(const void *opts)
{
    check_reset(start(opts, NULL), reset_system);
}

static void test_no_ioeventfd(const void *opts)
{
    check_reset(start(opts, "'ioeventfd': false"), vbc_restart_device);
}

static void test_function(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.port = true;
    check_reset(start(&opts, NULL), reset_function);
}

static void test_secondary_bus(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.port = true;
    check_reset(start(&opts, NULL), reset_secondary_bus);
}

static void test_declined(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.decline = true;
    check_reset(start(&opts, NULL), vbc_restart_device);
}

static void restart_declining(Vbc *v)
{
    v->opts.decline = true;
    vbc_restart_device(v);
}

/* The next driver does not accept the feature, nor does the one after it */
static void test_declined_later(const void *opts)
{
    check_reset(start(opts, NULL), restart_declining);
}

static void test_stock_driver(const void *opts)
{
    check_reset(start_stock(opts, CANCEL_ONLY), vbc_restart_device);
}

/* Most of them have not got beyond waiting for the budget */
static void test_waiting(const void *opts)
{
    Vbc *v = start(opts, "'cancel-budget': 16384");
    VbcReq r[VBC_HANGING];

    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    vbc_restart_device(v);
    check_serves(v, r);
    vbc_watch_end(v);
    check_orders(v, r, 2);
    vbc_stop(v);
}

/*
 * A driver without the feature has its requests merged, up to what the budget
 * allows; these are given up together, and are no I/O errors.
 */
static void test_merged(const void *opts)
{
    Vbc *v = start_stock(opts, CANCEL_ONLY ", 'cancel-budget': 32768");
    VbcReq r[24];

    if (!v) {
        return;
    }
    vbc_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        r[i] = (VbcReq) {
            .type = i < 12 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
            .sector = 64 + i * 8, .len = 4096, .fill = 1,
        };
        vbc_add(v, &r[i]);
    }
    vbc_kick(v, 0);
    vbc_watch_begin(v);
    vbc_restart_device(v);
    vbc_watch_end(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_reuse(v, &r[i]);
    }
    vbc_release(v);
    vbc_settle(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_check_reused(v, &r[i]);
    }
    vbc_check_unspecified(v, 64, 12 * 4096, 1);
    vbc_check_read(v, 64 + 12 * 8, 12 * 4096, VBC_OLD);
    vbc_stop(v);
}

/* Twenty resets while the storage hangs, with other drivers each time */

#define BUDGET          (1024 * 1024)

typedef struct Usage {
    unsigned long memory;       /* KiB, without the guest's */
    unsigned long threads;
} Usage;

static unsigned long status_field(const char *text, const char *field)
{
    const char *at = strstr(text, field);

    g_assert_nonnull(at);
    return g_ascii_strtoull(at + strlen(field), NULL, 10);
}

static Usage get_usage(Vbc *v)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            qtest_pid(v->qts));
    g_autofree char *text = NULL;
    Usage usage;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    usage.memory = status_field(text, "\nRssAnon:");
    usage.threads = status_field(text, "\nThreads:");
    g_test_message("%lu KiB, %lu threads", usage.memory, usage.threads);
    return usage;
}

static void reset_many(Vbc *v, unsigned int resets, unsigned int queues)
{
    VbcReq r[VBC_HANGING];
    VbcReq id = { .type = VIRTIO_BLK_T_GET_ID, .len = 20 };

    for (unsigned int i = 0; i < resets; i++) {
        vbc_hang_some(v, r);

        /* The next driver uses fewer queues, or all of them again */
        v->opts.decline = i % 3 == 1;
        v->num_queues = i % 2 ? queues : 1;
        v->q = v->num_queues - 1;
        vbc_watch_begin(v);
        vbc_restart_device(v);
        id.queue = v->q;
        vbc_do(v, &id, VIRTIO_BLK_S_OK);
        vbc_watch_end(v);
    }
    vbc_release(v);
    vbc_settle(v);
}

static void test_many(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Usage before, after;
    unsigned int queues;
    Vbc *v;

    opts.args = "-object memory-backend-memfd,id=ram,size=128M"
                " -machine memory-backend=ram";
    v = start(&opts, "'cancel-budget': 1048576, 'queue-size': 128");
    if (!v) {
        return;
    }
    queues = v->num_queues;
    reset_many(v, 20, queues);
    before = get_usage(v);
    reset_many(v, 8, queues);
    after = get_usage(v);
    g_assert_cmpuint(after.threads, <=, before.threads);
    if (VBC_KNOWS_MEMORY) {
        g_assert_cmpuint(after.memory, <, before.memory + 1024);
    }

    /* The whole budget is there again */
    vbc_write(v, 0, BUDGET, 5);
    vbc_check_disk(v, 0, BUDGET, 5);
    vbc_check_read(v, 0, BUDGET, 5);

    /* So are the threads; nothing is left that the device would miss */
    qpci_unplug_acpi_device_test(v->qts, "vblk", VBC_SLOT);
    for (unsigned int i = 0; i < v->opts.iothreads; i++) {
        g_autofree char *id = g_strdup_printf("io%u", i);

        qtest_qmp_assert_success(v->qts, "{'execute': 'object-del',"
                                 " 'arguments': {'id': %s}}", id);
    }
    vbc_abandon(v);
}

/*
 * One virtqueue is reset, the others do not notice.  Again when nothing hangs,
 * with a drained section before it is enabled.
 */
/* What a virtqueue's reset has left is before what is sent on any of them */
static void test_queue_orders(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq lost = {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 64, .len = 4096,
        .fill = 1, .queue = 1,
    };
    VbcReq later[] = {
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 64, .len = 2048,
          .fill = 2 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 3, .sector = 68, .len = 2048,
          .fill = 3, .queue = 1 },
    };
    Vbc *v;

    opts.queues = MAX(opts.queues, 2);
    v = start(&opts, NULL);
    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send(v, &lost);
    vbc_sync(v, 1);
    vbc_watch_begin(v);
    vbc_reset_queue(v, 1);
    vbc_ring_setup(v, 1);
    for (unsigned int i = 0; i < ARRAY_SIZE(later); i++) {
        vbc_send(v, &later[i]);
        vbc_sync(v, i);
    }
    vbc_watch_end(v);
    vbc_reuse(v, &lost);
    for (unsigned int i = 0; i < ARRAY_SIZE(later); i++) {
        vbc_expect_pending(v, &later[i]);
    }
    vbc_release(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(later); i++) {
        vbc_expect(v, &later[i], VIRTIO_BLK_S_OK);
    }
    vbc_settle(v);
    vbc_check_reused(v, &lost);
    vbc_check_disk(v, 64, 2048, 2);
    vbc_check_disk(v, 68, 2048, 3);
    vbc_stop(v);
}

static void test_queue(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[VBC_HANGING], id = { .type = VIRTIO_BLK_T_GET_ID, .len = 20 };
    Vbc *v;

    opts.queues = MAX(opts.queues, 2);
    v = start(&opts, NULL);
    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    vbc_reset_queue(v, 0);
    vbc_ring_setup(v, 0);
    vbc_sync(v, 0);
    vbc_watch_end(v);
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        if (r[i].queue == 0) {
            vbc_reuse(v, &r[i]);
        } else if (!vbc_hang_canceled(v, i)) {
            vbc_expect_pending(v, &r[i]);
        }
    }
    vbc_release(v);
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        if (r[i].queue != 0 && !vbc_hang_canceled(v, i)) {
            vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
        }
    }
    vbc_settle(v);
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        if (r[i].queue == 0 || vbc_hang_canceled(v, i)) {
            vbc_check_reused(v, &r[i]);
        }
    }

    vbc_reset_queue(v, 0);
    qtest_qmp_assert_success(v->qts, "{'execute': 'block_resize',"
                             " 'arguments': {'device': 'drv', 'size': %d}}",
                             VBC_DISK_SIZE);
    id.queue = 1;
    vbc_do(v, &id, VIRTIO_BLK_S_OK);
    vbc_ring_setup(v, 0);
    v->q = 0;
    vbc_write(v, 64, 8192, 2);
    vbc_check_disk(v, 64, 8192, 2);
    vbc_stop(v);
}

/* A reset that has to wait, for what is larger than the budget */

/* The warning is given for 100 ms and more */
#define HOLD_US         (200 * 1000)

typedef struct Waiting {
    Vbc *v;
    char *log;                  /* what QEMU says and traces */
} Waiting;

static bool log_has(Waiting *w, const char *what)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(w->log, &text, NULL, NULL));
    return strstr(text, what);
}

static void *release_when_waiting(void *opaque)
{
    Waiting *w = opaque;
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    while (!log_has(w, "virtio_blk_cancel_drain ") &&
           g_get_monotonic_time() < end) {
        g_usleep(1000);
    }
    g_usleep(HOLD_US);
    vbc_release(w->v);
    return NULL;
}

static void check_left(const void *base, void (*reset)(Vbc *v))
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 8192 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 64, .len = 8192,
          .fill = 1 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 3, .sector = 128, .len = 4096,
          .fill = 1 },
    };
    g_autofree char *args = NULL;
    g_autofree char *log = NULL;
    int fd = g_file_open_tmp("qtest-cancel.XXXXXX", &log, NULL);
    Waiting w = { .log = log };
    GThread *releaser;

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    args = g_strdup_printf("-trace 'virtio_blk_cancel_drain*' 2>%s", log);
    opts.args = args;
    w.v = start(&opts, "'cancel-budget': 4096");
    if (w.v) {
        vbc_hold(w.v);
        for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
            vbc_send(w.v, &r[i]);
        }
        vbc_sync(w.v, 0);
        g_assert_false(log_has(&w, "virtio_blk_cancel_drain"));
        releaser = g_thread_new("releaser", release_when_waiting, &w);
        reset(w.v);
        g_thread_join(releaser);
        g_assert_true(log_has(&w, "waits for 2 requests"));
        g_assert_true(log_has(&w, "waited for 2 requests"));
        g_assert_true(log_has(&w, "warning: virtio-blk: the reset of "
                              "/machine/peripheral/vblk/virtio-backend "
                              "had to wait "));
        for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
            vbc_reuse(w.v, &r[i]);
        }
        vbc_settle(w.v);
        for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
            vbc_check_reused(w.v, &r[i]);
        }
        vbc_check_disk(w.v, 64, 8192, 1);
        w.v->q = 0;
        vbc_write(w.v, 64, 8192, 2);
        vbc_check_disk(w.v, 64, 8192, 2);
        vbc_stop(w.v);
    }
    unlink(log);
}

static void test_left(const void *opts)
{
    check_left(opts, vbc_restart_device);
}

static void reset_queue_0(Vbc *v)
{
    vbc_reset_queue(v, 0);
    vbc_ring_setup(v, 0);
}

static void test_left_queue(const void *opts)
{
    check_left(opts, reset_queue_0);
}

/*
 * Only for that, and not for what has been abandoned: a write hangs, and is
 * cancelled; a read is too large for the budget, and slow, but the storage is
 * not asked, because qcow2 knows that there is nothing.
 */

#define SECOND_CLUSTER  128     /* sectors */

static void kill_qemu(void *opaque)
{
    kill(qtest_pid(((Vbc *)opaque)->qts), SIGKILL);
}

/* Returns: whether the read had not ended when the device was reset */
static bool reset_left_alone(Vbc *v, void (*reset)(Vbc *v))
{
    VbcReq hung = {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .len = 4096, .fill = 2,
    };
    VbcReq large = {
        .type = VIRTIO_BLK_T_IN, .tag = 2, .sector = SECOND_CLUSTER,
        .len = 8192, .fill = VBC_POISON,
    };
    HangWatch *watch;
    bool pending;

    vbc_write(v, 0, 4096, 1);
    vbc_hold(v);
    vbc_send(v, &hung);
    vbc_sync(v, 0);
    vbc_cancel_req(v, &hung);
    vbc_send(v, &large);
    vbc_cancel(v, 0, 99, VIRTIO_BLK_S_OK);     /* it has been seen */
    pending = !large.order;

    watch = hang_watch_begin(VBC_PATIENCE_US, kill_qemu, v);
    reset(v);
    hang_watch_end(watch);
    vbc_reuse(v, &hung);
    vbc_reuse(v, &large);
    vbc_release(v);
    vbc_settle(v);
    vbc_check_reused(v, &hung);
    vbc_check_reused(v, &large);
    return pending;
}

static void check_left_alone(const void *base, void (*reset)(Vbc *v))
{
    VbcOptions opts = *(const VbcOptions *)base;
    g_autofree char *image = NULL;
    bool waited = false;
    Vbc *v;

    if (!have_qemu_img()) {
        g_test_skip("needs qemu-img");
        return;
    }
    close(g_file_open_tmp("qtest-cancel.XXXXXX", &image, NULL));
    vbc_create_qcow2(image, 2 * VBC_DISK_SIZE);
    opts.image = image;
    opts.format = "qcow2";
    opts.node = true;
    opts.slow = true;
    opts.queues = MAX(opts.queues, 2);
    opts.args = "2>/dev/null";      /* it warns that it has to wait */
    v = start(&opts, "'cancel-budget': 4096");
    for (unsigned int i = 0; v && !waited && i < 20; i++) {
        waited = reset_left_alone(v, reset);
    }
    if (v) {
        g_assert_true(waited);
        vbc_stop(v);
    }
    unlink(image);
}

static void test_left_alone(const void *opts)
{
    check_left_alone(opts, vbc_restart_device);
}

static void test_left_alone_queue(const void *opts)
{
    check_left_alone(opts, reset_queue_0);
}

/*
 * A request's header and data lie in device memory, here the I/O APIC's, for
 * which QEMU has one bounce buffer of 4 KiB: if the reset left it mapped, or
 * unmapped something else, there would not be another.
 */

#define IOAPIC          0xfec00000

static void add_in_ioapic(Vbc *v, VbcReq *r)
{
    unsigned int header = knows_cancel(v) ? VBC_HEADER : VBC_HEADER_STOCK;
    VbcSegment segs[] = {
        { .addr = IOAPIC, .len = header + 7 * VBC_SECTOR },
        { .addr = guest_alloc(&v->alloc, 1), .len = 1, .write = true },
    };

    /* Reads as type, and zeroes follow: a write to sector 0 */
    qtest_writel(v->qts, IOAPIC, VIRTIO_BLK_T_OUT);
    r->status_addr = segs[1].addr;
    r->order = 0;
    qtest_writeb(v->qts, r->status_addr, VBC_NO_STATUS);
    vbc_ring_add(v, r, segs, ARRAY_SIZE(segs));
}

static void test_unmapped(const void *opts)
{
    Vbc *v = start(opts, NULL);
    VbcReq r;

    if (!v) {
        return;
    }
    vbc_hold(v);
    for (unsigned int round = 0; round < 4; round++) {
        r = (VbcReq) { .queue = round % v->num_queues };
        add_in_ioapic(v, &r);
        vbc_kick(v, r.queue);
        vbc_sync(v, r.queue);
        vbc_expect_pending(v, &r);
        vbc_watch_begin(v);
        if (round % 2) {
            v->opts.decline = !v->opts.decline;
            vbc_restart_device(v);
        } else {
            vbc_reset_queue(v, r.queue);
            vbc_ring_setup(v, r.queue);
        }
        vbc_watch_end(v);
    }
    r = (VbcReq) { .queue = 0 };
    add_in_ioapic(v, &r);
    vbc_kick(v, 0);
    vbc_release(v);
    vbc_expect(v, &r, VIRTIO_BLK_S_OK);
    vbc_stop(v);
}

/*
 * In order: what completed behind a request that hangs is not used before it.
 * If the reset drops that one, nothing is ever heard of the others.
 */
static void test_in_order(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq read = {
        .type = VIRTIO_BLK_T_IN, .sector = 64, .len = 4096,
    };
    VbcReq id = { .type = VIRTIO_BLK_T_GET_ID, .len = 20 };
    VbcReq after = { .type = VIRTIO_BLK_T_GET_ID, .len = 20 };
    gint64 end;
    Vbc *v;

    opts.stock = true;
    opts.features = VBC_F(VIRTIO_F_IN_ORDER);
    opts.device = "'in_order': true, 'cancel': 'reset'";
    v = vbc_start(&opts);
    g_assert_true(v->dev->features & VBC_F(VIRTIO_F_IN_ORDER));

    vbc_break(v, "read_aio", "hang");
    vbc_send(v, &read);
    vbc_wait_break(v, "hang");
    vbc_send(v, &id);
    end = g_get_monotonic_time() + VBC_PATIENCE_US;
    while (qtest_readb(v->qts, id.status_addr) == VBC_NO_STATUS) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
    vbc_reap(v);
    g_assert_cmpuint(id.order, ==, 0);

    vbc_watch_begin(v);
    vbc_restart_device(v);
    vbc_watch_end(v);
    vbc_reuse(v, &read);
    for (unsigned int i = 0; i < 3; i++) {
        vbc_do(v, &after, VIRTIO_BLK_S_OK);
    }
    g_assert_cmpuint(id.order, ==, 0);
    vbc_resume(v, "hang");
    vbc_settle(v);
    vbc_check_reused(v, &read);
    vbc_check_read(v, 64, 4096, VBC_OLD);
    vbc_stop(v);
}

static rlim_t lowest_free_fd(pid_t pid)
{
    rlim_t fd = 0;
    bool used;

    do {
        g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", pid, (int)fd);

        used = g_file_test(path, G_FILE_TEST_IS_SYMLINK);
        fd += used;
    } while (used);
    return fd;
}

/*
 * A device that finds no file descriptors is served by the main loop, until it
 * is started once more.  What the main loop has is not left to the IOThread.
 */
static void test_start_failed(const void *opts)
{
    struct rlimit none, limit;
    Vbc *v = start(opts, NULL);
    VbcReq r[2] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 64, .len = 4096 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 128, .len = 4096,
          .fill = 1 },
    };
    pid_t pid;

    if (!v) {
        return;
    }
    pid = qtest_pid(v->qts);
    vbc_write(v, 0, 512, 1);
    g_assert_cmpint(prlimit(pid, RLIMIT_NOFILE, NULL, &limit), ==, 0);
    qvirtio_reset(v->dev);
    none = (struct rlimit) { lowest_free_fd(pid), limit.rlim_max };
    g_assert_cmpint(prlimit(pid, RLIMIT_NOFILE, &none, NULL), ==, 0);
    vbc_restart_device(v);
    g_assert_cmpint(prlimit(pid, RLIMIT_NOFILE, &limit, NULL), ==, 0);

    vbc_hold(v);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    vbc_release_soon(v);
    v->dev->bus->set_status(v->dev, vbc_device_status(v));
    vbc_reap(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        g_assert_cmpuint(r[i].order, !=, 0);
        g_assert_cmpint(r[i].status, ==, VIRTIO_BLK_S_OK);
    }
    g_thread_join(g_steal_pointer(&v->releaser));

    /* It is stopped and reset like any other */
    vbc_settle(v);
    vbc_check_read(v, 128, 4096, 1);
    vbc_hold(v);
    vbc_send(v, &r[0]);
    vbc_sync(v, v->q);
    vbc_watch_begin(v);
    vbc_restart_device(v);
    vbc_watch_end(v);
    vbc_release(v);
    vbc_check_read(v, 128, 4096, 1);
    vbc_stop(v);
}

/*
 * The driver stops the device without resetting it, and starts it again: what
 * has hung meanwhile is not lost, and nothing waits.  Without cancel= the
 * device waits, and then everything has ended; or, without bus mastering, is
 * lost.
 */

static void clear_driver_ok(Vbc *v)
{
    v->dev->bus->set_status(v->dev, vbc_device_status(v) &
                                    ~VIRTIO_CONFIG_S_DRIVER_OK);
}

static void clear_master(Vbc *v)
{
    qpci_config_writew(v->pci->pdev, PCI_COMMAND, PCI_COMMAND_MEMORY);
    qpci_config_writew(v->pci->pdev, PCI_COMMAND,
                       PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void check_stopped(const void *base, void (*stop)(Vbc *v), bool reset)
{
    Vbc *v = start(base, NULL);
    VbcReq r[VBC_HANGING];

    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    stop(v);
    vbc_reap(v);
    if (reset) {
        vbc_restart_device(v);
        check_serves(v, r);
        vbc_watch_end(v);
        check_orders(v, r, 2);
        vbc_stop(v);
        return;
    }
    v->dev->bus->set_status(v->dev, vbc_device_status(v) |
                                    VIRTIO_CONFIG_S_DRIVER_OK);
    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_sync(v, i);
    }
    vbc_watch_end(v);
    vbc_release(v);
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        if (!vbc_hang_canceled(v, i)) {
            vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
        }
    }
    vbc_write(v, 64, 8192, 3);
    vbc_check_disk(v, 64, 8192, 3);
    vbc_stop(v);
}

static void test_driver_ok(const void *opts)
{
    check_stopped(opts, clear_driver_ok, false);
}

static void test_driver_ok_reset(const void *opts)
{
    check_stopped(opts, clear_driver_ok, true);
}

static void test_master(const void *opts)
{
    check_stopped(opts, clear_master, false);
}

static void test_master_reset(const void *opts)
{
    check_stopped(opts, clear_master, true);
}

static void check_stopped_off(const void *base, void (*stop)(Vbc *v), bool lost)
{
    Vbc *v = start_stock(base, NULL);
    VbcReq r = {
        .type = VIRTIO_BLK_T_OUT, .sector = 64, .len = 512, .fill = 1,
    };

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send(v, &r);
    vbc_sync(v, 0);
    vbc_release_soon(v);
    stop(v);
    vbc_reap(v);
    g_assert_cmpint(!r.order, ==, lost);
    vbc_check_disk(v, 64, 512, 1);
    vbc_restart_device(v);
    vbc_stop(v);
}

static void test_stopped_off(const void *opts)
{
    check_stopped_off(opts, clear_driver_ok, false);
    check_stopped_off(opts, clear_master, true);
}

/* The property */

static void test_property(void)
{
    VbcOptions opts = { .stock = true, .no_start = true };
    Vbc *v = vbc_start(&opts);
    QDict *ret;

    qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-add',"
                             " 'arguments': {'driver': 'null-co',"
                             " 'node-name': 'null', 'read-zeroes': true}}");
    ret = qtest_qmp(v->qts, "{'execute': 'device_add', 'arguments': {"
                    " 'driver': 'virtio-blk-pci', 'drive': 'null',"
                    " 'cancel': 'auto'}}");
    qmp_expect_error_and_unref(ret, "GenericError");
    qtest_qmp_assert_success(v->qts, "{'execute': 'device_add', 'arguments': {"
                             " 'driver': 'virtio-blk-pci', 'drive': 'null',"
                             " 'cancel': 'reset'}}");
    vbc_abandon(v);
}

void vbc_add_reset_tests(void)
{
    unsigned int rings = VBC_SETUP_PLAIN | VBC_SETUP_RINGS;
    unsigned int loops = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    qtest_add_func("/virtio-blk-cancel/reset/property", test_property);
    vbc_add_test("reset/status", VBC_SETUP_ALL, test_status);
    vbc_add_test("reset/declined", loops, test_declined);
    vbc_add_test("reset/declined-later", loops, test_declined_later);
    vbc_add_test("reset/stock-driver", VBC_SETUP_ALL, test_stock_driver);
    vbc_add_test("reset/function", loops, test_function);
    vbc_add_test("reset/secondary-bus", loops, test_secondary_bus);
    vbc_add_test("reset/system", loops, test_system);
    vbc_add_test("reset/no-ioeventfd", VBC_SETUP_PLAIN, test_no_ioeventfd);
    vbc_add_test("reset/waiting", loops, test_waiting);
    vbc_add_test("reset/merged", VBC_SETUP_ALL, test_merged);
    vbc_add_test("reset/many", loops, test_many);
    vbc_add_test("reset/driver-ok", VBC_SETUP_ALL, test_driver_ok);
    vbc_add_test("reset/driver-ok-reset", loops, test_driver_ok_reset);
    vbc_add_test("reset/master", loops, test_master);
    vbc_add_test("reset/master-reset", loops, test_master_reset);
    vbc_add_test("reset/stopped-off", loops, test_stopped_off);
    vbc_add_test("reset/queue", VBC_SETUP_ALL, test_queue);
    vbc_add_test("reset/queue-orders", VBC_SETUP_ALL, test_queue_orders);
    vbc_add_test("reset/left", loops, test_left);
    vbc_add_test("reset/left-queue", loops, test_left_queue);
    vbc_add_test("reset/left-alone", loops, test_left_alone);
    vbc_add_test("reset/left-alone-queue", loops, test_left_alone_queue);
    vbc_add_test("reset/unmapped", VBC_SETUP_ALL, test_unmapped);
    vbc_add_test("reset/in-order", rings, test_in_order);
    vbc_add_test("reset/start-failed", loops, test_start_failed);
}
