/*
 * Host-side commands while storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each row of the table in docs/system/devices/hung-storage.rst: what the
 * command does while requests hang, and while requests are abandoned, that the
 * monitors answer meanwhile, and that it works afterwards.
 *
 * The storage hangs for as long as a test lets it, so an answer that comes at
 * all has not waited for it.
 */

#include "qemu/osdep.h"
#include <sys/wait.h>
#include "libqmp.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qemu/sockets.h"
#include "blk-hold-test.h"
#include "gate-patience.h"
#include "virtio-blk-cancel-lib.h"

typedef enum Expect {
    REFUSED,                /* while storage hangs */
    WORKS,                  /* as ever */
    FAILS,                  /* as ever, with an error of its own */
} Expect;

typedef struct Row {
    const char *command;    /* JSON */
    Expect hanging;
    Expect otherwise;
} Row;

/* In this order they succeed, if they can */
static const Row rows[] = {
    { "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co',"
      " 'node-name': 'n1', 'size': 1048576, 'read-zeroes': true}}",
      WORKS, FAILS },
    { "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co',"
      " 'node-name': 'n2', 'size': 1048576, 'read-zeroes': true}}",
      WORKS, FAILS },
    { "{'execute': 'blockdev-add', 'arguments': {'driver': 'raw',"
      " 'node-name': 'n3', 'file': 'n1'}}", REFUSED, WORKS },
    { "{'execute': 'blockdev-del', 'arguments': {'node-name': 'n3'}}",
      REFUSED, WORKS },
    { "{'execute': 'blockdev-reopen', 'arguments': {'options': ["
      "{'driver': 'null-co', 'node-name': 'n1', 'size': 1048576,"
      " 'read-zeroes': true, 'read-only': false}]}}", REFUSED, WORKS },
    { "{'execute': 'blockdev-mirror', 'arguments': {'job-id': 'job',"
      " 'device': 'n1', 'target': 'n2', 'sync': 'none', 'speed': 1}}",
      REFUSED, WORKS },
    { "{'execute': 'block-job-cancel', 'arguments': {'device': 'job',"
      " 'force': true}}", FAILS, WORKS },
    { "{'execute': 'job-cancel', 'arguments': {'id': 'none'}}",
      FAILS, FAILS },
    { "{'execute': 'job-complete', 'arguments': {'id': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'job-finalize', 'arguments': {'id': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'job-dismiss', 'arguments': {'id': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'block-job-complete', 'arguments': {'device': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'block-stream', 'arguments': {'device': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'block-commit', 'arguments': {'device': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'blockdev-backup', 'arguments': {'device': 'none',"
      " 'target': 'n2', 'sync': 'full'}}", REFUSED, FAILS },
    { "{'execute': 'blockdev-snapshot', 'arguments': {'node': 'none',"
      " 'overlay': 'n2'}}", REFUSED, FAILS },
    { "{'execute': 'blockdev-snapshot-sync', 'arguments': {"
      "'node-name': 'none', 'snapshot-file': 'x'}}", REFUSED, FAILS },
    { "{'execute': 'blockdev-snapshot-internal-sync', 'arguments': {"
      "'device': 'none', 'name': 'x'}}", REFUSED, FAILS },
    { "{'execute': 'blockdev-snapshot-delete-internal-sync', 'arguments': {"
      "'device': 'none', 'name': 'x'}}", REFUSED, FAILS },
    { "{'execute': 'qom-set', 'arguments': {'property': 'drive',"
      " 'path': '/machine/peripheral/vblk', 'value': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'blockdev-create', 'arguments': {'job-id': 'create',"
      " 'options': {'driver': 'qcow2', 'file': 'none', 'size': 0}}}",
      REFUSED, WORKS },
    { "{'execute': 'x-blockdev-amend', 'arguments': {'job-id': 'amend',"
      " 'node-name': 'none', 'options': {'driver': 'qcow2'}}}",
      REFUSED, FAILS },
    { "{'execute': 'nbd-server-add', 'arguments': {'device': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'xen-save-devices-state', 'arguments': {"
      "'filename': '/nonexistent/x'}}", REFUSED, FAILS },
    { "{'execute': 'drive-mirror', 'arguments': {'device': 'none',"
      " 'target': 'x', 'sync': 'full'}}", REFUSED, FAILS },
    { "{'execute': 'drive-backup', 'arguments': {'device': 'none',"
      " 'target': 'x', 'sync': 'full'}}", REFUSED, FAILS },
    { "{'execute': 'block-job-finalize', 'arguments': {'id': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'block-job-dismiss', 'arguments': {'id': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'block-dirty-bitmap-add', 'arguments': {'node': 'n1',"
      " 'name': 'map'}}", REFUSED, WORKS },
    { "{'execute': 'block-dirty-bitmap-remove', 'arguments': {'node': 'n1',"
      " 'name': 'map'}}", REFUSED, WORKS },
    { "{'execute': 'change-backing-file', 'arguments': {'device': 'none',"
      " 'image-node-name': 'none', 'backing-file': 'x'}}", REFUSED, FAILS },
    { "{'execute': 'blockdev-set-active', 'arguments': {'node-name': 'none',"
      " 'active': true}}", REFUSED, FAILS },
    { "{'execute': 'x-blockdev-change', 'arguments': {'parent': 'none'}}",
      REFUSED, FAILS },
    { "{'execute': 'transaction', 'arguments': {'actions': []}}",
      REFUSED, WORKS },
    { "{'execute': 'block_resize', 'arguments': {'device': 'drv',"
      " 'size': 4194304}}", REFUSED, WORKS },
    { "{'execute': 'block_set_io_throttle', 'arguments': {'id': 'vblk',"
      " 'bps': 0, 'bps_rd': 0, 'bps_wr': 0, 'iops': 1000000, 'iops_rd': 0,"
      " 'iops_wr': 0}}", REFUSED, FAILS },
    { "{'execute': 'x-blockdev-set-iothread', 'arguments': {"
      "'node-name': 'n1', 'iothread': null}}", REFUSED, WORKS },
    { "{'execute': 'eject', 'arguments': {'id': 'vblk'}}", REFUSED, FAILS },
    { "{'execute': 'blockdev-open-tray', 'arguments': {'id': 'vblk'}}",
      REFUSED, FAILS },
    { "{'execute': 'blockdev-close-tray', 'arguments': {'id': 'vblk'}}",
      REFUSED, FAILS },
    { "{'execute': 'blockdev-remove-medium', 'arguments': {'id': 'vblk'}}",
      REFUSED, FAILS },
    { "{'execute': 'blockdev-change-medium', 'arguments': {'id': 'vblk',"
      " 'filename': 'x'}}", REFUSED, FAILS },
    { "{'execute': 'blockdev-insert-medium', 'arguments': {'id': 'vblk',"
      " 'node-name': 'n1'}}", REFUSED, FAILS },
    { "{'execute': 'device_add', 'arguments': {'driver': 'virtio-blk-pci',"
      " 'drive': 'n1', 'id': 'new'}}", REFUSED, WORKS },
    { "{'execute': 'device_add', 'arguments': {'driver': 'virtio-rng-pci',"
      " 'id': 'rng'}}", WORKS, FAILS },
    { "{'execute': 'nbd-server-start', 'arguments': {'addr': {"
      "'type': 'unix', 'data': {'path': '%s.nbd'}}}}", WORKS, FAILS },
    { "{'execute': 'block-export-add', 'arguments': {'type': 'nbd',"
      " 'id': 'exp', 'node-name': 'n2'}}", REFUSED, WORKS },
    { "{'execute': 'block-export-del', 'arguments': {'id': 'exp'}}",
      FAILS, WORKS },
    { "{'execute': 'nbd-server-remove', 'arguments': {'name': 'none'}}",
      FAILS, FAILS },
    { "{'execute': 'nbd-server-stop'}", REFUSED, WORKS },
    { "{'execute': 'blockdev-del', 'arguments': {'node-name': 'n2'}}",
      REFUSED, WORKS },
    { "{'execute': 'stop'}", REFUSED, WORKS },
    { "{'execute': 'cont'}", WORKS, WORKS },
    { "{'execute': 'human-monitor-command', 'arguments': {"
      "'command-line': ' stop'}}", REFUSED, WORKS },
    { "{'execute': 'human-monitor-command', 'arguments': {"
      "'command-line': 'cont'}}", WORKS, WORKS },
    { "{'execute': 'dump-guest-memory', 'arguments': {'paging': false,"
      " 'protocol': 'file:/nonexistent/x'}}", REFUSED, FAILS },
    { "{'execute': 'query-status'}", WORKS, WORKS },
    { "{'execute': 'query-block'}", WORKS, WORKS },
    { "{'execute': 'query-named-block-nodes'}", WORKS, WORKS },
    { "{'execute': 'query-blockstats'}", WORKS, WORKS },
    { "{'execute': 'query-block-jobs'}", WORKS, WORKS },
    { "{'execute': 'query-jobs'}", WORKS, WORKS },
    { "{'execute': 'query-block-exports'}", WORKS, WORKS },
    { "{'execute': 'x-debug-query-block-graph'}", WORKS, WORKS },
    { "{'execute': 'human-monitor-command', 'arguments': {"
      "'command-line': 'info block -v'}}", WORKS, WORKS },
    { "{'execute': 'object-add', 'arguments': {'qom-type': 'throttle-group',"
      " 'id': 'tg'}}", WORKS, FAILS },
    { "{'execute': 'object-add', 'arguments': {'qom-type': 'iothread',"
      " 'id': 'io'}}", WORKS, FAILS },
    { "{'execute': 'qom-set', 'arguments': {'path': '/objects/io',"
      " 'property': 'poll-max-ns', 'value': 1000}}", WORKS, WORKS },
    { "{'execute': 'block-set-write-threshold', 'arguments': {"
      "'node-name': 'none', 'write-threshold': 0}}", FAILS, FAILS },
    { "{'execute': 'set-action', 'arguments': {'panic': 'pause'}}",
      WORKS, WORKS },
    { "{'execute': 'system_powerdown'}", WORKS, WORKS },
    { "{'execute': 'chardev-add', 'arguments': {'id': 'null', 'backend': {"
      "'type': 'null', 'data': {}}}}", WORKS, FAILS },
    { "{'execute': 'netdev_add', 'arguments': {'type': 'hubport', 'id': 'hub',"
      " 'hubid': 0}}", WORKS, FAILS },
};

