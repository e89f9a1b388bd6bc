/*
 * Tests of jobs whose target never answers again
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A write of the guest to a healthy disk waits until a job has copied what was
 * there, or written it to the target as well; the target's server has died, and
 * the connection waits for another.  Cancelling the job is the way out.
 */

#include "qemu/osdep.h"
#include "libqmp.h"
#include "qobject/qdict.h"
#include "blk-hold-test.h"
#include "gate-patience.h"
#include "virtio-blk-cancel-lib.h"

#define HEALTHY_DISK "driver=null-co,read-zeroes=on,size=4194304"

/* The server, which only the job's target is on */
static Vbc *start(const void *base, bool stock)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vbc *v;

    opts.server = true;
    opts.node = true;
    opts.stock = stock;
    opts.drive_all = HEALTHY_DISK;
    opts.args = HOLD_TIMEOUT;
    v = vbc_start(&opts);
    if (v) {
        qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-add',"
                                 " 'arguments': {'driver': 'nbd',"
                                 " 'node-name': 'target', 'export': 'disk',"
                                 " 'reconnect-delay': 3600, 'server': {"
                                 "'type': 'unix', 'path': %s}}}", v->socket);
    }
    return v;
}

static void kill_server(Vbc *v)
{
    g_assert_cmpint(kill(v->server, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(v->server, NULL, 0), ==, v->server);
    v->server = 0;
    unlink(v->socket);
    g_clear_pointer(&v->socket, g_free);
}

static void must_accept(Vbc *v, const char *command)
{
    g_autofree char *json = g_strdelimit(g_strdup(command), "'", '"');
    QDict *rsp;

    qtest_qmp_send_raw(v->qts, "%s\n", json);
    rsp = qtest_qmp_receive(v->qts);
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

/* What hangs is not the disk, and is called by its name */
static void check_blames_target(Vbc *v)
{
    QDict *rsp = qtest_qmp(v->qts, "{'execute': 'stop'}");

    g_assert_nonnull(gate_says(rsp));
    g_assert_nonnull(strstr(gate_says(rsp), "node 'target' does not answer"));
    qobject_unref(rsp);
}

/* The write that comes before and after @cancel needs no storage that hangs */
static void cancel_job(Vbc *v, const char *cancel)
{
    VbcReq r = {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 64, .len = 4096,
        .fill = 1,
    };

    kill_server(v);
    vbc_watch_begin(v);
    vbc_send_all(v, &r, 1);
    vbc_expect_pending(v, &r);
    if (!v->opts.stock) {
        check_blames_target(v);
    }
    must_accept(v, cancel);
    /* A backup fails the write whose old data it could not save */
    vbc_wait(v, &r);
    vbc_write(v, 64, 4096, 2);
    qtest_qmp_eventwait(v->qts, "BLOCK_JOB_CANCELLED");
    vbc_watch_end(v);
    qtest_qmp_assert_success(v->qts, "{'execute': 'stop'}");
    vbc_abandon(v);
}

static void backup(const void *base, bool stock, const char *cancel)
{
    Vbc *v = start(base, stock);

    if (v) {
        qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-backup',"
                                 " 'arguments': {'job-id': 'job',"
                                 " 'device': 'drv', 'target': 'target',"
                                 " 'sync': 'none'}}");
        cancel_job(v, cancel);
    }
}

#define JOB_CANCEL "{'execute': 'job-cancel', 'arguments': {'id': 'job'}}"
#define BLOCK_JOB_CANCEL "{'execute': 'block-job-cancel', 'arguments': {" \
                         "'device': 'job', 'force': true}}"
#define HMP_CANCEL "{'execute': 'human-monitor-command', 'arguments': {" \
                   "'command-line': 'block_job_cancel -f job'}}"

static void test_backup(const void *base)
{
    backup(base, false, JOB_CANCEL);
}

static void test_backup_block(const void *base)
{
    backup(base, false, BLOCK_JOB_CANCEL);
}

static void test_backup_hmp(const void *base)
{
    backup(base, false, HMP_CANCEL);
}

static void test_backup_stock(const void *base)
{
    backup(base, true, JOB_CANCEL);
}

static void test_mirror(const void *base)
{
    Vbc *v = start(base, false);

    if (v) {
        qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-mirror',"
                                 " 'arguments': {'job-id': 'job',"
                                 " 'device': 'drv', 'target': 'target',"
                                 " 'copy-mode': 'write-blocking',"
                                 " 'sync': 'full'}}");
        qtest_qmp_eventwait(v->qts, "BLOCK_JOB_READY");
        cancel_job(v, BLOCK_JOB_CANCEL);
    }
}

/*
 * A job that is done already, and whose end would change the graph: what
 * hangs is another disk, so cancelling is accepted, and comes later
 */
static void test_done(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r;
    Vbc *v;

    opts.server = true;
    opts.args = HOLD_TIMEOUT
                " -blockdev null-co,node-name=src,size=1048576,read-zeroes=on"
                " -blockdev null-co,node-name=dst,size=1048576,read-zeroes=on";
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-backup',"
                             " 'arguments': {'job-id': 'job', 'device': 'src',"
                             " 'target': 'dst', 'sync': 'full',"
                             " 'auto-finalize': false}}");
    qtest_qmp_eventwait(v->qts, "BLOCK_JOB_PENDING");
    vbc_hang_write(v, &r);
    vbc_cancel_req(v, &r);
    vbc_watch_begin(v);
    qtest_qmp_assert_success(v->qts, JOB_CANCEL);
    qtest_qmp_assert_success(v->qts, "{'execute': 'query-jobs'}");
    vbc_watch_end(v);
    vbc_release(v);
    qtest_qmp_eventwait(v->qts, "BLOCK_JOB_CANCELLED");
    vbc_abandon(v);
}

void hold_add_job_tests(void)
{
    hold_add_test("job/target-dies/backup", test_backup, true);
    hold_add_test("job/target-dies/block-job-cancel", test_backup_block, false);
    hold_add_test("job/target-dies/hmp", test_backup_hmp, false);
    hold_add_test("job/target-dies/stock", test_backup_stock, false);
    hold_add_test("job/target-dies/mirror", test_mirror, true);
    hold_add_test("job/cancelled-when-done", test_done, true);
}
