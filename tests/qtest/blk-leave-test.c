/*
 * Tests of disks and images that are left while requests hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A disk is unplugged, and a snapshot is taken, while requests of
 * vbc_hang_some() are with storage that hangs: some of them in flight, some
 * abandoned.  Nothing may freeze; no write may land once somebody else can have
 * the image.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "blk-leave-test.h"
#include "gate-patience.h"

#define OTHER_SLOT      5

Vbc *leave_start(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.server = true;
    opts.node = true;
    /* A second without progress, and the storage hangs */
    opts.args = opts.args ?: "-machine hold-timeout=4000";
    return vbc_start(&opts);
}

void leave_check_all(Vbc *v, VbcReq *r)
{
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        if (vbc_hang_canceled(v, i)) {
            vbc_check_reused(v, &r[i]);
        } else {
            vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
        }
    }
}

/* Unplug */

void leave_unplug(Vbc *v, const char *id, uint8_t slot)
{
    qpci_unplug_acpi_device_test(v->qts, id, slot);
    /* Two devices go, the disk and its transport, one inside the other */
    qtest_qmp_eventwait(v->qts, "DEVICE_DELETED");
}

static void del_node(Vbc *v, const char *name)
{
    qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-del',"
                             " 'arguments': {'node-name': %s}}", name);
}

static void check_del_refused(Vbc *v, const char *name)
{
    QDict *error = qtest_qmp_assert_failure_ref(v->qts,
        "{'execute': 'blockdev-del', 'arguments': {'node-name': %s}}", name);

    g_test_message("%s", qdict_get_str(error, "desc"));
    qobject_unref(error);
}

/* The guest has given everything of the device to somebody else */
static void reuse_all(Vbc *v, VbcReq *r)
{
    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        vbc_reuse(v, &r[i]);
    }
}

/*
 * What was on its way has landed, or was never issued; what is written now
 * stays.
 */
static void check_next_owner(Vbc *v, VbcReq *r)
{
    g_autofree uint8_t *buf = g_malloc(VBC_DISK_SIZE);
    int fd = open(v->image, O_RDWR);

    for (unsigned int i = 0; i < VBC_HANGING; i++) {
        vbc_check_reused(v, &r[i]);
    }
    disk_pattern(buf, VBC_DISK_SIZE, 0, 5);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, buf, VBC_DISK_SIZE), ==, VBC_DISK_SIZE);
    close(fd);
}

/* The threads themselves live on; only their names go */
static void del_iothreads(Vbc *v)
{
    for (unsigned int i = 0; i < v->opts.iothreads; i++) {
        g_autofree char *id = g_strdup_printf("io%u", i);

        qtest_qmp_assert_success(v->qts, "{'execute': 'object-del',"
                                 " 'arguments': {'id': %s}}", id);
    }
}

static void unplug(const void *base, bool threads_first)
{
    Vbc *v = leave_start(base);
    VbcReq r[VBC_HANGING];

    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    if (threads_first) {
        del_iothreads(v);
    }
    leave_unplug(v, "vblk", VBC_SLOT);
    reuse_all(v, r);
    g_assert_true(gate_has_orphan(v->qts));
    check_del_refused(v, "drv");
    if (!threads_first) {
        del_iothreads(v);
    }
    vbc_watch_end(v);

    vbc_release(v);
    gate_wait_no_orphan(v->qts);
    del_node(v, "drv");
    check_next_owner(v, r);
    qtest_qmp_assert_success(v->qts, "{'execute': 'query-status'}");
    vbc_check_disk(v, 0, VBC_DISK_SIZE, 5);
    vbc_abandon(v);
}

static void test_unplug(const void *base)
{
    unplug(base, false);
}

static void test_unplug_thread(const void *base)
{
    unplug(base, true);
}

/* QEMU does not end before what an unplugged disk has under way has landed */
static void test_unplug_quit(const void *base)
{
    Vbc *v = leave_start(base);
    VbcReq r;
    pid_t pid;

    if (!v) {
        return;
    }
    vbc_hang_write(v, &r);
    vbc_watch_begin(v);
    leave_unplug(v, "vblk", VBC_SLOT);
    g_assert_true(gate_has_orphan(v->qts));
    pid = qtest_pid(v->qts);
    qtest_qmp_assert_success(v->qts, "{'execute': 'quit'}");
    qtest_qmp_eventwait(v->qts, "SHUTDOWN");
    qtest_qmp_assert_success(v->qts, "{'execute': 'query-block'}");
    g_assert_cmpint(kill(pid, 0), ==, 0);
    vbc_expect_exit(v, &r);
    vbc_abandon(v);
}