/* The same of the human monitor; afterwards each says something else */
static const char *const hmp_rows[] = {
    "block_resize none 4M",
    "block_set_io_throttle none 0 0 0 0 0 0",
    "block_stream none",
    "block_job_complete none",
    "change none x",
    "drive_backup none x",
    "drive_mirror none x",
    "drive_add 0 if=none,id=hmp,driver=null-co",
    "drive_del hmp",
    "device_add none,drive=none",
    "eject none",
    "nbd_server_add none",
    "nbd_server_start none",
    "nbd_server_stop",
    "snapshot_blkdev none x",
    "snapshot_blkdev_internal none x",
    "snapshot_delete_blkdev_internal none x",
    "dump-guest-memory /nonexistent/x",
    "\n\tcommit none\r\n",
    "commit/x none",
    "qom-set /machine/peripheral/vblk drive none",
    "qom-set -j /machine/peripheral/vblk drive 0",
    "savevm x",
    "delvm x",
    "commit none",
};

/* A second QMP connection, and a human monitor */
typedef struct Monitors {
    Vbc *v;
    char *qmp_path;
    char *hmp_path;
    int qmp;
    int hmp;
    GString *said;          /* by the human monitor, and not expected yet */
} Monitors;

static int connect_to(const char *path)
{
    int fd = unix_connect(path, &error_abort);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static char *scratch_name(void)
{
    char *name = NULL;
    int fd = g_file_open_tmp("blk-hold-XXXXXX", &name, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    return name;
}

static bool start(Monitors *m, const void *opaque, const char *more)
{
    VbcOptions opts = *(const VbcOptions *)opaque;
    g_autofree char *args = NULL;

    m->qmp_path = scratch_name();
    m->hmp_path = scratch_name();
    args = g_strdup_printf(HOLD_TIMEOUT
                           " -chardev socket,id=qmp2,path=%s,server=on,wait=off"
                           " -mon chardev=qmp2,mode=control"
                           " -chardev socket,id=hmp,path=%s,server=on,wait=off"
                           ",mux=on -mon chardev=hmp,mode=readline %s",
                           m->qmp_path, m->hmp_path, more ?: "");
    opts.server = true;
    opts.args = args;
    m->v = vbc_start(&opts);
    if (!m->v) {
        return false;
    }
    m->v->opts.args = NULL;
    m->qmp = connect_to(m->qmp_path);
    qobject_unref(qmp_fd_receive(m->qmp));
    qobject_unref(qmp_fd(m->qmp, "{'execute': 'qmp_capabilities',"
                         " 'arguments': {'enable': ['oob']}}"));
    m->hmp = connect_to(m->hmp_path);
    m->said = g_string_new(NULL);
    return true;
}

static void end_monitors(Monitors *m)
{
    close(m->qmp);
    close(m->hmp);
    g_string_free(m->said, true);
    unlink(m->qmp_path);
    unlink(m->hmp_path);
    g_free(m->qmp_path);
    g_free(m->hmp_path);
}

/* The second monitor answers */
static char *query_status(Monitors *m)
{
    QDict *rsp;
    char *status;

    qmp_fd_send(m->qmp, "{'execute': 'query-status'}");
    for (rsp = qmp_fd_receive(m->qmp); qdict_haskey(rsp, "event");
         rsp = qmp_fd_receive(m->qmp)) {
        qobject_unref(rsp);
    }
    status = g_strdup(qdict_get_str(qdict_get_qdict(rsp, "return"), "status"));
    qobject_unref(rsp);
    return status;
}

static void check_status(Monitors *m, const char *want)
{
    g_autofree char *status = query_status(m);

    g_assert_cmpstr(status, ==, want);
}

/* Until @ask, whose answer is to be freed, says @want */
static void wait_for(Monitors *m, char *(*ask)(Monitors *m), const char *want)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    for (;;) {
        g_autofree char *answer = ask(m);

        if (!g_strcmp0(answer, want)) {
            return;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
}

static void wait_status(Monitors *m, const char *want)
{
    wait_for(m, query_status, want);
}

static void check_row(Monitors *m, const Row *row, Expect expect)
{
    g_autofree char *command = NULL;
    const char *says;
    QDict *rsp;

    g_test_message("%s", row->command);
    command = strstr(row->command, "%s")
              ? g_strdup_printf(row->command, m->v->image)
              : g_strdup(row->command);
    qtest_qmp_send_raw(m->v->qts, "%s\n", g_strdelimit(command, "'", '"'));
    check_status(m, "running");
    rsp = qtest_qmp_receive(m->v->qts);
    says = gate_says(rsp);
    if (expect == REFUSED) {
        g_assert_nonnull(says);
        g_assert_nonnull(strstr(says, "disk 'vblk' has "));
    } else {
        g_assert_null(says);
        g_assert_cmpint(qdict_haskey(rsp, "return"), ==, expect == WORKS);
    }
    qobject_unref(rsp);
}

static void check_hmp_row(Monitors *m, const char *line, bool refused)
{
    QDict *rsp = qtest_qmp(m->v->qts, "{'execute': 'human-monitor-command',"
                           " 'arguments': {'command-line': %s}}", line);

    g_test_message("%s", line);
    g_assert_cmpint(!!gate_says(rsp), ==, refused);
    g_assert_cmpint(qdict_haskey(rsp, "return"), ==, !refused);
    qobject_unref(rsp);
}

/* A write hangs; abandoned if @abandoned */
static void hang(Monitors *m, VbcReq *r, bool abandoned)
{
    vbc_hang_write(m->v, r);
    if (abandoned) {
        vbc_cancel_req(m->v, r);
        vbc_reuse(m->v, r);
    }
}

/* The storage has answered again: nothing is lost */
static void check_data(Monitors *m, VbcReq *r, bool abandoned)
{
    if (abandoned) {
        vbc_check_reused(m->v, r);
    } else {
        vbc_expect(m->v, r, VIRTIO_BLK_S_OK);
    }
    vbc_check_read(m->v, r->sector, r->len, 1);
    vbc_check_disk(m->v, r->sector, r->len, 1);
    vbc_write(m->v, r->sector, r->len, 2);
    vbc_check_disk(m->v, r->sector, r->len, 2);
}

static void commands(const void *opts, bool abandoned)
{
    Monitors m;
    VbcReq r;

    if (!start(&m, opts, NULL)) {
        return;
    }
    hang(&m, &r, abandoned);
    vbc_watch_begin(m.v);
    for (unsigned int i = 0; i < ARRAY_SIZE(rows); i++) {
        check_row(&m, &rows[i], rows[i].hanging);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(hmp_rows); i++) {
        check_hmp_row(&m, hmp_rows[i], true);
    }
    if (!abandoned) {
        vbc_expect_pending(m.v, &r);
    }
    vbc_watch_end(m.v);

    vbc_release(m.v);
    vbc_settle(m.v);
    check_data(&m, &r, abandoned);
    for (unsigned int i = 0; i < ARRAY_SIZE(rows); i++) {
        bool stops = strstr(rows[i].command, "stop'") &&
                     !strstr(rows[i].command, "nbd");

        g_test_message("again: %s", rows[i].command);
        if (stops) {
            qtest_qmp_assert_success(m.v->qts, "{'execute': 'stop'}");
            check_status(&m, "paused");
        } else if (strstr(rows[i].command, "cont'")) {
            qtest_qmp_assert_success(m.v->qts, "{'execute': 'cont'}");
            check_status(&m, "running");
        } else {
            check_row(&m, &rows[i], rows[i].otherwise);
        }
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(hmp_rows); i++) {
        check_hmp_row(&m, hmp_rows[i], false);
    }
    vbc_write(m.v, 8, 4096, 3);
    vbc_check_disk(m.v, 8, 4096, 3);
    end_monitors(&m);
    vbc_stop(m.v);
}

static void test_commands_hanging(const void *opts)
{
    commands(opts, false);
}

static void test_commands_abandoned(const void *opts)
{
    commands(opts, true);
}

/* Wait until the human monitor has said @what, and forget it up to there */
static void expect_hmp(Monitors *m, const char *what)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;
    const char *at;
    char buf[256];

    while (!(at = strstr(m->said->str, what))) {
        ssize_t n = recv(m->hmp, buf, sizeof(buf), MSG_DONTWAIT);

        g_assert_cmpint(g_get_monotonic_time(), <, end);
        if (n > 0) {
            g_string_append_len(m->said, buf, n);
        } else {
            g_assert_true(n < 0 && errno == EAGAIN);
            g_usleep(1000);
        }
    }
    g_string_erase(m->said, 0, at - m->said->str + strlen(what));
}

static void tell_hmp(Monitors *m, const char *line)
{
    g_assert_cmpint(write(m->hmp, line, strlen(line)), ==, strlen(line));
}

static void human_monitor(const void *opts, bool abandoned)
{
    Monitors m;
    VbcReq r;

    if (!start(&m, opts, NULL)) {
        return;
    }
    expect_hmp(&m, "(qemu) ");
    hang(&m, &r, abandoned);
    vbc_watch_begin(m.v);
    tell_hmp(&m, "stop\n");
    check_status(&m, "running");
    expect_hmp(&m, "would wait for storage that hangs");
    expect_hmp(&m, "(qemu) ");
    tell_hmp(&m, "info status\n");
    expect_hmp(&m, "VM status: running");
    expect_hmp(&m, "(qemu) ");
    vbc_watch_end(m.v);
    vbc_release(m.v);
    vbc_settle(m.v);
    check_data(&m, &r, abandoned);
    tell_hmp(&m, "stop\n");
    expect_hmp(&m, "(qemu) ");
    check_status(&m, "paused");
    tell_hmp(&m, "cont\n");
    expect_hmp(&m, "(qemu) ");
    check_status(&m, "running");
    end_monitors(&m);
    vbc_stop(m.v);
}

static void test_hmp_hanging(const void *opts)
{
    human_monitor(opts, false);
}

static void test_hmp_abandoned(const void *opts)
{
    human_monitor(opts, true);
}

/* Whether the second monitor has answered nothing that was not read */
static bool is_silent(Monitors *m)
{
    char buf[4096];
    ssize_t n = recv(m->qmp, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT);

    return n < 0 ? errno == EAGAIN : !g_strstr_len(buf, n, "\"id\"");
}

/* The answer to the request of this id comes next, but for events */
static QDict *receive_answer(Monitors *m, int64_t id)
{
    QDict *rsp = qmp_fd_receive(m->qmp);

    while (qdict_haskey(rsp, "event")) {
        qobject_unref(rsp);
        rsp = qmp_fd_receive(m->qmp);
    }
    g_assert_cmpint(qdict_get_int(rsp, "id"), ==, id);
    return rsp;
}

/*
 * Commands of a QMP and a human monitor are held until the storage answers: all
 * other monitors go on, and on the same one what comes out of band, or later.
 */
static void test_others_go_on(const void *opts)
{
    static const char *const queries[] = {
        "query-status", "query-block", "query-named-block-nodes", "query-jobs",
    };
    Monitors m;
    VbcReq r;
    QDict *rsp;

    if (!start(&m, opts, "-machine hold-timeout=240000")) {
        return;
    }
    expect_hmp(&m, "(qemu) ");
    hang(&m, &r, false);
    vbc_watch_begin(m.v);
    qmp_fd_send(m.qmp, "{'execute': 'stop', 'id': 1}");
    qmp_fd_send(m.qmp, "{'execute': 'query-status', 'id': 2}");
    qmp_fd_send(m.qmp, "{'exec-oob': 'migrate-pause', 'id': 3}");
    qobject_unref(receive_answer(&m, 3));
    tell_hmp(&m, "delvm none\n");
    for (unsigned int i = 0; i < ARRAY_SIZE(queries); i++) {
        qtest_qmp_assert_success(m.v->qts, "{'execute': %s}", queries[i]);
    }
    g_assert_true(is_silent(&m));
    vbc_watch_end(m.v);

    vbc_release(m.v);
    rsp = receive_answer(&m, 1);
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
    rsp = receive_answer(&m, 2);
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(rsp, "return"), "status"),
                    ==, "paused");
    qobject_unref(rsp);
    expect_hmp(&m, "Error: ");
    expect_hmp(&m, "(qemu) ");
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'cont'}");
    check_data(&m, &r, false);
    end_monitors(&m);
    vbc_stop(m.v);
}

