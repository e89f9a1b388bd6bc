/*
 * Tests of scsi-hd's cancel=on: unplug
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A disk, or its HBA, is unplugged while the storage hangs.  Nothing waits for
 * that, and the image stays in use until what was abandoned has landed.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "gate-patience.h"
#include "virtio-scsi-cancel-lib.h"

/* The other disk stays, and gets what it has waited for */
static void test_disk(const void *base)
{
    static const char other[] = "{\"execute\": \"blockdev-add\","
        " \"arguments\": {\"driver\": \"raw\", \"node-name\": \"other\","
        " \"file\": {\"driver\": \"null-co\"}}}";
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[VSD_HANGING];
    QDict *rsp;

    if (!s) {
        return;
    }
    vsd_hang(s, c);
    vbc_watch_begin(s->v);
    qtest_qmp_device_del(s->v->qts, "lun1");
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        if (c[i].lun == 1) {
            vsd_expect_response(s, &c[i], VSD_S_ABORTED);
            vbc_reuse(s->v, &c[i].r);
        } else {
            vbc_expect_pending(s->v, &c[i].r);
        }
    }
    g_assert_true(gate_has_orphan(s->v->qts));
    qtest_qmp_send_raw(s->v->qts, "%s\n", other);
    rsp = qtest_qmp_receive(s->v->qts);
    g_assert_nonnull(gate_says(rsp));
    vbc_watch_end(s->v);

    vbc_release(s->v);
    gate_wait_no_orphan(s->v->qts);
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        if (c[i].lun == 1) {
            vbc_check_reused(s->v, &c[i].r);
        } else {
            vsd_expect(s, &c[i], VSD_GOOD);
        }
    }
    gate_patient_qmp(s->v->qts, other, rsp);
    vsd_stop(s);
}

/* With the HBA go its disks; its IOThreads live on, and only their names go */
static void test_hba(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[VSD_HANGING];

    if (!s) {
        return;
    }
    vsd_hang(s, c);
    vbc_watch_begin(s->v);
    qpci_unplug_acpi_device_test(s->v->qts, "hba", VBC_SLOT);
    /* Besides it go the device behind its transport, and the disks */
    for (unsigned int i = 0; i < 1 + VSD_LUNS; i++) {
        qtest_qmp_eventwait(s->v->qts, "DEVICE_DELETED");
    }
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        vbc_reuse(s->v, &c[i].r);
    }
    g_assert_true(gate_has_orphan(s->v->qts));
    for (unsigned int i = 0; i < s->v->opts.iothreads; i++) {
        g_autofree char *id = g_strdup_printf("io%u", i);

        qtest_qmp_assert_success(s->v->qts, "{'execute': 'object-del',"
                                 " 'arguments': {'id': %s}}", id);
    }
    vbc_watch_end(s->v);

    vbc_release(s->v);
    gate_wait_no_orphan(s->v->qts);
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        vbc_check_reused(s->v, &c[i].r);
    }
    vsd_abandon(s);
}

/* An HBA whose disks have gone is reset while those are still waited for */
static void test_reset_after(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[VSD_HANGING];

    if (!s) {
        return;
    }
    vsd_hang(s, c);
    vbc_watch_begin(s->v);
    qtest_qmp_device_del(s->v->qts, "lun0");
    qtest_qmp_device_del(s->v->qts, "lun1");
    vbc_restart_device(s->v);
    g_assert_true(gate_has_orphan(s->v->qts));
    vbc_watch_end(s->v);
    vbc_release(s->v);
    gate_wait_no_orphan(s->v->qts);
    vsd_abandon(s);
}

void vsd_add_unplug_tests(void)
{
    vsd_add_test("unplug/disk", test_disk);
    vsd_add_test("unplug/hba", test_hba);
    vsd_add_test("unplug/reset-after", test_reset_after);
}
