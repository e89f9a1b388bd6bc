/*
 * Tests of live migration while requests hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Source and destination have the same image, behind one server.  While it
 * hangs there is nothing to switch over to: the source must go on running, and
 * say so.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "blk-leave-test.h"

#define URI "unix:%s.migrate"

/* Two machines; the one that has no device running is only a shell */
typedef struct Pair {
    Vbc *from;
    Vbc *to;
    char *uri;
} Pair;

static QDict *query_migrate(QTestState *qts)
{
    return qtest_qmp_assert_success_ref(qts, "{'execute': 'query-migrate'}");
}

static bool is_status(QTestState *qts, const char *wanted)
{
    QDict *ret = query_migrate(qts);
    bool is = !g_strcmp0(qdict_get_try_str(ret, "status"), wanted);

    qobject_unref(ret);
    return is;
}

static void wait_status(QTestState *qts, const char *wanted)
{
    gint64 end = g_get_monotonic_time() + 2 * VBC_PATIENCE_US;

    while (!is_status(qts, wanted)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static bool is_running(QTestState *qts)
{
    QDict *ret = qtest_qmp_assert_success_ref(qts,
                                              "{'execute': 'query-status'}");
    bool running = qdict_get_bool(ret, "running");

    qobject_unref(ret);
    return running;
}

/* Wait until the switchover is postponed, and the source names the disk. */
static void wait_postponed(QTestState *qts)
{
    gint64 end = g_get_monotonic_time() + 2 * VBC_PATIENCE_US;
    bool postponed = false;

    while (!postponed) {
        QDict *ret = query_migrate(qts);
        const char *why = qdict_get_try_str(ret, "switchover-postponed");

        g_assert_cmpstr(qdict_get_str(ret, "status"), !=, "failed");
        postponed = why && strstr(why, "'vblk'");
        qobject_unref(ret);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void start_source(Pair *p, const void *base)
{
    p->from = leave_start(base);
    if (p->from) {
        p->uri = g_strdup_printf(URI, p->from->image);
    }
}

/* @stock: the destination's device has no cancel=on */
static void start_destination(Pair *p, bool stock)
{
    VbcOptions opts = p->from->opts;
    g_autofree char *drive = g_strdup_printf(
        "driver=raw,file.driver=nbd,file.server.type=unix,"
        "file.server.path=%s,file.export=disk", p->from->socket);

    opts.image = p->from->image;
    opts.server = false;
    opts.drive_all = drive;
    opts.no_start = true;
    opts.stock = stock;
    opts.args = "-incoming defer";
    p->to = vbc_start(&opts);
    qtest_qmp_assert_success(p->to->qts, "{'execute': 'migrate-incoming',"
                             " 'arguments': {'uri': %s,"
                             " 'exit-on-error': false}}", p->uri);
}

static void migrate(Pair *p)
{
    qtest_qmp_assert_success(p->from->qts, "{'execute': 'migrate',"
                             " 'arguments': {'uri': %s}}", p->uri);
}

static bool start(Pair *p, const void *base)
{
    *p = (Pair) {};
    start_source(p, base);
    if (!p->from) {
        return false;
    }
    start_destination(p, false);
    return true;
}

/* The device, and what its driver knows, goes on in the destination. */
static void move_driver(Pair *p)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(VBC_SLOT, 0) };
    Vbc *from = p->from, *to = p->to;

    to->pci = virtio_pci_new(to->bus, &addr);
    to->dev = &to->pci->vdev;
    qvirtio_pci_device_enable(to->pci);
    to->dev->features = from->dev->features;
    to->dev->features_negotiated = true;
    memcpy(to->queue, from->queue, sizeof(to->queue));
    memset(from->queue, 0, sizeof(from->queue));
    to->used = from->used;
    migrate_allocator(&from->alloc, &to->alloc);
}

static void stop(Pair *p)
{
    vbc_abandon(p->to);
    vbc_abandon(p->from);
    g_free(p->uri);
}

/* CANCELs that nobody has been told of; they are for the next who looks */
static void publish_cancels(Vbc *v, VbcReq *cancel, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        cancel[i] = (VbcReq) {
            .type = VBC_T_CANCEL, .tag = i, .queue = i % v->num_queues,
        };
        vbc_add(v, &cancel[i]);
    }
    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_publish(v, i);
    }
}

/* Requests @r hang, and a migration waits for them; it is watched */
static bool start_waiting(Pair *p, const void *base, VbcReq *r)
{
    if (!start(p, base)) {
        return false;
    }
    vbc_hang_some(p->from, r);
    vbc_watch_begin(p->from);
    migrate(p);
    wait_postponed(p->from->qts);
    return true;
}

/*
 * Requests hang and are abandoned, and more are cancelled, while the migration
 * waits; it completes by itself.
 */