/* How many requests wait because the disk is held */
static int64_t waiting(Monitors *m)
{
    QDict *rsp = qtest_qmp(m->v->qts, "{'execute': 'qom-get', 'arguments': {"
                           "'path': '/machine/peripheral/vblk',"
                           "'property': 'cancel-stats'}}");
    int64_t n = qdict_get_int(qdict_get_qdict(rsp, "return"),
                              "waiting-drained");

    qobject_unref(rsp);
    return n;
}

/*
 * What the guest asks for while a stop is waited for, the stop does not wait
 * for: it is done when the VM goes on
 */
static void test_stop_keeps(const void *opts)
{
    VbcReq r, w[16], *kept;
    unsigned int n = 0;
    Monitors m;
    QDict *rsp;

    if (!start(&m, opts, "-machine hold-timeout=240000")) {
        return;
    }
    hang(&m, &r, false);
    qmp_fd_send(m.qmp, "{'execute': 'stop', 'id': 1}");
    while (!waiting(&m)) {
        /* Those that come before the disk is held hang with the other */
        g_assert_cmpuint(n, <, ARRAY_SIZE(w));
        w[n] = (VbcReq) {
            .type = n % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_WRITE_ZEROES,
            .tag = 100 + n, .sector = 64 * (n + 1), .len = 4096, .fill = 1,
        };
        vbc_send(m.v, &w[n++]);
        g_usleep(10000);
    }
    kept = &w[n - 1];
    vbc_release(m.v);
    rsp = receive_answer(&m, 1);
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
    check_status(&m, "paused");
    vbc_expect_pending(m.v, kept);
    vbc_check_disk(m.v, kept->sector, kept->len, VBC_OLD);

    qtest_qmp_assert_success(m.v->qts, "{'execute': 'cont'}");
    for (unsigned int i = 0; i < n; i++) {
        vbc_expect(m.v, &w[i], VIRTIO_BLK_S_OK);
        vbc_check_disk(m.v, w[i].sector, w[i].len,
                       w[i].type == VIRTIO_BLK_T_OUT ? 1 : VBC_ZEROES);
    }
    check_data(&m, &r, false);
    end_monitors(&m);
    vbc_stop(m.v);
}

