/*
 * Test that it is known of each command whether it needs I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A command that drains disks or changes the block graph, and does not say so,
 * freezes the machine while storage hangs.  So one that is new must be added to
 * one of the lists here, by somebody who has looked what it does.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "blk-hold-test.h"
#include "gate-patience.h"
#include "virtio-blk-cancel-lib.h"

/* It always drains, or changes the graph: refused, also without arguments */
static const char *const drain[] = {
    "block-dirty-bitmap-add", "block-dirty-bitmap-remove", "block-export-add",
    "block-job-complete", "block-job-dismiss", "block-job-finalize",
    "block-stream", "block_set_io_throttle", "blockdev-backup",
    "blockdev-close-tray", "blockdev-create", "blockdev-insert-medium",
    "blockdev-mirror", "drive-backup", "drive-mirror", "job-complete",
    "job-dismiss", "job-finalize", "nbd-server-add", "nbd-server-stop",
    "x-blockdev-set-iothread", "x-colo-lost-heartbeat",
    "xen-colo-do-checkpoint", "xen-set-replication",
    NULL
};

/* It stops the VM: it drains, and flushes, and leaves the graph alone */
static const char *const drain_stop[] = {
    "dump-guest-memory", "stop", "xen-save-devices-state",
    NULL
};

/* It drains, or changes the graph, and it flushes */
static const char *const drain_flush[] = {
    "block-commit", "block_resize", "blockdev-change-medium", "blockdev-del",
    "blockdev-open-tray", "blockdev-remove-medium", "blockdev-reopen",
    "blockdev-set-active", "blockdev-snapshot",
    "blockdev-snapshot-delete-internal-sync",
    "blockdev-snapshot-internal-sync", "blockdev-snapshot-sync",
    "change-backing-file", "eject", "transaction", "x-blockdev-amend",
    "x-blockdev-change",
    NULL
};

/* It may, depending on its arguments */
static const char *const drain_disk[] = {
    "block-export-del", "blockdev-add", "device_add", "human-monitor-command",
    "qom-set",
    NULL
};

/*
 * It does not: it has nothing to do with disks, or must always work, or waits
 * by itself for its turn, as the jobs that "snapshot-save" starts.  Commands
 * that begin with "query-" never do.
 */
static const char *const never[] = {
    "add-fd", "add_client", "announce-self", "balloon",
    "block-dirty-bitmap-clear", "block-dirty-bitmap-disable",
    "block-dirty-bitmap-enable", "block-dirty-bitmap-merge",
    "block-hung-reset-stats", "block-job-cancel", "block-job-change",
    "block-job-pause", "block-job-resume", "block-job-set-speed",
    "block-latency-histogram-set", "block-set-write-threshold",
    "calc-dirty-rate", "cancel-vcpu-dirty-limit", "change-vnc-password",
    "chardev-add", "chardev-change", "chardev-remove", "chardev-send-break",
    "client_migrate_info", "closefd", "cont", "cxl-add-dynamic-capacity",
    "cxl-inject-correctable-error", "cxl-inject-dram-event",
    "cxl-inject-general-media-event", "cxl-inject-memory-module-event",
    "cxl-inject-poison", "cxl-inject-uncorrectable-errors",
    "cxl-release-dynamic-capacity", "device-list-properties",
    "device-sync-config", "device_del", "display-reload", "display-update",
    "dumpdtb", "expire_password", "getfd", "inject-nmi", "input-send-event",
    "job-cancel", "job-pause", "job-resume", "memsave", "migrate",
    "migrate-continue", "migrate-incoming", "migrate-pause", "migrate-recover",
    "migrate-set-capabilities", "migrate-set-parameters",
    "migrate-start-postcopy", "migrate_cancel", "nbd-server-remove",
    "nbd-server-start", "netdev_add", "netdev_del", "object-add", "object-del",
    "pmemsave", "qmp_capabilities", "qom-get", "qom-list",
    "qom-list-properties", "qom-list-types", "quit", "remove-fd",
    "replay-break", "replay-delete-break", "replay-seek", "ringbuf-read",
    "ringbuf-write", "rtc-reset-reinjection", "screendump", "send-key",
    "set-action", "set-numa-node", "set-vcpu-dirty-limit", "set_link",
    "set_password", "sev-inject-launch-secret", "snapshot-delete",
    "snapshot-load", "snapshot-save", "system_powerdown", "system_reset",
    "system_wakeup", "trace-event-get-state", "trace-event-set-state",
    "watchdog-set-action", "x-debug-block-dirty-bitmap-sha256",
    "x-debug-query-block-graph", "x-exit-preconfig",
    "x-query-interrupt-controllers", "x-query-irq", "x-query-jit",
    "x-query-numa", "x-query-opcount", "x-query-ramblock", "x-query-roms",
    "x-query-usb", "x-query-virtio", "x-query-virtio-queue-element",
    "x-query-virtio-queue-status", "x-query-virtio-status",
    "x-query-virtio-vhost-queue-status", "x-quit-force", "xen-event-inject",
    "xen-event-list", "xen-load-devices-state", "xen-set-global-dirty-log",
    "yank",
    NULL
};

