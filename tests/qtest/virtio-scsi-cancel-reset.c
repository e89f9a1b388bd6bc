/*
 * Tests of scsi-hd's cancel=on: resets
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The HBA is reset while its storage hangs, which is let go only after the
 * reset is over; and what cancel=on does for another HBA.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qdict.h"
#include "standard-headers/linux/pci_regs.h"
#include "virtio-scsi-cancel-lib.h"

#define LEN         4096

/* Ways to reset the HBA; each starts it again */

static void reset_status(Vsd *s)
{
    vbc_restart_device(s->v);
}

static void reset_system(Vsd *s)
{
    qtest_qmp_assert_success(s->v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(s->v->qts, "RESET");
    vbc_find_device(s->v);
    vbc_start_device(s->v);
}

/* Without bus mastering the device stops, as a guest's PCI layer does it */
static void reset_master(Vsd *s)
{
    qpci_config_writew(s->v->pci->pdev, PCI_COMMAND, PCI_COMMAND_MEMORY);
    qpci_config_writew(s->v->pci->pdev, PCI_COMMAND,
                       PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    vbc_restart_device(s->v);
}

static void check_reset(const void *base, void (*reset)(Vsd *))
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[VSD_HANGING], newer = vsd_write(1, 1, VSD_HALF, LEN, 2);

    if (!s) {
        return;
    }
    vsd_hang(s, c);

    vbc_watch_begin(s->v);
    reset(s);
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        vbc_reuse(s->v, &c[i].r);
    }
    vsd_expect_attention(s);
    vsd_sync(s);
    vbc_watch_end(s->v);
    vsd_send(s, &newer);
    vsd_sync(s);
    vbc_expect_pending(s->v, &newer.r);

    vbc_release(s->v);
    vsd_expect(s, &newer, VSD_GOOD);
    vbc_settle(s->v);
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        vbc_check_reused(s->v, &c[i].r);
    }
    vbc_check_disk(s->v, VSD_HALF, LEN, 2);
    vsd_stop(s);
}

static void test_status(const void *base)
{
    check_reset(base, reset_status);
}

static void test_system(const void *base)
{
    check_reset(base, reset_system);
}

static void test_master(const void *base)
{
    check_reset(base, reset_master);
}

/* Functions that are on their way when the reset comes, again and again */
static void test_during(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });

    if (!s) {
        return;
    }
    vbc_hold(s->v);
    vbc_watch_begin(s->v);
    for (unsigned int i = 0; i < 4; i++) {
        VsdCmd c[8];
        VsdTmf t[16] = {};

        for (unsigned int j = 0; j < ARRAY_SIZE(c); j++) {
            c[j] = vsd_write(0, j, 64 + j * 8, LEN, 1);
            c[j].r.queue = VSD_FIRST + j % (s->v->num_queues - VSD_FIRST);
            vsd_send(s, &c[j]);
        }
        for (unsigned int j = 0; j < ARRAY_SIZE(t); j++) {
            t[j].subtype = (i + j) % 6;
            t[j].tag = j;
            vsd_tmf_add(s, &t[j]);
        }
        vbc_kick(s->v, VSD_CONTROL);
        vbc_restart_device(s->v);
        for (unsigned int j = 0; j < ARRAY_SIZE(c); j++) {
            vbc_reuse(s->v, &c[j].r);
        }
        vsd_expect_attention(s);
        for (unsigned int j = 0; j < ARRAY_SIZE(c); j++) {
            vbc_check_reused(s->v, &c[j].r);
        }
    }
    vbc_watch_end(s->v);
    vsd_stop(s);
}

/* What cannot be taken back ends before the reset does */
static void check_left(const void *base, bool aborted, bool of_lun)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'cancel-budget': 4096", .args = "2>/dev/null",
    });
    VsdCmd c = vsd_write(0, 1, 64, 8192, 3);
    VsdCmd small = vsd_write(0, 2, 128, 512, 4);
    VsdTmf t = { .subtype = VSD_TMF_ABORT_TASK, .tag = 1 };

    if (!s) {
        return;
    }
    vbc_hold(s->v);
    vsd_send(s, &c);
    vsd_send(s, &small);
    vsd_sync(s);
    if (aborted) {
        vsd_tmf_send(s, &t);
        vsd_tmf(s, VSD_TMF_QUERY_TASK, 0, 1, VSD_S_FUNCTION_SUCCEEDED);
    }
    vbc_release_soon(s->v);
    if (of_lun) {
        vsd_tmf(s, VSD_TMF_LUN_RESET, 0, 0, VSD_S_OK);
        vbc_reap(s->v);
        g_assert_cmpuint(c.r.order, !=, 0);
        vsd_expect(s, &c, VSD_GOOD);
        vsd_expect_response(s, &small, VSD_S_RESET);
        vbc_check_disk(s->v, 64, 8192, 3);
    } else {
        vbc_restart_device(s->v);
        vbc_check_disk(s->v, 64, 8192, 3);
    }
    vbc_reuse(s->v, &c.r);
    vbc_settle(s->v);
    vbc_check_reused(s->v, &c.r);
    vsd_stop(s);
}