/* A key of the console commits all disks, with no command and no answer */
static void test_hmp_key(const void *opts)
{
    Monitors m;
    VbcReq r;

    if (!start(&m, opts, "-drive if=none,driver=null-co,size=1M,snapshot=on")) {
        return;
    }
    expect_hmp(&m, "(qemu) ");
    hang(&m, &r, true);
    vbc_watch_begin(m.v);
    tell_hmp(&m, "\001s");
    tell_hmp(&m, "info status\n");
    expect_hmp(&m, "VM status: running");
    check_status(&m, "running");
    vbc_watch_end(m.v);
    vbc_release(m.v);
    vbc_settle(m.v);
    check_data(&m, &r, true);
    end_monitors(&m);
    vbc_stop(m.v);
}

/* After a stop that nobody can refuse the VM stands still at once */
static void test_stop_inside(const void *opts)
{
    Monitors m;
    VbcReq r;

    if (!start(&m, opts, "-no-reboot -no-shutdown")) {
        return;
    }
    hang(&m, &r, true);
    vbc_watch_begin(m.v);
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(m.v->qts, "SHUTDOWN");
    qtest_qmp_eventwait(m.v->qts, "STOP");
    check_status(&m, "shutdown");
    qtest_qmp_eventwait(m.v->qts, "BLOCK_HOLD_WAIT");
    check_status(&m, "shutdown");
    vbc_watch_end(m.v);
    vbc_release(m.v);
    /* It is let in once the stop is over */
    gate_patient_qmp(m.v->qts, "{\"execute\": \"stop\"}", NULL);
    check_status(&m, "shutdown");
    vbc_check_disk(m.v, r.sector, r.len, 1);
    end_monitors(&m);
    vbc_abandon(m.v);
}

