/*
 * Tests of what happens by itself, and what is asked, while storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A stop of the VM that nobody can refuse, and "cont" before it has come about;
 * the reset of another device; and queries about images that cannot be read.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "libqos/virtio-pci.h"
#include "blk-hold-test.h"
#include "gate-patience.h"
#include "hold-fs.h"
#include "virtio-blk-cancel-lib.h"

#define WATCHDOG_ENABLE     0x443   /* port of ib700: starts the timer */
#define WATCHDOG_2_S        0xe
#define WATCHDOG_NS         3000000000
#define HBA_SLOT            0x1d
#define FILE_SIZE           (1024 * 1024)

static bool is_status(QTestState *qts, const char *want)
{
    QDict *ret = qtest_qmp_assert_success_ref(qts,
                                              "{'execute': 'query-status'}");
    bool is = g_str_equal(qdict_get_str(ret, "status"), want);

    qobject_unref(ret);
    return is;
}

/* A write is abandoned, and then the watchdog does what @args say */
static Vbc *bark(const void *base, const char *args, VbcReq *r)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vbc *v;

    opts.server = true;
    opts.args = args;
    v = vbc_start(&opts);
    if (!v) {
        return NULL;
    }
    vbc_hang_write(v, r);
    vbc_cancel_req(v, r);
    vbc_watch_begin(v);
    qtest_outb(v->qts, WATCHDOG_ENABLE, WATCHDOG_2_S);
    qtest_clock_step(v->qts, WATCHDOG_NS);
    qtest_qmp_eventwait(v->qts, "WATCHDOG");
    return v;
}

static Vbc *stop_by_watchdog(const void *base, VbcReq *r)
{
    Vbc *v = bark(base, HOLD_TIMEOUT " -device ib700 -action watchdog=pause",
                  r);

    if (v) {
        qtest_qmp_eventwait(v->qts, "STOP");
        g_assert_true(is_status(v->qts, "watchdog"));
        qtest_qmp_eventwait(v->qts, "BLOCK_HOLD_WAIT");
        g_assert_true(is_status(v->qts, "watchdog"));
    }
    return v;
}

/* "stop" is let in once the stop that waited has come about */
static void wait_idle_hold(Vbc *v)
{
    gate_patient_qmp(v->qts, "{\"execute\": \"stop\"}", NULL);
}

static void end(Vbc *v, VbcReq *r)
{
    vbc_check_disk(v, r->sector, r->len, 1);
    vbc_write(v, r->sector, r->len, 2);
    vbc_check_disk(v, r->sector, r->len, 2);
    vbc_stop(v);
}

/* The VM stands still at once; the devices stop when the write has landed */
static void test_watchdog(const void *base)
{
    VbcReq r;
    Vbc *v = stop_by_watchdog(base, &r);

    if (!v) {
        return;
    }
    vbc_watch_end(v);
    vbc_release(v);
    wait_idle_hold(v);
    g_assert_true(is_status(v->qts, "watchdog"));
    vbc_check_disk(v, r.sector, r.len, 1);
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    end(v, &r);
}

/* The user has seen to it already: it goes on at once */
static void test_cont(const void *base)
{
    VbcReq r;
    Vbc *v = stop_by_watchdog(base, &r);

    if (!v) {
        return;
    }
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(v->qts, "RESUME");
    g_assert_true(is_status(v->qts, "running"));
    vbc_watch_end(v);
    vbc_release(v);
    /* What has failed is begun again */
    qtest_qmp_eventwait(v->qts, "STOP");
    qtest_qmp_eventwait(v->qts, "RESUME");
    g_assert_true(is_status(v->qts, "running"));
    end(v, &r);
}

/* A second reason changes nothing, nor is it left for later */
static void test_first_reason(const void *base)
{
    VbcReq r;
    Vbc *v = bark(base, HOLD_TIMEOUT " -device ib700 -action watchdog=pause"
                  " -action reboot=shutdown,shutdown=pause", &r);

    if (!v) {
        return;
    }
    qtest_qmp_eventwait(v->qts, "STOP");
    qtest_qmp_assert_success(v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(v->qts, "SHUTDOWN");
    g_assert_true(is_status(v->qts, "watchdog"));
    vbc_watch_end(v);
    vbc_release(v);
    wait_idle_hold(v);
    g_assert_true(is_status(v->qts, "watchdog"));
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    g_assert_true(is_status(v->qts, "running"));
    end(v, &r);
}

/*
 * Storage that is slow, and works: commands take their time, and none is
 * refused, neither with nor without cancelling
 */

#define SLOW_DISK "driver=null-co,size=4194304,latency-ns=1500000000"

static void slow(const void *base, bool stock)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[3][8];
    Vbc *v;

    opts.node = true;
    opts.stock = stock;
    opts.drive_all = SLOW_DISK;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        for (unsigned int j = 0; j < ARRAY_SIZE(r[i]); j++) {
            r[i][j] = (VbcReq) {
                .type = VIRTIO_BLK_T_OUT, .tag = 8 * i + j, .sector = 64 * j,
                .len = 4096, .fill = 1,
            };
        }
        vbc_send_all(v, r[i], ARRAY_SIZE(r[i]));
        switch (i) {
        case 0:
            qtest_qmp_assert_success(v->qts, "{'execute': 'stop'}");
            qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
            break;
        case 1:
            qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-add',"
                                     " 'arguments': {'driver': 'raw',"
                                     " 'node-name': 'other', 'file': {"
                                     "'driver': 'null-co'}}}");
            break;
        case 2:
            qtest_qmp_assert_success(v->qts, "{'execute': 'blockdev-del',"
                                     " 'arguments': {'node-name': 'other'}}");
            break;
        }
        for (unsigned int j = 0; j < ARRAY_SIZE(r[i]); j++) {
            vbc_expect(v, &r[i][j], VIRTIO_BLK_S_OK);
        }
    }
    vbc_abandon(v);
}