static void test_left(const void *base)
{
    check_left(base, false, false);
    check_left(base, true, true);
}

/*
 * Only for that: a write hangs, and is aborted; a read is too large for the
 * budget, and slow, but the storage is not asked, because qcow2 knows that
 * there is nothing.
 */

static void reset_lun(Vsd *s)
{
    vsd_tmf(s, VSD_TMF_LUN_RESET, 0, 0, VSD_S_OK);
}

static void kill_qemu(void *opaque)
{
    kill(qtest_pid(((Vsd *)opaque)->v->qts), SIGKILL);
}

/* Returns: whether the read had not ended when the disk was reset */
static bool reset_left_alone(Vsd *s, void (*reset)(Vsd *s))
{
    VsdCmd first = vsd_write(0, 3, 0, LEN, 1);
    VsdCmd hung = vsd_write(0, 1, 0, LEN, 2);
    VsdCmd large = vsd_read(0, 2, 128, 2 * LEN);
    HangWatch *watch;
    bool pending;

    vsd_do(s, &first, VSD_GOOD);
    vbc_hold(s->v);
    vsd_send(s, &hung);
    vsd_sync(s);
    vsd_abort(s, &hung);
    vsd_send(s, &large);
    vsd_sync(s);
    pending = !large.r.order;

    watch = hang_watch_begin(VBC_PATIENCE_US, kill_qemu, s);
    reset(s);
    hang_watch_end(watch);
    vsd_expect_attention(s);
    vbc_reap(s->v);
    vbc_reuse(s->v, &hung.r);
    vbc_reuse(s->v, &large.r);
    vbc_release(s->v);
    vbc_settle(s->v);
    vbc_check_reused(s->v, &hung.r);
    vbc_check_reused(s->v, &large.r);
    return pending;
}

static void check_left_alone(const void *base, void (*reset)(Vsd *s))
{
    Vsd *s;
    bool waited = false;

    if (!have_qemu_img()) {
        g_test_skip("needs qemu-img");
        return;
    }
    s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'cancel-budget': 4096", .args = "2>/dev/null",
        .qcow2 = true, .slow = true,
    });
    for (unsigned int i = 0; s && !waited && i < 20; i++) {
        waited = reset_left_alone(s, reset);
    }
    if (s) {
        g_assert_true(waited);
        vsd_stop(s);
    }
}

static void test_left_alone(const void *base)
{
    check_left_alone(base, reset_status);
}

static void test_left_alone_lun(const void *base)
{
    check_left_alone(base, reset_lun);
}

/* A disk with cancel=on beside one without: that one is waited for */
static void test_beside(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .off = true,
    });
    VsdCmd c = vsd_write(0, 1, 64, LEN, 3), d = vsd_write(2, 2, 128, LEN, 3);
    VsdCmd probe;

    if (!s) {
        return;
    }
    qtest_qmp_assert_success(s->v->qts, "{'execute': 'blockdev-add',"
        " 'arguments': {'driver': 'null-co', 'node-name': 'null'}}");
    qtest_qmp_assert_success(s->v->qts, "{'execute': 'device_add',"
        " 'arguments': {'driver': 'scsi-hd', 'drive': 'null',"
        " 'bus': 'hba.0', 'scsi-id': 1, 'lun': 2, 'cancel': true}}");
    probe = vsd_plain(s, 2, 0x00);
    vsd_do(s, &probe, VSD_CHECK_CONDITION);
    vbc_hold(s->v);
    vsd_send(s, &c);
    vsd_send(s, &d);
    vsd_sync(s);
    vbc_release_soon(s->v);
    vbc_restart_device(s->v);
    vbc_check_disk(s->v, 64, LEN, 3);
    vsd_stop(s);
}

/*
 * Another HBA, without DMA of its own: am53c974.  It cancels a command, and
 * waits for that, when the driver aborts what its DMA engine does.
 */

#define ESP_DMA_COMMAND     0x40
#define ESP_DMA_ABORT       2