/* -drive, whose BlockBackend is the monitor's, goes with the device */
static void test_unplug_drive(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[VBC_HANGING];
    Vbc *v;

    opts.server = true;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    leave_unplug(v, "vblk", VBC_SLOT);
    reuse_all(v, r);
    g_assert_true(gate_has_orphan(v->qts));
    vbc_watch_end(v);
    vbc_release(v);
    gate_wait_no_orphan(v->qts);
    check_next_owner(v, r);
    vbc_check_disk(v, 0, VBC_DISK_SIZE, 5);
    vbc_abandon(v);
}

/* Nothing hangs: all is as without cancelling, and at once */
static void test_unplug_idle(const void *base)
{
    Vbc *v = leave_start(base);

    if (!v) {
        return;
    }
    vbc_write(v, 64, 4096, 1);
    leave_unplug(v, "vblk", VBC_SLOT);
    g_assert_false(gate_has_orphan(v->qts));
    del_node(v, "drv");
    vbc_check_disk(v, 64, 4096, 1);
    vbc_abandon(v);
}

/* The disk that goes is idle, but another one hangs */
static void unplug_other(const void *base, const char *device,
                         const char *more)
{
    VbcOptions opts = *(const VbcOptions *)base;
    g_autofree char *args = g_strdup_printf(
        "-blockdev null-co,node-name=null -device %s,id=other,addr=%x.0%s",
        device, OTHER_SLOT, more);
    VbcReq r[VBC_HANGING];
    Vbc *v;

    opts.args = args;
    v = leave_start(&opts);
    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    leave_unplug(v, "other", OTHER_SLOT);
    g_assert_true(gate_has_orphan(v->qts));
    check_del_refused(v, "null");
    vbc_watch_end(v);
    vbc_release(v);
    leave_check_all(v, r);
    gate_wait_no_orphan(v->qts);
    del_node(v, "null");
    vbc_stop(v);
}

static void test_unplug_other(const void *base)
{
    unplug_other(base, "virtio-blk-pci", ",drive=null,cancel=reset");
}

static void test_unplug_stock(const void *base)
{
    unplug_other(base, "virtio-blk-pci", ",drive=null");
}

/* Whatever the HBA, it need not know of cancelling */
static void test_unplug_hba(const void *base)
{
    static const char *const hbas[] = {
        "am53c974", "lsi53c895a", "megasas", "mptsas1068", "pvscsi",
    };

    for (unsigned int i = 0; i < ARRAY_SIZE(hbas); i++) {
        if (qtest_has_device(hbas[i])) {
            g_test_message("%s", hbas[i]);
            unplug_other(base, hbas[i],
                         " -device scsi-hd,drive=null,bus=other.0,cancel=on");
        }
    }
}

/* Plugged in again, and unplugged, as long as there is something to wait for */
static void test_replug(const void *base)
{
    Vbc *v = leave_start(base);
    VbcReq r[VBC_HANGING];

    if (!v) {
        return;
    }
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    leave_unplug(v, "vblk", VBC_SLOT);
    vbc_watch_end(v);
    vbc_release(v);
    gate_wait_no_orphan(v->qts);
    qtest_qmp_assert_success(v->qts, "{'execute': 'device_add', 'arguments': {"
                             " 'driver': 'virtio-blk-pci', 'id': 'vblk',"
                             " 'drive': 'drv', 'addr': '4.0',"
                             " 'cancel': 'on' }}");
    leave_unplug(v, "vblk", VBC_SLOT);
    g_assert_false(gate_has_orphan(v->qts));
    del_node(v, "drv");
    vbc_abandon(v);
}

/* Snapshots */

