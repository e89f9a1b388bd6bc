/*
 * Tests of virtio-blk's CANCEL request: stopped, unplugged, migrated
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What becomes of cancelled requests, and of those that can still be cancelled,
 * when something happens to the device or to the machine.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "gate-patience.h"
#include "virtio-blk-cancel-lib.h"

static Vbc *start(const void *base, bool server, const char *device,
                  const char *drive)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.server = server;
    opts.device = device;
    opts.drive = drive;
    return vbc_start(&opts);
}

/* Parked after an I/O error, by rerror=stop and werror=stop */

#define STOP "'rerror': 'stop', 'werror': 'stop'"

static void cont(Vbc *v)
{
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
}

static bool is_running(Vbc *v)
{
    QDict *ret = qtest_qmp_assert_success_ref(v->qts,
                                              "{'execute': 'query-status'}");
    bool running = qdict_get_bool(ret, "running");

    qobject_unref(ret);
    return running;
}

/* Joined, because parsing shortens descriptors that hold header and data */
static const struct {
    const char *event;
    VbcReq req;
    int result;                 /* content of the disk after it */
} parks[] = {
    { "read_aio", { .type = VIRTIO_BLK_T_IN, .tag = 71, .sector = 8,
                    .len = 4096, .fill = VBC_POISON,
                    .framing = VBC_FRAME_JOINED }, VBC_OLD },
    { "write_aio", { .type = VIRTIO_BLK_T_OUT, .tag = 72, .sector = 24,
                     .len = 4096, .fill = 1, .split = 17,
                     .framing = VBC_FRAME_JOINED }, 1 },
    { "pwritev_zero", { .type = VIRTIO_BLK_T_WRITE_ZEROES, .tag = 73,
                        .sector = 40, .len = 4096 }, VBC_ZEROES },
};

/* Each of parks[] fails, each time or only once */
static Vbc *start_parking(const void *base, bool once)
{
    g_autoptr(GString) drive = g_string_new("");

    for (unsigned int i = 0; i < ARRAY_SIZE(parks); i++) {
        g_string_append_printf(drive, ",file.inject-error.%u.event=%s,"
                               "file.inject-error.%u.errno=5,"
                               "file.inject-error.%u.sector=%" PRIu64 ","
                               "file.inject-error.%u.once=%s",
                               i, parks[i].event, i, i, parks[i].req.sector,
                               i, once ? "on" : "off");
    }
    return start(base, false, STOP, drive->str);
}

static void test_parked_resumed(const void *opts)
{
    Vbc *v = start_parking(opts, true);

    for (unsigned int i = 0; i < ARRAY_SIZE(parks); i++) {
        VbcReq r = parks[i].req;

        r.queue = v->q;
        vbc_send(v, &r);
        qtest_qmp_eventwait(v->qts, "STOP");
        vbc_expect_pending(v, &r);
        vbc_check_disk(v, r.sector, r.len, VBC_OLD);
        cont(v);
        vbc_expect(v, &r, VIRTIO_BLK_S_OK);
        vbc_check_disk(v, r.sector, r.len, parks[i].result);
        if (r.type == VIRTIO_BLK_T_IN) {
            vbc_check_data(v, &r, VBC_OLD);
        }
        vbc_cancel(v, v->q, r.tag, VIRTIO_BLK_S_OK);
    }
    vbc_stop(v);
}

static void wait_running(Vbc *v, bool running)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    while (is_running(v) != running) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
}

/* Go on until @r is used, however often the machine stops. */
static void cont_until_used(Vbc *v, VbcReq *r)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    for (vbc_reap(v); !r->order; vbc_reap(v)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        if (!is_running(v)) {
            cont(v);
        }
    }
}

/* Leave no stop behind that an error has asked for. */
static void quiesce(Vbc *v)
{
    gate_patient_qmp(v->qts, "{\"execute\": \"stop\"}", NULL);
    cont(v);
    wait_running(v, true);
}

/* It never succeeds, so only cancelling ends it */
static void test_parked_cancelled(const void *opts)
{
    Vbc *v = start_parking(opts, false);

    for (unsigned int i = 0; i < ARRAY_SIZE(parks); i++) {
        VbcReq r = parks[i].req;
        VbcReq cancel = {
            .type = VBC_T_CANCEL, .tag = r.tag, .queue = v->q,
        };

        r.queue = v->q;
        vbc_send(v, &r);
        qtest_qmp_eventwait(v->qts, "STOP");
        vbc_expect_pending(v, &r);
        vbc_add(v, &cancel);
        vbc_publish(v, v->q);
        cont_until_used(v, &cancel);
        g_assert_cmpint(cancel.status, ==, VIRTIO_BLK_S_OK);
        g_assert_cmpint(r.status, ==, VBC_S_CANCELED);
        g_assert_cmpuint(r.order, <, cancel.order);
        vbc_reuse(v, &r);
        vbc_cancel(v, v->q, r.tag, VIRTIO_BLK_S_OK);
        vbc_check_disk(v, r.sector, r.len, VBC_OLD);
        vbc_check_reused(v, &r);
        quiesce(v);
    }
    vbc_stop(v);
}