/* QEMU ends when the write has landed, and not before; the VM runs no more */

static void check_too_late(Monitors *m, const char *command)
{
    QDict *rsp;

    qtest_qmp_send_raw(m->v->qts, "%s\n", command);
    rsp = qtest_qmp_receive(m->v->qts);
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"), ==,
                    "QEMU is about to quit");
    qobject_unref(rsp);
}

static void leave(const void *opts, bool abandoned, void (*ask)(Monitors *m))
{
    Monitors m;
    VbcReq r;
    pid_t pid;

    if (!start(&m, opts, NULL)) {
        return;
    }
    hang(&m, &r, abandoned);
    pid = qtest_pid(m.v->qts);
    vbc_watch_begin(m.v);
    ask(&m);
    wait_status(&m, "shutdown");
    qtest_qmp_eventwait(m.v->qts, "BLOCK_HOLD_WAIT");
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'query-block'}");
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'system_reset'}");
    check_too_late(&m, "{\"execute\": \"cont\"}");
    check_too_late(&m, "{\"execute\": \"migrate\", \"arguments\": {"
                   "\"uri\": \"exec:cat >/dev/null\"}}");
    check_status(&m, "shutdown");
    g_assert_cmpint(kill(pid, 0), ==, 0);
    vbc_expect_exit(m.v, &r);
    end_monitors(&m);
    vbc_abandon(m.v);
}