/* Returns: the error of the job, or of the command, or NULL; to be freed */
static char *snapshot(Vbc *v, const char *command, const char *id)
{
    bool deletes = g_str_equal(command, "snapshot-delete");
    QDict *ret = deletes
        ? qtest_qmp(v->qts, "{'execute': %s, 'arguments': { 'job-id': %s,"
                    " 'tag': 'one', 'devices': ['drv'] }}", command, id)
        : qtest_qmp(v->qts, "{'execute': %s, 'arguments': { 'job-id': %s,"
                    " 'tag': 'one', 'vmstate': 'drv', 'devices': ['drv'] }}",
                    command, id);
    char *error = NULL;
    bool done = false;

    if (qdict_haskey(ret, "error")) {
        error = g_strdup(qdict_get_str(qdict_get_qdict(ret, "error"), "desc"));
        qobject_unref(ret);
        return error;
    }
    qobject_unref(ret);
    while (!done) {
        QListEntry *entry;

        ret = qtest_qmp(v->qts, "{'execute': 'query-jobs'}");
        QLIST_FOREACH_ENTRY(qdict_get_qlist(ret, "return"), entry) {
            QDict *job = qobject_to(QDict, qlist_entry_obj(entry));

            if (!g_str_equal(qdict_get_str(job, "id"), id)) {
                continue;
            }
            done = g_str_equal(qdict_get_str(job, "status"), "concluded");
            g_free(error);
            error = g_strdup(qdict_get_try_str(job, "error"));
        }
        qobject_unref(ret);
    }
    return error;
}

/* Returns: whether the human monitor's command was refused, else it worked */
static bool hmp_refused(Vbc *v, const char *command)
{
    QDict *rsp = qtest_qmp(v->qts, "{'execute': 'human-monitor-command',"
                           " 'arguments': {'command-line': %s}}", command);
    bool refused = gate_says(rsp);

    g_assert_cmpstr(qdict_get_try_str(rsp, "return"), ==,
                    refused ? NULL : "");
    qobject_unref(rsp);
    return refused;
}

static void test_snapshot(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    g_autofree char *dir = g_dir_make_tmp("blk-leave-XXXXXX", NULL);
    g_autofree char *image = g_strdup_printf("%s/disk", dir);
    static const char *const commands[] = {
        "snapshot-save", "snapshot-load", "snapshot-delete",
    };
    static const char *const hmp[] = {
        "savevm two", "loadvm two", "delvm two",
    };
    VbcReq r[VBC_HANGING];
    Vbc *v;

    if (!have_qemu_img()) {
        g_test_skip("needs qemu-img");
        return;
    }
    vbc_create_qcow2(image, 64 * 1024 * 1024);
    opts.image = image;
    opts.format = "qcow2";
    v = leave_start(&opts);
    if (!v) {
        return;
    }
    vbc_write(v, 0, 128 * 1024, 1);
    vbc_hang_some(v, r);
    vbc_watch_begin(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(commands); i++) {
        g_autofree char *id = g_strdup_printf("refused%u", i);
        g_autofree char *error = snapshot(v, commands[i], id);

        g_assert_nonnull(error);
        g_assert_nonnull(strstr(error, "vblk"));
        g_assert_true(hmp_refused(v, hmp[i]));
    }
    vbc_watch_end(v);
    vbc_release(v);
    leave_check_all(v, r);
    vbc_settle(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(commands); i++) {
        g_assert_cmpstr(snapshot(v, commands[i], commands[i]), ==, NULL);
        g_assert_false(hmp_refused(v, hmp[i]));
    }
    vbc_check_read(v, 64, 4096, 1);
    vbc_write(v, 64, 4096, 3);
    vbc_check_read(v, 64, 4096, 3);
    vbc_stop(v);
    unlink(image);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    unsigned int loops = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    g_test_init(&argc, &argv, NULL);
    vbc_add_test("leave/unplug", VBC_SETUP_ALL, test_unplug);
    vbc_add_test("leave/unplug-thread", VBC_SETUP_IOTHREADS,
                 test_unplug_thread);
    vbc_add_test("leave/unplug-quit", loops, test_unplug_quit);
    vbc_add_test("leave/unplug-drive", loops, test_unplug_drive);
    vbc_add_test("leave/unplug-idle", loops, test_unplug_idle);
    vbc_add_test("leave/unplug-other", VBC_SETUP_PLAIN, test_unplug_other);
    vbc_add_test("leave/unplug-stock", VBC_SETUP_PLAIN, test_unplug_stock);
    vbc_add_test("leave/unplug-hba", VBC_SETUP_PLAIN, test_unplug_hba);
    vbc_add_test("leave/replug", loops, test_replug);
    vbc_add_test("leave/snapshot", loops, test_snapshot);
    leave_add_lock_tests();
    leave_add_migrate_tests();
    return g_test_run();
}
