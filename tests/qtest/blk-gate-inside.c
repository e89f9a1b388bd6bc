/*
 * Tests of what happens by itself, and what is asked, while storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A stop of the VM that nobody can refuse, and "cont" before it has come about;
 * and a query about an image on a file system that does not answer.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "blk-gate-test.h"
#include "hold-fs.h"
#include "virtio-blk-cancel-lib.h"

#define WATCHDOG_ENABLE     0x443   /* port of ib700: starts the timer */
#define WATCHDOG_2_S        0xe
#define WATCHDOG_NS         3000000000
#define FILE_SIZE           (1024 * 1024)

static bool is_status(QTestState *qts, const char *want)
{
    QDict *ret = qtest_qmp_assert_success_ref(qts,
                                              "{'execute': 'query-status'}");
    bool is = g_str_equal(qdict_get_str(ret, "status"), want);

    qobject_unref(ret);
    return is;
}

/* A write is detached, and then the watchdog wants to stop the VM */
static Vbc *stop_by_watchdog(const void *base, VbcReq *r)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vbc *v;

    opts.server = true;
    opts.args = "-device ib700 -action watchdog=pause";
    v = vbc_start(&opts);
    if (!v) {
        return NULL;
    }
    *r = (VbcReq) {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 8, .len = 4096,
        .fill = 1,
    };
    vbc_hold(v);
    vbc_send_all(v, r, 1);
    vbc_cancel_req(v, r);
    vbc_watch_begin(v);
    qtest_outb(v->qts, WATCHDOG_ENABLE, WATCHDOG_2_S);
    qtest_clock_step(v->qts, WATCHDOG_NS);
    qtest_qmp_eventwait(v->qts, "WATCHDOG");
    qtest_qmp_eventwait(v->qts, "BLOCK_GATE_WAIT");
    g_assert_true(is_status(v->qts, "running"));
    return v;
}

static void end(Vbc *v, VbcReq *r)
{
    vbc_check_disk(v, r->sector, r->len, 1);
    vbc_write(v, r->sector, r->len, 2);
    vbc_check_disk(v, r->sector, r->len, 2);
    vbc_stop(v);
}

/* It stops when the write has landed */
static void test_watchdog(const void *base)
{
    VbcReq r;
    Vbc *v = stop_by_watchdog(base, &r);

    if (!v) {
        return;
    }
    vbc_watch_end(v);
    vbc_release(v);
    qtest_qmp_eventwait(v->qts, "STOP");
    g_assert_true(is_status(v->qts, "watchdog"));
    vbc_check_disk(v, r.sector, r.len, 1);
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    end(v, &r);
}

/* The user has seen to it already, and would not know of a later stop */
static void test_cont(const void *base)
{
    VbcReq r;
    Vbc *v = stop_by_watchdog(base, &r);

    if (!v) {
        return;
    }
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    g_assert_true(is_status(v->qts, "running"));
    vbc_watch_end(v);
    vbc_release(v);
    qtest_qmp_eventwait(v->qts, "STOP");
    qtest_qmp_eventwait(v->qts, "RESUME");
    g_assert_true(is_status(v->qts, "running"));
    end(v, &r);
}

/* Returns: whether query-block knows how large the image is on the host */
static bool size_is_known(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-block'}");
    QDict *disk = qobject_to(QDict,
                             qlist_peek(qdict_get_qlist(rsp, "return")));
    QDict *image = qdict_get_qdict(qdict_get_qdict(disk, "inserted"), "image");
    bool known = qdict_haskey(image, "actual-size");

    qobject_unref(rsp);
    return known;
}

static void wait_size(QTestState *qts, bool known)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    while (size_is_known(qts) != known) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
}

/* Queries answer although the file system does not, without what it knows */
static void test_query_file(const void *opts)
{
    HoldFs *fs = hold_fs_new(FILE_SIZE);
    QTestState *qts;

    if (!fs) {
        return;
    }
    qts = qtest_initf("-nodefaults"
                      " -blockdev file,node-name=disk,filename=%s,locking=off"
                      " -device virtio-blk-pci,drive=disk,detach=on",
                      hold_fs_path(fs));
    g_assert_true(size_is_known(qts));
    hold_fs_stop(fs);
    /* Until the kernel asks again, and hangs */
    wait_size(qts, false);
    for (unsigned int i = 0; i < 20; i++) {
        g_assert_false(size_is_known(qts));
    }
    qtest_qmp_assert_success(qts, "{'execute': 'query-named-block-nodes'}");
    qtest_qmp_assert_success(qts, "{'execute': 'query-blockstats'}");
    hold_fs_cont(fs);
    wait_size(qts, true);
    qtest_quit(qts);
    hold_fs_free(fs);
}

void gate_add_inside_tests(void)
{
    gate_add_test("stop/watchdog", test_watchdog, true);
    gate_add_test("stop/cont", test_cont, true);
    gate_add_test("query/file", test_query_file, false);
}