static void ask_quit(Monitors *m)
{
    qtest_qmp_assert_success(m->v->qts, "{'execute': 'quit'}");
}

static void ask_sigterm(Monitors *m)
{
    kill(qtest_pid(m->v->qts), SIGTERM);
}

static void ask_hmp(Monitors *m)
{
    expect_hmp(m, "(qemu) ");
    tell_hmp(m, "quit\n");
    expect_hmp(m, "waiting for the storage: disk 'vblk'");
    expect_hmp(m, "(qemu) ");
}

static void test_quit_hanging(const void *opts)
{
    leave(opts, false, ask_quit);
}

static void test_quit_abandoned(const void *opts)
{
    leave(opts, true, ask_quit);
}

static void test_sigterm(const void *opts)
{
    leave(opts, true, ask_sigterm);
}

static void test_hmp_quit(const void *opts)
{
    leave(opts, true, ask_hmp);
}

/* By force it ends although the storage hangs, also when it waits already */
static void quit_force(const void *opts, void (*ask)(Monitors *m))
{
    Monitors m;
    VbcReq r;

    if (!start(&m, opts, NULL)) {
        return;
    }
    hang(&m, &r, true);
    vbc_watch_begin(m.v);
    ask_quit(&m);
    qtest_qmp_eventwait(m.v->qts, "BLOCK_HOLD_WAIT");
    qtest_set_expected_status(m.v->qts, EXIT_FAILURE);
    ask(&m);
    qtest_wait_qemu(m.v->qts);
    vbc_watch_end(m.v);
    vbc_check_disk(m.v, r.sector, r.len, VBC_OLD);
    end_monitors(&m);
    vbc_abandon(m.v);
}