static void test_slow(const void *base)
{
    slow(base, false);
}

static void test_slow_stock(const void *base)
{
    slow(base, true);
}

/* It ends QEMU when the write has landed */
static void test_poweroff(const void *base)
{
    VbcReq r;
    Vbc *v = bark(base, "-device ib700 -action watchdog=poweroff", &r);

    if (!v) {
        return;
    }
    while (!is_status(v->qts, "shutdown")) {
        g_usleep(1000);
    }
    vbc_expect_exit(v, &r);
    vbc_abandon(v);
}

/*
 * The reset of an HBA none of whose disks cancels waits for these, and not for
 * the disk that hangs
 */
static void test_other_hba(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    g_autofree char *args = g_strdup_printf(
        "-device virtio-scsi-pci,id=hba,addr=%x.0%s -device scsi-cd,bus=hba.0",
        HBA_SLOT, opts.iothreads ? ",iothread=io0" : "");
    QVirtioPCIDevice *hba;
    VbcReq r;
    Vbc *v;

    opts.server = true;
    opts.args = args;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    hba = virtio_pci_new(v->bus, &(QPCIAddress) {
        .devfn = QPCI_DEVFN(HBA_SLOT, 0),
    });
    g_assert_nonnull(hba);
    qvirtio_pci_device_enable(hba);
    qvirtio_start_device(&hba->vdev);
    qvirtio_set_driver_ok(&hba->vdev);

    vbc_hang_write(v, &r);
    vbc_cancel_req(v, &r);
    vbc_watch_begin(v);
    qvirtio_reset(&hba->vdev);
    qvirtio_start_device(&hba->vdev);
    qvirtio_set_driver_ok(&hba->vdev);
    qtest_qmp_assert_success(v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(v->qts, "RESET");
    vbc_watch_end(v);
    vbc_check_disk(v, r.sector, r.len, VBC_OLD);
    qvirtio_pci_destructor(&hba->obj);
    g_free(hba);
    vbc_release(v);
    vbc_abandon(v);
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
                      " -device virtio-blk-pci,drive=disk,cancel=reset",
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

/* Returns: of the one disk, what its format says; a reference */
static QDict *format_of_disk(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-block'}");
    QDict *disk = qobject_to(QDict,
                             qlist_peek(qdict_get_qlist(rsp, "return")));
    QDict *image = qdict_get_qdict(qdict_get_qdict(disk, "inserted"), "image");
    QDict *format = qdict_get_qdict(image, "format-specific");
    QDict *data = qobject_ref(qdict_get_qdict(format, "data"));

    qobject_unref(rsp);
    return data;
}

/* Persistent bitmaps are in the image, and shown without reading it */
static void check_bitmap(QTestState *qts)
{
    QDict *format = format_of_disk(qts);
    QList *bitmaps = qdict_get_qlist(format, "bitmaps");
    QDict *bitmap = qobject_to(QDict, qlist_peek(bitmaps));
    QListEntry *entry;
    unsigned int flags = 0;

    g_assert_cmpuint(qlist_size(bitmaps), ==, 1);
    g_assert_cmpstr(qdict_get_str(bitmap, "name"), ==, "map");
    g_assert_cmpint(qdict_get_int(bitmap, "granularity"), ==, 65536);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(bitmap, "flags"), entry) {
        const char *flag = qstring_get_str(qobject_to(QString,
                                                      qlist_entry_obj(entry)));

        flags += g_str_equal(flag, "auto") || g_str_equal(flag, "in-use");
    }
    g_assert_cmpuint(flags, ==, 2);
    qobject_unref(format);
}

static void test_query_bitmap(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    g_autofree char *dir = g_dir_make_tmp("blk-hold-XXXXXX", NULL);
    g_autofree char *image = g_strdup_printf("%s/disk", dir);
    VbcReq r;
    Vbc *v;

    if (!have_qemu_img()) {
        g_test_skip("needs qemu-img");
        return;
    }
    vbc_create_qcow2(image, 2 * VBC_DISK_SIZE);
    g_assert_cmpint(vbc_qemu_img(dir, "bitmap --add @disk map"), ==, 0);
    opts.image = image;
    opts.format = "qcow2";
    opts.server = true;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    check_bitmap(v->qts);
    vbc_hang_write(v, &r);
    vbc_watch_begin(v);
    check_bitmap(v->qts);
    qtest_qmp_assert_success(v->qts, "{'execute': 'query-named-block-nodes'}");
    g_free(qtest_hmp(v->qts, "info block -v"));
    vbc_expect_pending(v, &r);
    vbc_watch_end(v);
    vbc_release(v);
    vbc_expect(v, &r, VIRTIO_BLK_S_OK);
    vbc_stop(v);
    unlink(image);
    rmdir(dir);
}

void hold_add_inside_tests(void)
{
    hold_add_test("stop/poweroff", test_poweroff, true);
    hold_add_test("reset/other-hba", test_other_hba, true);
    hold_add_test("query/bitmap", test_query_bitmap, false);
    hold_add_test("stop/watchdog", test_watchdog, true);
    hold_add_test("stop/cont", test_cont, true);
    hold_add_test("stop/first-reason", test_first_reason, true);
    hold_add_test("slow/cancel", test_slow, true);
    hold_add_test("slow/stock", test_slow_stock, false);
    hold_add_test("query/file", test_query_file, false);
}