/*
 * The error, the stop and the CANCEL meet in whatever order they like; or the
 * CANCELs of several parked requests are there when the machine goes on.
 */
static void park_and_cancel(Vbc *v, unsigned int round)
{
    VbcReq r[4], cancel[4];
    unsigned int queue = round % v->num_queues;

    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        r[i] = (VbcReq) {
            .type = VIRTIO_BLK_T_OUT, .tag = 4 * round + i, .sector = 24 - i,
            .len = 2048, .fill = 1, .queue = queue,
            .split = round % VBC_HEADER,
            .framing = i % 2 ? VBC_FRAME_JOINED : VBC_FRAME_PLAIN,
        };
        cancel[i] = (VbcReq) {
            .type = VBC_T_CANCEL, .tag = r[i].tag, .queue = queue,
        };
        vbc_add(v, &r[i]);
    }
    vbc_kick(v, queue);
    if (round % 4 < 2) {
        wait_running(v, false);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_add(v, &cancel[i]);
    }
    if (round % 4 < 2) {
        vbc_publish(v, queue);
    } else {
        vbc_kick(v, queue);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        cont_until_used(v, &cancel[i]);
        g_assert_cmpint(cancel[i].status, ==, VIRTIO_BLK_S_OK);
        g_assert_cmpint(r[i].status, ==, VBC_S_CANCELED);
        g_assert_cmpuint(r[i].order, <, cancel[i].order);
    }
    quiesce(v);
}

static void test_parked_race(const void *opts)
{
    Vbc *v = start_parking(opts, false);

    for (unsigned int round = 0; round < 30; round++) {
        park_and_cancel(v, round);
    }
    vbc_check_disk(v, 21, 7 * 512, VBC_OLD);
    vbc_check_read(v, 64, 512, VBC_OLD);
    vbc_stop(v);
}

/* Two virtqueues have something parked; one of them is reset */
static void test_parked_queue_reset(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq keep = parks[0].req, drop = parks[1].req;
    Vbc *v;

    opts.queues = MAX(opts.queues, 2);
    v = start_parking(&opts, true);
    keep.queue = 1;
    vbc_send(v, &keep);
    vbc_send(v, &drop);
    qtest_qmp_eventwait(v->qts, "STOP");
    wait_running(v, false);
    vbc_reset_queue(v, 0);
    vbc_reuse(v, &drop);
    vbc_ring_setup(v, 0);
    cont_until_used(v, &keep);
    g_assert_cmpint(keep.status, ==, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &keep, VBC_OLD);
    quiesce(v);
    vbc_check_reused(v, &drop);
    vbc_check_disk(v, drop.sector, drop.len, VBC_OLD);
    v->q = 0;
    vbc_write(v, drop.sector, drop.len, 3);
    vbc_check_read(v, drop.sector, drop.len, 3);
    vbc_stop(v);
}

static void test_parked_reset(const void *opts)
{
    Vbc *v = start_parking(opts, true);
    VbcReq r = parks[1].req;

    r.queue = v->q;
    vbc_send(v, &r);
    qtest_qmp_eventwait(v->qts, "STOP");
    qvirtio_reset(v->dev);
    vbc_reuse(v, &r);
    cont(v);
    vbc_restart_device(v);
    vbc_settle(v);
    vbc_check_reused(v, &r);
    vbc_check_disk(v, r.sector, 4096, VBC_OLD);
    vbc_cancel(v, 0, r.tag, VIRTIO_BLK_S_OK);
    vbc_write(v, r.sector, 4096, 3);
    vbc_check_read(v, r.sector, 4096, 3);
    vbc_stop(v);
}

/*
 * Drain and unplug while the storage hangs.  They wait for it, so it is let go
 * meanwhile.
 */

static void stop_machine(Vbc *v)
{
    vbc_settle(v);
}

/* A drained section while the machine runs: the size is what it was */
static void drain_drive(Vbc *v)
{
    g_autofree char *resize =
        g_strdup_printf("{\"execute\": \"block_resize\", \"arguments\":"
                        " {\"device\": \"drv\", \"size\": %d}}",
                        VBC_DISK_SIZE);

    gate_patient_qmp(v->qts, resize, NULL);
}

static void check_drained(const void *opts, void (*drain)(Vbc *v))
{
    Vbc *v = start(opts, true, NULL, NULL);
    VbcReq r[VBC_HANGING];

    if (!v) {
        return;
    }
    for (unsigned int round = 0; round < 2; round++) {
        vbc_hang_some(v, r);
        vbc_release_soon(v);
        drain(v);
        for (unsigned int i = 0; i < VBC_HANGING; i++) {
            if (vbc_hang_canceled(v, i)) {
                vbc_check_reused(v, &r[i]);
            } else {
                vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
            }
        }
        g_thread_join(g_steal_pointer(&v->releaser));
        vbc_write(v, 64, 16384, 2 + round);
        vbc_check_disk(v, 64, 16384, 2 + round);
    }
    vbc_stop(v);
}

static void test_stop(const void *opts)
{
    check_drained(opts, stop_machine);
}

static void test_drain(const void *opts)
{
    check_drained(opts, drain_drive);
}