static void test_switchover(const void *base)
{
    VbcReq r[VBC_HANGING], cancel[4];
    Pair p;

    if (!start_waiting(&p, base, r)) {
        return;
    }
    g_assert_true(is_running(p.from->qts));
    vbc_cancel_req(p.from, &r[0]);
    vbc_reuse(p.from, &r[0]);
    g_assert_true(is_status(p.from->qts, "active"));
    vbc_watch_end(p.from);
    publish_cancels(p.from, cancel, ARRAY_SIZE(cancel));

    vbc_release(p.from);
    wait_status(p.from->qts, "completed");
    wait_status(p.to->qts, "completed");
    move_driver(&p);

    /* Each in exactly one place; used elements are checked as they come */
    for (unsigned int i = 0; i < p.to->num_queues; i++) {
        vbc_kick(p.to, i);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(cancel); i++) {
        vbc_expect(p.to, &cancel[i], VIRTIO_BLK_S_OK);
    }
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        if (i == 0 || vbc_hang_canceled(p.to, i)) {
            vbc_check_reused(p.to, &r[i]);
        } else {
            vbc_wait(p.to, &r[i]);
            g_assert_true(r[i].status == VIRTIO_BLK_S_OK ||
                          (r[i].status == VBC_S_CANCELED &&
                           i < ARRAY_SIZE(cancel)));
        }
    }

    /* Nothing of the source lands any more */
    vbc_write(p.to, 0, 256 * 512, 4);
    qtest_qmp_assert_success(p.from->qts, "{'execute': 'query-status'}");
    vbc_check_read(p.to, 0, 256 * 512, 4);
    vbc_check_disk(p.to, 0, 256 * 512, 4);
    stop(&p);
}

/* A migration that waits for the storage is cancelled at once */
static void test_cancel(const void *base)
{
    VbcReq r[VBC_HANGING];
    Pair p;

    if (!start_waiting(&p, base, r)) {
        return;
    }
    qtest_qmp_assert_success(p.from->qts, "{'execute': 'migrate_cancel'}");
    wait_status(p.from->qts, "cancelled");
    g_assert_true(is_running(p.from->qts));
    vbc_watch_end(p.from);

    vbc_release(p.from);
    leave_check_all(p.from, r);
    vbc_write(p.from, 64, 4096, 3);
    vbc_check_read(p.from, 64, 4096, 3);
    stop(&p);
}

/*
 * QEMU is to end while a migration waits: that is cancelled, as ever, and does
 * not go on when the storage is back
 */
static void test_quit(const void *base)
{
    VbcReq r[VBC_HANGING];
    Pair p;

    if (!start_waiting(&p, base, r)) {
        return;
    }
    qtest_qmp_assert_success(p.from->qts, "{'execute': 'quit'}");
    wait_status(p.from->qts, "cancelled");
    vbc_watch_end(p.from);

    vbc_release(p.from);
    qtest_wait_qemu(p.from->qts);
    g_assert_false(is_running(p.to->qts));
    stop(&p);
}

/* Nothing hangs, and the machine is stopped */
static void test_stopped(const void *base)
{
    Pair p;

    if (!start(&p, base)) {
        return;
    }
    vbc_write(p.from, 64, 4096, 1);
    qtest_qmp_assert_success(p.from->qts, "{'execute': 'stop'}");
    migrate(&p);
    wait_status(p.from->qts, "completed");
    wait_status(p.to->qts, "completed");
    move_driver(&p);
    qtest_qmp_assert_success(p.to->qts, "{'execute': 'cont'}");
    vbc_check_read(p.to, 64, 4096, 1);
    vbc_write(p.to, 64, 4096, 2);
    vbc_check_disk(p.to, 64, 4096, 2);
    stop(&p);
}

/* The destination cannot cancel: the source goes on, and loses nothing */
static void test_refused(const void *base)
{
    VbcReq r[VBC_HANGING];
    Pair p = {};

    start_source(&p, base);
    if (!p.from) {
        return;
    }
    start_destination(&p, true);
    vbc_hang_some(p.from, r);
    migrate(&p);
    wait_postponed(p.from->qts);
    vbc_release(p.from);
    wait_status(p.to->qts, "failed");
    gint64 end = g_get_monotonic_time() + 2 * VBC_PATIENCE_US;
    while (is_status(p.from->qts, "active") ||
           is_status(p.from->qts, "device")) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
    if (is_status(p.from->qts, "completed")) {
        /* Without a return path the source does not hear of it */
        qtest_qmp_assert_success(p.from->qts, "{'execute': 'cont'}");
    }
    leave_check_all(p.from, r);
    vbc_write(p.from, 64, 4096, 3);
    vbc_check_read(p.from, 64, 4096, 3);
    stop(&p);
}

