/*
 * Tests of scsi-hd's detach=on: unplug
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A disk, or its HBA, is unplugged while the storage hangs.  Nothing waits for
 * that, and the image stays in use until what was detached has landed.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "gate-patience.h"
#include "virtio-scsi-detach-lib.h"

#define HANGING     12
#define LEN         4096

/* Hold the storage and send commands to both disks, in their halves */
static void hang_all(Vsd *s, VsdCmd *c)
{
    vbc_hold(s->v);
    for (unsigned int i = 0; i < HANGING; i++) {
        unsigned int lun = i % VSD_LUNS;
        uint64_t sector = lun * VSD_HALF + i / 4 * 16;

        c[i] = i % 4 < 2 ? vsd_write(lun, i, sector, LEN, 1)
                         : vsd_read(lun, i, sector, LEN);
        c[i].r.queue = VSD_FIRST + i % (s->v->num_queues - VSD_FIRST);
        vsd_send(s, &c[i]);
    }
    vsd_sync(s);
}

/* The guest goes on with the other disk; the thread lives on without a name */
static void test_disk(const void *base)
{
    static const char other[] = "{\"execute\": \"blockdev-add\","
        " \"arguments\": {\"driver\": \"null-co\", \"node-name\": \"null\"}}";
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[HANGING];
    QDict *rsp;

    if (!s) {
        return;
    }
    hang_all(s, c);
    vbc_watch_begin(s->v);
    qtest_qmp_device_del(s->v->qts, "lun1");
    for (unsigned int i = 0; i < HANGING; i++) {
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
    for (unsigned int i = 0; i < HANGING; i++) {
        if (c[i].lun == 1) {
            vbc_check_reused(s->v, &c[i].r);
        } else {
            vsd_expect(s, &c[i], VSD_GOOD);
        }
    }
    gate_patient_qmp(s->v->qts, other, rsp);
    vsd_stop(s);
}

static void wait_deleted(Vsd *s, const char *id)
{
    bool found = false;

    while (!found) {
        QDict *event = qtest_qmp_eventwait_ref(s->v->qts, "DEVICE_DELETED");
        QDict *data = qdict_get_qdict(event, "data");

        found = !g_strcmp0(qdict_get_try_str(data, "device"), id);
        qobject_unref(event);
    }
}

/* With the HBA go its disks, and the IOThreads that served it can go as well */
static void test_hba(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[HANGING];

    if (!s) {
        return;
    }
    hang_all(s, c);
    vbc_watch_begin(s->v);
    qtest_qmp_device_del_send(s->v->qts, "hba");
    qtest_outl(s->v->qts, 0xae08, 1 << VBC_SLOT);   /* ACPI: eject it */
    wait_deleted(s, "hba");
    for (unsigned int i = 0; i < HANGING; i++) {
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
    for (unsigned int i = 0; i < HANGING; i++) {
        vbc_check_reused(s->v, &c[i].r);
    }
    vsd_abandon(s);
}

/* An HBA whose disks have gone is reset while those are still waited for */
static void test_reset_after(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[HANGING];

    if (!s) {
        return;
    }
    hang_all(s, c);
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