static void test_unplug(const void *opts)
{
    Vbc *v = start(opts, true, NULL, NULL);
    VbcReq r[VBC_HANGING];

    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_release_soon(v);
    qpci_unplug_acpi_device_test(v->qts, "vblk", VBC_SLOT);
    for (unsigned int i = 2; i < VBC_HANGING; i += 3) {
        vbc_check_reused(v, &r[i]);
    }
    vbc_abandon(v);
}

/* Migration of a parked request */

static void wait_migration(QTestState *qts, const char *command,
                           const char *wanted)
{
    gint64 end = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;
    bool done = false;

    while (!done) {
        QDict *ret = qtest_qmp_assert_success_ref(qts, "{'execute': %s}",
                                                  command);
        const char *status = qdict_get_try_str(ret, "status");

        g_assert_cmpstr(status, !=, "failed");
        done = !g_strcmp0(status, wanted);
        qobject_unref(ret);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

/* @from's machine goes on in the result; @from is left to vbc_abandon(). */
static Vbc *migrate_machine(Vbc *from)
{
    g_autofree char *file = g_strdup_printf("%s.mig", from->image);
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    VbcOptions opts = from->opts;
    QPCIAddress addr = { .devfn = QPCI_DEVFN(VBC_SLOT, 0) };
    Vbc *to;

    qtest_qmp_assert_success(from->qts, "{'execute': 'migrate',"
                             " 'arguments': {'uri': %s}}", uri);
    wait_migration(from->qts, "query-migrate", "completed");

    opts.image = from->image;
    opts.drive = NULL;
    opts.no_start = true;
    opts.args = "-incoming defer";
    to = vbc_start(&opts);
    qtest_qmp_assert_success(to->qts, "{'execute': 'migrate-incoming',"
                             " 'arguments': {'uri': %s}}", uri);
    wait_migration(to->qts, "query-migrate", "completed");
    unlink(file);

    to->pci = virtio_pci_new(to->bus, &addr);
    to->dev = &to->pci->vdev;
    qvirtio_pci_device_enable(to->pci);
    to->dev->features = from->dev->features;
    to->dev->features_negotiated = true;
    memcpy(to->queue, from->queue, sizeof(to->queue));
    memset(from->queue, 0, sizeof(from->queue));
    to->used = from->used;
    migrate_allocator(&from->alloc, &to->alloc);
    return to;
}

static void check_migrated(const void *opts, bool cancelled)
{
    VbcReq r = parks[1].req;
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = r.tag };
    Vbc *from, *to;

    if (((const VbcOptions *)opts)->ring & VBC_PACKED) {
        /* ndescs: before the rest of the element, and after it */
        g_test_skip("QEMU's virtio.c loads parked elements of packed rings"
                    " in another order than it saves them");
        return;
    }
    from = start_parking(opts, true);
    vbc_send(from, &r);
    qtest_qmp_eventwait(from->qts, "STOP");
    vbc_expect_pending(from, &r);
    if (cancelled) {
        vbc_add(from, &cancel);
        vbc_publish(from, 0);
    }
    to = migrate_machine(from);
    cont(to);
    vbc_wait(to, &r);
    if (cancelled) {
        vbc_expect(to, &cancel, VIRTIO_BLK_S_OK);
        g_assert_cmpuint(r.order, <, cancel.order);
    }
    vbc_settle(to);
    if (cancelled && r.status == VBC_S_CANCELED) {
        vbc_check_unspecified(to, r.sector, 4096, 1);
    } else {
        g_assert_cmpint(r.status, ==, VIRTIO_BLK_S_OK);
        vbc_check_disk(to, r.sector, 4096, 1);
    }
    vbc_cancel(to, 0, r.tag, VIRTIO_BLK_S_OK);
    vbc_write(to, r.sector, 4096, 2);
    vbc_check_read(to, r.sector, 4096, 2);
    vbc_stop(to);
    vbc_abandon(from);
}

static void test_migrated_resumed(const void *opts)
{
    check_migrated(opts, false);
}

static void test_migrated_cancelled(const void *opts)
{
    check_migrated(opts, true);
}

void vbc_add_stop_tests(void)
{
    unsigned int rings = VBC_SETUP_PLAIN | VBC_SETUP_RINGS;
    unsigned int loops = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    vbc_add_test("parked/resumed", VBC_SETUP_ALL, test_parked_resumed);
    vbc_add_test("parked/cancelled", VBC_SETUP_ALL, test_parked_cancelled);
    vbc_add_test("parked/race", loops, test_parked_race);
    vbc_add_test("parked/reset", loops, test_parked_reset);
    vbc_add_test("parked/queue-reset", loops, test_parked_queue_reset);
    vbc_add_test("stop/abandoned", VBC_SETUP_ALL, test_stop);
    vbc_add_test("drain/abandoned", loops, test_drain);
    vbc_add_test("unplug/abandoned", loops, test_unplug);
    vbc_add_test("migrated/resumed", rings, test_migrated_resumed);
    vbc_add_test("migrated/cancelled", VBC_SETUP_PLAIN,
                 test_migrated_cancelled);
}