static bool set_capability(QTestState *qts, const char *name)
{
    QDict *ret = qtest_qmp(qts, "{'execute': 'migrate-set-capabilities',"
                           " 'arguments': {'capabilities': ["
                           " {'capability': %s, 'state': true}]}}", name);
    bool ok = !qdict_haskey(ret, "error");

    if (!ok) {
        g_test_skip(qdict_get_str(qdict_get_qdict(ret, "error"), "desc"));
    }
    qobject_unref(ret);
    return ok;
}

/* The state of a background snapshot is of a moment when nothing hung */
static void test_background(const void *base)
{
    VbcReq r[VBC_HANGING];
    g_autofree char *uri = NULL;
    Vbc *v = leave_start(base);

    if (!v) {
        return;
    }
    if (set_capability(v->qts, "background-snapshot")) {
        uri = g_strdup_printf("file:%s.snapshot", v->image);
        vbc_hang_some(v, r);
        vbc_watch_begin(v);
        qtest_qmp_assert_success(v->qts, "{'execute': 'migrate',"
                                 " 'arguments': {'uri': %s}}", uri);
        wait_postponed(v->qts);
        g_assert_true(is_running(v->qts));
        vbc_watch_end(v);
        vbc_release(v);
        wait_status(v->qts, "completed");
        unlink(strchr(uri, ':') + 1);
        leave_check_all(v, r);
        vbc_write(v, 64, 4096, 3);
        vbc_check_read(v, 64, 4096, 3);
    }
    vbc_abandon(v);
}

/*
 * To migrate to another QEMU on this host, whose image is the same file, needs
 * the VM to stop at once: refused while the storage hangs
 */
static void test_cpr(const void *base)
{
    VbcReq r[VBC_HANGING];
    g_autofree char *uri = NULL;
    Vbc *v = leave_start(base);
    QDict *info;

    if (!v) {
        return;
    }
    uri = g_strdup_printf("file:%s.cpr", v->image);
    qtest_qmp_assert_success(v->qts, "{'execute': 'migrate-set-parameters',"
                             " 'arguments': {'mode': 'cpr-reboot'}}");
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    qtest_qmp_assert_success(v->qts, "{'execute': 'migrate',"
                             " 'arguments': {'uri': %s}}", uri);
    wait_status(v->qts, "failed");
    info = query_migrate(v->qts);
    g_assert_nonnull(strstr(qdict_get_str(info, "error-desc"), "'vblk'"));
    qobject_unref(info);
    g_assert_true(is_running(v->qts));
    vbc_watch_end(v);

    vbc_release(v);
    leave_check_all(v, r);
    vbc_settle(v);
    qtest_qmp_assert_success(v->qts, "{'execute': 'migrate',"
                             " 'arguments': {'uri': %s}}", uri);
    wait_status(v->qts, "completed");
    unlink(strchr(uri, ':') + 1);
    vbc_abandon(v);
}

static void test_postcopy(const void *base)
{
    VbcReq r[VBC_HANGING];
    Pair p = {};

    start_source(&p, base);
    if (!p.from) {
        return;
    }
    if (!set_capability(p.from->qts, "postcopy-ram")) {
        vbc_abandon(p.from);
        g_free(p.uri);
        return;
    }
    start_destination(&p, false);
    g_assert_true(set_capability(p.to->qts, "postcopy-ram"));
    vbc_hang_some(p.from, r);
    vbc_watch_begin(p.from);
    migrate(&p);
    wait_status(p.from->qts, "active");
    qtest_qmp_assert_success(p.from->qts,
                             "{'execute': 'migrate-start-postcopy'}");
    wait_postponed(p.from->qts);
    g_assert_true(is_running(p.from->qts));
    vbc_watch_end(p.from);
    vbc_release(p.from);
    wait_status(p.from->qts, "completed");
    wait_status(p.to->qts, "completed");
    move_driver(&p);
    leave_check_all(p.to, r);
    vbc_write(p.to, 64, 4096, 3);
    vbc_check_disk(p.to, 64, 4096, 3);
    stop(&p);
}

void leave_add_migrate_tests(void)
{
    unsigned int loops = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    vbc_add_test("leave/migrate", VBC_SETUP_ALL, test_switchover);
    vbc_add_test("leave/migrate-cancelled", loops, test_cancel);
    vbc_add_test("leave/migrate-quit", loops, test_quit);
    vbc_add_test("leave/migrate-stopped", VBC_SETUP_PLAIN, test_stopped);
    vbc_add_test("leave/migrate-refused", VBC_SETUP_PLAIN, test_refused);
    vbc_add_test("leave/migrate-postcopy", VBC_SETUP_PLAIN, test_postcopy);
    vbc_add_test("leave/migrate-cpr", VBC_SETUP_PLAIN, test_cpr);
    vbc_add_test("leave/migrate-background", VBC_SETUP_PLAIN, test_background);
}