typedef struct Esp {
    Vbc *v;
    QPCIDevice *dev;
    QPCIBar bar;
} Esp;

static void esp_write(Esp *e, unsigned int reg, uint8_t value)
{
    qpci_io_writeb(e->dev, e->bar, reg * 4, value);
}

static uint8_t esp_read(Esp *e, unsigned int reg)
{
    return qpci_io_readb(e->dev, e->bar, reg * 4);
}

/* Select the disk and send it a CDB of six or ten bytes. */
static void esp_send(Esp *e, const uint8_t *cdb, unsigned int len)
{
    esp_write(e, 3, 0x02);                  /* reset: none is selected now */
    esp_write(e, 4, 0);                     /* target */
    for (unsigned int i = 0; i < len; i++) {
        esp_write(e, 2, cdb[i]);
    }
    esp_write(e, 3, 0x41);                  /* select without ATN */
}

static Vbc *esp_start(Esp *e, VbcOptions *opts)
{
    opts->server = opts->stock = opts->no_start = true;
    opts->device_all = "-device am53c974,id=hba,addr=4.0 "
                       "-device scsi-hd,bus=hba.0,drive=drv,cancel=on";
    e->v = vbc_start(opts);
    if (e->v) {
        e->dev = qpci_device_find(e->v->bus, QPCI_DEVFN(VBC_SLOT, 0));
        g_assert_nonnull(e->dev);
        qpci_device_enable(e->dev);
        e->bar = qpci_iomap(e->dev, 0, NULL);
    }
    return e->v;
}

static void test_esp(void)
{
    static const uint8_t ready[6] = { 0x00 };
    static const uint8_t read[10] = { 0x28, [5] = 64, [8] = 8 };
    VbcOptions opts = {};
    Esp e;

    if (!qtest_has_device("am53c974")) {
        g_test_skip("no am53c974");
        return;
    }
    if (!esp_start(&e, &opts)) {
        return;
    }
    for (unsigned int i = 0; i < 4; i++) {
        vbc_hold(e.v);
        vbc_watch_begin(e.v);
        esp_send(&e, ready, sizeof(ready));
        esp_send(&e, ready, sizeof(ready));
        esp_send(&e, read, sizeof(read));
        esp_read(&e, 5);
        if (i < 2) {
            qpci_io_writel(e.dev, e.bar, ESP_DMA_COMMAND, ESP_DMA_ABORT);
        } else {
            qtest_qmp_assert_success(e.v->qts, "{'execute': 'system_reset'}");
            qtest_qmp_eventwait(e.v->qts, "RESET");
            qpci_device_enable(e.dev);
            e.bar = qpci_iomap(e.dev, 0, NULL);
        }
        vbc_watch_end(e.v);
        g_assert_cmpint(vbc_stat(e.v, "canceled_operations"), ==, i + 1);
        vbc_release(e.v);
        vbc_settle(e.v);
    }
    g_free(e.dev);
    vbc_abandon(e.v);
}

/* Properties */

static bool has_property(QTestState *qts, const char *type, const char *name)
{
    QDict *ret = qtest_qmp(qts, "{'execute': 'device-list-properties',"
                           " 'arguments': {'typename': %s}}", type);
    QListEntry *entry;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(ret, "return"), entry) {
        QDict *property = qobject_to(QDict, qlist_entry_obj(entry));

        found |= !strcmp(qdict_get_str(property, "name"), name);
    }
    qobject_unref(ret);
    return found;
}

static void test_properties(void)
{
    QTestState *qts = qtest_init("-nodefaults");

    g_assert_true(has_property(qts, "scsi-hd", "cancel"));
    g_assert_true(has_property(qts, "scsi-hd", "cancel-budget"));
    g_assert_true(has_property(qts, "scsi-cd", "cancel"));
    g_assert_false(has_property(qts, "scsi-block", "cancel"));
    g_assert_false(has_property(qts, "scsi-generic", "cancel"));
    qtest_quit(qts);
}

void vsd_add_reset_tests(void)
{
    vsd_add_test("reset/status", test_status);
    vsd_add_test("reset/system", test_system);
    vsd_add_test("reset/master", test_master);
    vsd_add_test("reset/during", test_during);
    vsd_add_test("reset/left", test_left);
    vsd_add_test("reset/left-alone", test_left_alone);
    vsd_add_test("reset/left-alone-lun", test_left_alone_lun);
    vsd_add_test("reset/beside", test_beside);
    qtest_add_func("/virtio-scsi-cancel/esp", test_esp);
    qtest_add_func("/virtio-scsi-cancel/properties", test_properties);
}