static void ask_force(Monitors *m)
{
    qtest_qmp_assert_success(m->v->qts, "{'execute': 'x-quit-force'}");
}

static void ask_hmp_force(Monitors *m)
{
    expect_hmp(m, "(qemu) ");
    tell_hmp(m, "quit -f\n");
}

static void test_quit_force(const void *opts)
{
    quit_force(opts, ask_force);
}

static void test_hmp_quit_force(const void *opts)
{
    quit_force(opts, ask_hmp_force);
}

/* Without anything that hangs nothing waits */
static void test_quit_idle(const void *opts)
{
    Monitors m;

    if (!start(&m, opts, NULL)) {
        return;
    }
    vbc_write(m.v, 8, 4096, 1);
    ask_quit(&m);
    qtest_wait_qemu(m.v->qts);
    vbc_check_disk(m.v, 8, 4096, 1);
    end_monitors(&m);
    vbc_abandon(m.v);
}

/* Returns: of the one job, to be freed; or NULL if there is none */
static char *job_status(Monitors *m)
{
    QDict *ret = qtest_qmp(m->v->qts, "{'execute': 'query-jobs'}");
    QList *jobs = qdict_get_qlist(ret, "return");
    char *status = NULL;

    if (!qlist_empty(jobs)) {
        status = g_strdup(qdict_get_str(qobject_to(QDict, qlist_peek(jobs)),
                                        "status"));
    }
    qobject_unref(ret);
    return status;
}

static bool job_is_there(Monitors *m)
{
    g_autofree char *status = job_status(m);

    return status;
}

/* @disk is of a node src, the source of a job; another disk is the one held */
static bool start_with_source(Monitors *m, const void *opts, const char *disk)
{
    bool threads = ((const VbcOptions *)opts)->iothreads;
    g_autofree char *args = g_strdup_printf(
        "%s -device virtio-blk-pci,id=other,addr=1e,drive=src%s", disk,
        threads ? ",iothread=io0" : "");

    return start(m, opts, args);
}

/*
 * A job between other disks is done while this one hangs; what drains its nodes
 * meanwhile does not wait
 */
static void test_job_ends(const void *opts)
{
    Monitors m;
    VbcReq r;

    /* Data, unlike zeroes, is copied at the speed given */
    if (!start_with_source(&m, opts,
                           " -blockdev null-co,node-name=dst,size=67108864"
                           " -blockdev null-co,node-name=src,size=67108864"
                           ",read-zeroes=off")) {
        return;
    }
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'blockdev-backup',"
                             " 'arguments': {'job-id': 'job', 'device': 'src',"
                             " 'target': 'dst', 'sync': 'full', 'speed': 1}}");
    hang(&m, &r, true);
    vbc_watch_begin(m.v);
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'block-job-set-speed',"
                             " 'arguments': {'device': 'job', 'speed': 0}}");
    qtest_qmp_eventwait(m.v->qts, "BLOCK_HOLD_WAIT");
    check_status(&m, "running");
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(m.v->qts, "RESET");
    g_assert_true(job_is_there(&m));
    vbc_watch_end(m.v);
    vbc_release(m.v);
    qtest_qmp_eventwait(m.v->qts, "BLOCK_JOB_COMPLETED");
    check_status(&m, "running");
    vbc_check_disk(m.v, r.sector, r.len, 1);
    end_monitors(&m);
    vbc_abandon(m.v);
}

/* What qemu-io has to say goes to QEMU's standard output, errors come here */
static void write_other(Monitors *m, const char *where)
{
    g_autofree char *says = qtest_hmp(m->v->qts, "qemu-io -d "
                                      "/machine/peripheral/other/virtio-backend"
                                      " \"write -q %s 4k\"", where);

    g_assert_cmpstr(says, ==, "");
}

/*
 * A disk that was prepared can be plugged in while another one hangs: it is a
 * part of the graph already.  One that is only a node is not.
 */
static void test_prepared(const void *opts)
{
    bool threads = ((const VbcOptions *)opts)->iothreads;
    g_autofree char *command = g_strdup_printf(
        "{\"execute\": \"device_add\", \"arguments\": {"
        "\"driver\": \"virtio-blk-pci\", \"id\": \"other\","
        " \"addr\": \"1e\", \"drive\": \"spare\", \"cancel\": \"on\"%s}}",
        threads ? ", \"iothread\": \"io0\"" : "");
    const Row row = { .command = command };
    Monitors m;
    VbcReq r;

    if (!start(&m, opts, "-drive if=none,id=spare,driver=null-co"
                         ",read-zeroes=on,size=1M")) {
        return;
    }
    hang(&m, &r, true);
    vbc_watch_begin(m.v);
    check_row(&m, &row, WORKS);
    write_other(&m, "128k");
    check_row(&m, &row, REFUSED);
    vbc_watch_end(m.v);
    vbc_release(m.v);
    vbc_settle(m.v);
    check_data(&m, &r, true);
    end_monitors(&m);
    vbc_stop(m.v);
}