/* The same of the human monitor; these are refused without arguments, too */
static const char *const hmp_drain[] = {
    "block_job_complete", "block_resize", "block_set_io_throttle",
    "block_stream", "change", "commit", "delvm", "drive_add", "drive_backup",
    "drive_del", "drive_mirror", "dump-guest-memory", "eject", "loadvm",
    "nbd_server_add", "nbd_server_start", "nbd_server_stop", "savevm",
    "snapshot_blkdev", "snapshot_blkdev_internal",
    "snapshot_delete_blkdev_internal", "stop",
    NULL
};

static const char *const hmp_drain_disk[] = {
    "device_add", "qom-set",
    NULL
};

static const char *const hmp_never[] = {
    "announce_self", "balloon", "blk_cancel_reset_stats", "block_job_cancel",
    "block_job_pause", "block_job_resume", "block_job_set_speed", "boot_set",
    "calc_dirty_rate", "cancel_vcpu_dirty_limit", "chardev-add",
    "chardev-change", "chardev-remove", "chardev-send-break",
    "client_migrate_info", "closefd", "cont", "cpu", "device_del", "dumpdtb",
    "exit_preconfig", "expire_password", "gdbserver", "getfd", "gpa2hpa",
    "gpa2hva", "gva2gpa", "help", "hostfwd_add", "hostfwd_remove", "i", "info",
    "log", "logfile", "mce", "memsave", "migrate", "migrate_cancel",
    "migrate_continue", "migrate_incoming", "migrate_pause", "migrate_recover",
    "migrate_set_capability", "migrate_set_parameter",
    "migrate_start_postcopy", "mouse_button", "mouse_move", "mouse_set",
    "nbd_server_remove", "netdev_add", "netdev_del", "nmi", "o", "object_add",
    "object_del", "one-insn-per-tb", "pcie_aer_inject_error", "pmemsave",
    "print", "qemu-io", "qom-get", "qom-list", "quit", "replay_break",
    "replay_delete_break", "replay_seek", "ringbuf_read", "ringbuf_write",
    "screendump", "sendkey", "set_link", "set_password",
    "set_vcpu_dirty_limit", "stopcapture", "sum", "sync-profile",
    "system_powerdown", "system_reset", "system_wakeup", "trace-event",
    "watchdog_action", "wavcapture", "x", "xen-event-inject", "xen-event-list",
    "xp",
    NULL
};

static bool is_in(const char *const *list, const char *name)
{
    return g_strv_contains(list, name);
}

static bool has_feature(QDict *command, const char *name)
{
    QList *features = qdict_get_qlist(command, "features");
    QListEntry *entry;

    if (!features) {
        return false;
    }
    QLIST_FOREACH_ENTRY(features, entry) {
        QString *s = qobject_to(QString, qlist_entry_obj(entry));

        if (g_str_equal(qstring_get_str(s), name)) {
            return true;
        }
    }
    return false;
}