/*
 * A mirror whose source is not the disk that hangs comes to its end meanwhile:
 * the source works on, and is not drained before the storage answers
 */

/* What the mirror does to the target's first sectors fails */
#define MIRROR_DISK                                                         \
    " -blockdev driver=null-co,node-name=src,size=1048576,read-zeroes=on"   \
    " -blockdev driver=null-co,node-name=null,size=1048576,read-zeroes=on"  \
    " -blockdev driver=blkdebug,node-name=dst,image=null"                   \
    ",inject-error.0.event=none,inject-error.0.sector=8"

static void mirror_begin(Monitors *m)
{
    qtest_qmp_assert_success(m->v->qts, "{'execute': 'blockdev-mirror',"
                             " 'arguments': {'job-id': 'job', 'device': 'src',"
                             " 'target': 'dst', 'sync': 'none'}}");
    qtest_qmp_eventwait(m->v->qts, "BLOCK_JOB_READY");
    qtest_qmp_assert_success(m->v->qts, "{'execute': 'job-pause',"
                             " 'arguments': {'id': 'job'}}");
    wait_for(m, job_status, "standby");
}

static void mirror_end(Monitors *m, VbcReq *r, bool fails)
{
    QDict *event;

    qtest_qmp_eventwait(m->v->qts, "BLOCK_HOLD_WAIT");
    write_other(m, "128k");
    qtest_qmp_assert_success(m->v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(m->v->qts, "RESET");
    write_other(m, "192k");
    g_assert_true(job_is_there(m));
    vbc_watch_end(m->v);

    vbc_release(m->v);
    event = qtest_qmp_eventwait_ref(m->v->qts, "BLOCK_JOB_COMPLETED");
    g_assert_cmpint(qdict_haskey(qdict_get_qdict(event, "data"), "error"), ==,
                    fails);
    qobject_unref(event);
    write_other(m, "256k");
    vbc_check_disk(m->v, r->sector, r->len, 1);
    end_monitors(m);
    vbc_abandon(m->v);
}

static void test_mirror_ends(const void *opts)
{
    Monitors m;
    VbcReq r;

    if (!start_with_source(&m, opts, MIRROR_DISK)) {
        return;
    }
    mirror_begin(&m);
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'job-complete',"
                             " 'arguments': {'id': 'job'}}");
    hang(&m, &r, true);
    vbc_watch_begin(m.v);
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'job-resume',"
                             " 'arguments': {'id': 'job'}}");
    mirror_end(&m, &r, false);
}

static void test_mirror_fails(const void *opts)
{
    Monitors m;
    VbcReq r;

    if (!start_with_source(&m, opts, MIRROR_DISK)) {
        return;
    }
    mirror_begin(&m);
    hang(&m, &r, true);
    vbc_watch_begin(m.v);
    write_other(&m, "4k");
    qtest_qmp_assert_success(m.v->qts, "{'execute': 'job-resume',"
                             " 'arguments': {'id': 'job'}}");
    qtest_qmp_eventwait(m.v->qts, "BLOCK_JOB_ERROR");
    mirror_end(&m, &r, true);
}

void hold_add_test(const char *path, void (*fn)(const void *opts), bool loops)
{
    static const VbcOptions main_loop, iothread = { .iothreads = 1 };
    g_autofree char *a = g_strdup_printf("/blk-hold/%s/main-loop", path);
    g_autofree char *b = g_strdup_printf("/blk-hold/%s/iothread", path);

    qtest_add_data_func(a, &main_loop, fn);
    if (loops) {
        qtest_add_data_func(b, &iothread, fn);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    hold_add_test("commands/hanging", test_commands_hanging, true);
    hold_add_test("commands/abandoned", test_commands_abandoned, true);
    hold_add_test("others-go-on", test_others_go_on, true);
    hold_add_test("hmp/hanging", test_hmp_hanging, false);
    hold_add_test("hmp/abandoned", test_hmp_abandoned, false);
    hold_add_test("hmp/key", test_hmp_key, false);
    hold_add_test("stop/inside", test_stop_inside, true);
    hold_add_test("stop/keeps", test_stop_keeps, true);
    hold_add_test("quit/hanging", test_quit_hanging, true);
    hold_add_test("quit/abandoned", test_quit_abandoned, true);
    hold_add_test("quit/sigterm", test_sigterm, false);
    hold_add_test("quit/hmp", test_hmp_quit, false);
    hold_add_test("quit/force", test_quit_force, true);
    hold_add_test("quit/hmp-force", test_hmp_quit_force, false);
    hold_add_test("quit/idle", test_quit_idle, false);
    hold_add_test("job/ends", test_job_ends, true);
    hold_add_test("job/mirror-ends", test_mirror_ends, true);
    hold_add_test("prepared", test_prepared, true);
    hold_add_test("job/mirror-fails", test_mirror_fails, true);
    hold_add_inside_tests();
    hold_add_job_tests();
    hold_add_schema_tests();
    return g_test_run();
}