static void check_command(QDict *command)
{
    const char *name = qdict_get_str(command, "name");
    bool known = is_in(drain, name) || is_in(drain_flush, name) ||
                 is_in(drain_stop, name) || is_in(drain_disk, name) ||
                 is_in(never, name) ||
                 g_str_has_prefix(name, "query-");

    if (!known) {
        g_test_message("Does \"%s\" drain disks, or change the graph?  Give it "
                       "a feature if it does, and add it to a list here", name);
        g_test_fail();
        return;
    }
    g_test_message("%s", name);
    g_assert_cmpint(has_feature(command, "drain"), ==, is_in(drain, name));
    g_assert_cmpint(has_feature(command, "drain-flush"), ==,
                    is_in(drain_flush, name));
    g_assert_cmpint(has_feature(command, "drain-stop"), ==,
                    is_in(drain_stop, name));
    g_assert_cmpint(has_feature(command, "drain-disk"), ==,
                    is_in(drain_disk, name));
}

/* Takes over @rsp. */
static void check_refused(const char *name, QDict *rsp)
{
    g_test_message("%s", name);
    g_assert_nonnull(gate_says(rsp));
    qobject_unref(rsp);
}

/* A disk that hangs, or NULL if the test is to be skipped */
static Vbc *hung_start(const void *base, VbcReq *r)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vbc *v;

    opts.server = true;
    opts.args = HOLD_TIMEOUT;
    v = vbc_start(&opts);
    if (v) {
        vbc_hang_write(v, r);
        vbc_watch_begin(v);
    }
    return v;
}

static void hung_stop(Vbc *v, VbcReq *r)
{
    vbc_watch_end(v);
    vbc_release(v);
    vbc_expect(v, r, VIRTIO_BLK_S_OK);
    vbc_stop(v);
}

static void test_schema(const void *base)
{
    QListEntry *entry;
    VbcReq r;
    QDict *rsp;
    Vbc *v = hung_start(base, &r);

    if (!v) {
        return;
    }
    rsp = qtest_qmp(v->qts, "{'execute': 'query-qmp-schema'}");
    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), entry) {
        QDict *item = qobject_to(QDict, qlist_entry_obj(entry));
        const char *name = qdict_get_try_str(item, "name");

        if (!g_str_equal(qdict_get_str(item, "meta-type"), "command")) {
            continue;
        }
        check_command(item);
        if (is_in(drain, name) || is_in(drain_flush, name)) {
            check_refused(name, qtest_qmp(v->qts, "{'execute': %s}", name));
        }
    }
    qobject_unref(rsp);
    hung_stop(v, &r);
}

static void check_hmp_command(Vbc *v, const char *name)
{
    if (is_in(hmp_never, name) || is_in(hmp_drain_disk, name)) {
        return;
    }
    if (!is_in(hmp_drain, name)) {
        g_test_message("Does \"%s\" drain disks, or change the graph?  Give it "
                       "a flag if it does, and add it to a list here", name);
        g_test_fail();
        return;
    }
    check_refused(name,
                  qtest_qmp(v->qts, "{'execute': 'human-monitor-command',"
                            " 'arguments': {'command-line': %s}}", name));
}

/* Names are at the beginning of a line, with others behind a "|" */
static void test_hmp(const void *base)
{
    g_autofree char *help = NULL;
    g_auto(GStrv) lines = NULL;
    VbcReq r;
    Vbc *v = hung_start(base, &r);

    if (!v) {
        return;
    }
    help = qtest_hmp(v->qts, "help");
    lines = g_strsplit(help, "\r\n", -1);
    for (char **line = lines; *line; line++) {
        (*line)[strcspn(*line, " |[/")] = '\0';
        if (g_ascii_isalpha(**line)) {
            check_hmp_command(v, *line);
        }
    }
    hung_stop(v, &r);
}

void hold_add_schema_tests(void)
{
    hold_add_test("schema/qmp", test_schema, false);
    hold_add_test("schema/hmp", test_hmp, false);
}
