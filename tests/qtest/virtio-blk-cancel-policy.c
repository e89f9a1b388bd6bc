/*
 * Tests of virtio-blk's CANCEL request: what the user has asked of the disk
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Throttling, error policies, accounting, how long and how much the storage is
 * given, and snapshots.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "gate-patience.h"
#include "virtio-blk-cancel-lib.h"

/* One of each type that can be cancelled while the storage has it */
static const VbcReq hangs[] = {
    { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 4096 },
    { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 16, .len = 4096,
      .fill = 1 },
    { .type = VIRTIO_BLK_T_FLUSH, .tag = 3 },
    { .type = VIRTIO_BLK_T_DISCARD, .tag = 4, .sector = 32, .len = 4096 },
    { .type = VIRTIO_BLK_T_WRITE_ZEROES, .tag = 5, .sector = 40, .len = 4096 },
};

#define HANGS   ARRAY_SIZE(hangs)

static void send_hangs(Vbc *v, VbcReq *r)
{
    memcpy(r, hangs, sizeof(hangs));
    vbc_send_all(v, r, HANGS);
}

/*
 * Throttling: a byte in each second, so what is throttled waits for ever, or
 * until the limit is lifted or a drained section lets it go
 */

#define THROTTLED       8

static void cancel_throttled(Vbc *v, VbcReq *r)
{
    VbcReq first = {
        .type = VIRTIO_BLK_T_IN, .tag = 99, .sector = 100, .len = 512,
    };

    /* This uses up what the limit allows, if QEMU's look at it has not */
    vbc_send(v, &first);
    vbc_cancel(v, 0, first.tag, VIRTIO_BLK_S_OK);
    vbc_wait(v, &first);
    for (unsigned int i = 0; i < THROTTLED; i++) {
        r[i] = (VbcReq) {
            .type = i % 4 == 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, .tag = i,
            .sector = 8 * i, .len = 4096, .fill = 1, .queue = i % v->num_queues,
        };
        vbc_send(v, &r[i]);
    }
    for (unsigned int i = 0; i < v->num_queues; i++) {
        vbc_cancel(v, i, 1000, VIRTIO_BLK_S_OK);
    }
    for (unsigned int i = 0; i < THROTTLED; i++) {
        vbc_expect_pending(v, &r[i]);
    }
    for (unsigned int i = 0; i < THROTTLED; i += 2) {
        vbc_cancel_req(v, &r[i]);
        vbc_reuse(v, &r[i]);
    }
}

static void check_throttled(Vbc *v, VbcReq *r)
{
    for (unsigned int i = 0; i < THROTTLED; i++) {
        if (i % 2 == 0) {
            vbc_check_reused(v, &r[i]);
            continue;
        }
        vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
        if (r[i].type == VIRTIO_BLK_T_IN) {
            vbc_check_data(v, &r[i], VBC_OLD);
        } else {
            vbc_check_disk(v, r[i].sector, 4096, 1);
        }
    }
}

/* The group of the BlockBackend: what is taken out of it never begins */
static void test_throttle_group(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[THROTTLED];
    Vbc *v;

    opts.drive = ",throttling.bps-total=1,throttling.group=some";
    v = vbc_start(&opts);
    cancel_throttled(v, r);
    for (unsigned int i = 1; i < THROTTLED; i += 2) {
        vbc_expect_pending(v, &r[i]);
    }
    qtest_qmp_assert_success(v->qts, "{'execute': 'block_set_io_throttle',"
                             " 'arguments': {'device': 'drv', 'bps': 0,"
                             " 'bps_rd': 0, 'bps_wr': 0, 'iops': 1000000,"
                             " 'iops_rd': 0, 'iops_wr': 0,"
                             " 'group': 'some'}}");
    check_throttled(v, r);
    vbc_settle(v);
    for (unsigned int i = 0; i < THROTTLED; i += 2) {
        vbc_check_disk(v, r[i].sector, 4096, VBC_OLD);
    }
    vbc_stop(v);
}

/* A filter is storage that is slow: what waits there counts as begun */
static void test_throttle_filter(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq later = {
        .type = VIRTIO_BLK_T_OUT, .tag = 99, .sector = 2, .len = 512, .fill = 2,
    };
    VbcReq r[THROTTLED];
    Vbc *v;

    opts.args = "-object throttle-group,id=tg,x-bps-total=1";
    opts.format = "throttle";
    opts.drive = ",throttle-group=tg";
    v = vbc_start(&opts);
    cancel_throttled(v, r);
    vbc_send(v, &later);
    vbc_cancel(v, 0, 1000, VIRTIO_BLK_S_OK);
    vbc_expect_pending(v, &later);
    vbc_settle(v);
    check_throttled(v, r);
    vbc_settle(v);
    vbc_expect(v, &later, VIRTIO_BLK_S_OK);
    vbc_check_disk(v, 2, 512, 2);
    vbc_stop(v);
}

/* Error policies */

typedef struct Events {
    unsigned int errors;
    unsigned int stops;
} Events;

static bool count_event(QTestState *qts, const char *name, QDict *event,
                        void *opaque)
{
    Events *events = opaque;

    events->errors += !strcmp(name, "BLOCK_IO_ERROR");
    events->stops += !strcmp(name, "STOP");
    return false;
}

/*
 * The storage goes for good, and everything that it had fails.  Of what was
 * cancelled before nobody hears.
 */
static void check_policy(const void *base, const char *device, bool one_left)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Events events = {};
    VbcReq left = {
        .type = VIRTIO_BLK_T_IN, .tag = 9, .sector = 64, .len = 4096,
    };
    gint64 end;
    VbcReq r[HANGS];
    Vbc *v;

    opts.server = true;
    opts.device = device;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    qtest_qmp_set_event_callback(v->qts, count_event, &events);
    vbc_write(v, 0, 512, 1);            /* or a flush has nothing to do */
    vbc_hold(v);
    send_hangs(v, r);
    if (one_left) {
        left.queue = v->q;
        vbc_send(v, &left);
        vbc_sync(v, v->q);
    }
    for (unsigned int i = 0; i < HANGS; i++) {
        vbc_cancel_req(v, &r[i]);
        vbc_reuse(v, &r[i]);
    }
    kill(v->server, SIGKILL);
    end = g_get_monotonic_time() + VBC_PATIENCE_US;
    if (one_left) {
        /* Events are counted while another reply is waited for */
        while (!events.errors || !events.stops) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
            qtest_qmp_assert_success(v->qts, "{'execute': 'query-status'}");
        }
        vbc_expect_pending(v, &left);
        qvirtio_reset(v->dev);
    } else {
        /* The abandoned ones have failed once this succeeds */
        gate_patient_qmp(v->qts, "{\"execute\": \"stop\"}", NULL);
        qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
        g_assert_cmpint(vbc_stat(v, "failed_rd_operations"), ==, 0);
        g_assert_cmpint(vbc_stat(v, "failed_wr_operations"), ==, 0);
        g_assert_cmpint(vbc_stat(v, "failed_flush_operations"), ==, 0);
    }
    g_assert_cmpuint(events.errors, ==, one_left);
    g_assert_cmpuint(events.stops, ==, 1);
    for (unsigned int i = 0; i < HANGS; i++) {
        vbc_check_reused(v, &r[i]);
    }
    vbc_abandon(v);
}

static void test_policy_stop(const void *opts)
{
    check_policy(opts, "'rerror': 'stop', 'werror': 'stop'", false);
}

static void test_policy_stop_one(const void *opts)
{
    check_policy(opts, "'rerror': 'stop', 'werror': 'stop'", true);
}

static void test_policy_report(const void *opts)
{
    check_policy(opts, "'rerror': 'report', 'werror': 'report'", false);
}

/* Accounting */

static const char *const figures[] = {
    "rd_bytes", "rd_operations", "wr_bytes", "wr_operations",
    "flush_operations", "unmap_operations", "failed_rd_operations",
    "failed_wr_operations", "failed_flush_operations",
    "failed_unmap_operations", "invalid_rd_operations",
    "invalid_wr_operations", "rd_total_time_ns", "wr_total_time_ns",
};

static void get_figures(Vbc *v, int64_t *value)
{
    for (unsigned int i = 0; i < ARRAY_SIZE(figures); i++) {
        value[i] = vbc_stat(v, figures[i]);
    }
}

static void check_figures(Vbc *v, const int64_t *value)
{
    int64_t now[ARRAY_SIZE(figures)];

    get_figures(v, now);
    for (unsigned int i = 0; i < ARRAY_SIZE(figures); i++) {
        if (now[i] != value[i]) {
            g_test_message("%s", figures[i]);
        }
        g_assert_cmpint(now[i], ==, value[i]);
    }
}

static void check_canceled(Vbc *v, int64_t n)
{
    g_assert_cmpint(vbc_stat(v, "canceled_operations"), ==, n);
}

static void test_accounting(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq fenced = {
        .type = VIRTIO_BLK_T_OUT, .tag = 10, .sector = 16, .len = 512,
    };
    VbcReq large = {
        .type = VIRTIO_BLK_T_IN, .tag = 11, .sector = 512, .len = 131072,
    };
    VbcReq batch = { .type = VIRTIO_BLK_T_IN, .tag = 12, .len = 512 };
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 12 };
    int64_t before[ARRAY_SIZE(figures)];
    VbcReq r[HANGS];
    Vbc *v;

    opts.server = true;
    opts.device = "'cancel-budget': 65536";
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    fenced.queue = large.queue = batch.queue = cancel.queue = v->q;
    vbc_write(v, 0, 512, 1);
    check_canceled(v, 0);

    /* Refused */
    vbc_hold(v);
    vbc_send(v, &large);
    vbc_sync(v, v->q);
    vbc_cancel(v, v->q, large.tag, VBC_S_NOT_CANCELED);
    check_canceled(v, 0);

    /* Abandoned */
    send_hangs(v, r);
    get_figures(v, before);
    for (unsigned int i = 0; i < HANGS; i++) {
        vbc_cancel_req(v, &r[i]);
        check_canceled(v, i + 1);
    }
    check_figures(v, before);

    /* Waiting; not submitted yet; not there any more */
    vbc_send(v, &fenced);
    vbc_cancel_req(v, &fenced);
    check_canceled(v, HANGS + 1);
    vbc_add(v, &batch);
    vbc_add(v, &cancel);
    vbc_kick(v, v->q);
    vbc_expect(v, &cancel, VIRTIO_BLK_S_OK);
    g_assert_cmpint(batch.status, ==, VBC_S_CANCELED);
    check_canceled(v, HANGS + 2);
    vbc_cancel(v, v->q, 1, VIRTIO_BLK_S_OK);
    check_canceled(v, HANGS + 2);
    check_figures(v, before);

    /* Nothing comes later, but for what was not cancelled */
    vbc_release(v);
    vbc_expect(v, &large, VIRTIO_BLK_S_OK);
    vbc_settle(v);
    before[0] += large.len;
    before[1]++;
    before[12] = vbc_stat(v, "rd_total_time_ns");
    check_figures(v, before);
    check_canceled(v, HANGS + 2);

    /* A reset is no CANCEL */
    vbc_hold(v);
    vbc_send(v, &fenced);
    vbc_sync(v, v->q);
    vbc_restart_device(v);
    vbc_release(v);
    vbc_settle(v);
    check_canceled(v, HANGS + 2);
    vbc_stop(v);
}

static void test_accounting_parked(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r = { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 4096 };
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 1 };
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;
    Vbc *v;

    opts.device = "'rerror': 'stop'";
    opts.drive = ",file.inject-error.0.event=read_aio,"
                 "file.inject-error.0.sector=8";
    v = vbc_start(&opts);
    r.queue = cancel.queue = v->q;
    vbc_send(v, &r);
    qtest_qmp_eventwait(v->qts, "STOP");
    check_canceled(v, 0);
    vbc_add(v, &cancel);
    vbc_publish(v, v->q);
    for (vbc_reap(v); !cancel.order; vbc_reap(v)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    }
    g_assert_cmpint(r.status, ==, VBC_S_CANCELED);
    check_canceled(v, 1);
    g_assert_cmpint(vbc_stat(v, "rd_operations"), ==, 0);
    g_assert_cmpint(vbc_stat(v, "failed_rd_operations"), ==, 0);
    gate_patient_qmp(v->qts, "{\"execute\": \"stop\"}", NULL);
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    vbc_stop(v);
}

static void test_accounting_stock(void)
{
    VbcOptions opts = { .stock = true };
    Vbc *v = vbc_start(&opts);

    vbc_write(v, 0, 512, 1);
    vbc_cancel(v, 0, 1, VIRTIO_BLK_S_UNSUPP);
    check_canceled(v, 0);
    g_assert_cmpint(vbc_stat(v, "wr_operations"), ==, 1);
    vbc_stop(v);
}

/* Snapshots: the disk is drained, and another image put on top */

#define SNAPSHOTS       3
#define BUSY            24

static void test_snapshot(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[BUSY], cancel[BUSY];
    g_autofree char *name = NULL;
    Vbc *v;

    opts.server = true;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    for (unsigned int round = 0; round < SNAPSHOTS; round++) {
        g_autofree char *command = NULL;

        g_free(name);
        name = g_strdup_printf("%s.%u", v->image, round);
        g_assert_cmpint(vbc_qemu_img("", "create -q -f qcow2 %s %d", name,
                                     VBC_DISK_SIZE), ==, 0);

        /* Of some is known that they hang; of others, nothing */
        vbc_hold(v);
        for (unsigned int i = 0; i < BUSY; i++) {
            r[i] = (VbcReq) {
                .type = i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, .tag = i,
                .sector = 8 * i, .len = 4096, .fill = round,
                .queue = i % v->num_queues,
            };
            cancel[i] = (VbcReq) {
                .type = VBC_T_CANCEL, .tag = i, .queue = r[i].queue,
            };
            vbc_send(v, &r[i]);
            if (round == 0 && i % 3 == 0) {
                vbc_cancel_req(v, &r[i]);
            }
        }
        vbc_release_soon(v);
        for (unsigned int i = 1; i < BUSY; i += 3) {
            vbc_send(v, &cancel[i]);
        }
        command = g_strdup_printf("{\"execute\": \"blockdev-snapshot-sync\","
                                  " \"arguments\": {\"device\": \"drv\","
                                  " \"snapshot-file\": \"%s\","
                                  " \"format\": \"qcow2\","
                                  " \"mode\": \"existing\"}}", name);
        gate_patient_qmp(v->qts, command, NULL);
        for (unsigned int i = 2; i < BUSY; i += 3) {
            vbc_send(v, &cancel[i]);
        }
        g_thread_join(g_steal_pointer(&v->releaser));
        for (unsigned int i = 0; i < BUSY; i++) {
            vbc_wait(v, &r[i]);
            if (r[i].status == VIRTIO_BLK_S_OK) {
                g_assert_true(round > 0 || i % 3);
            } else {
                g_assert_cmpint(r[i].status, ==, VBC_S_CANCELED);
                g_assert_true(round == 0 || i % 3);
            }
            if (i % 3) {
                vbc_expect(v, &cancel[i], VIRTIO_BLK_S_OK);
                g_assert_cmpuint(r[i].order, <, cancel[i].order);
            }
        }
        vbc_write(v, 0, BUSY * 4096, 50 + round);
        vbc_check_read(v, 0, BUSY * 4096, 50 + round);
    }
    vbc_settle(v);
    for (unsigned int round = 0; round < SNAPSHOTS; round++) {
        g_free(name);
        name = g_strdup_printf("%s.%u", v->image, round);
        unlink(name);
    }
    vbc_stop(v);
}

/*
 * The storage is given an hour: what it has is not cancelled before, but by a
 * reset; what waits, here for the budget, is at once.
 */
static void test_after(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[HANGS], waits = {
        .type = VIRTIO_BLK_T_OUT, .tag = 6, .sector = 48, .len = 4096,
    };
    Vbc *v;

    opts.server = true;
    opts.device = "'cancel-after': 3600000, 'cancel-budget': 8192";
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    waits.queue = v->q;
    for (unsigned int round = 0; round < 2; round++) {
        vbc_write(v, 0, 512, round);        /* or a flush has nothing to do */
        vbc_hold(v);
        send_hangs(v, r);
        vbc_send(v, &waits);
        vbc_sync(v, v->q);
        for (unsigned int i = 0; i < HANGS; i++) {
            vbc_cancel(v, v->q, r[i].tag, VBC_S_NOT_CANCELED);
            vbc_expect_pending(v, &r[i]);
        }
        vbc_cancel_req(v, &waits);
        if (round == 0) {
            vbc_release(v);
            for (unsigned int i = 0; i < HANGS; i++) {
                vbc_expect(v, &r[i], VIRTIO_BLK_S_OK);
            }
        }
    }
    vbc_watch_begin(v);
    vbc_restart_device(v);
    vbc_watch_end(v);
    vbc_stop(v);
}

/* After that time it is */
static void test_after_that(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[HANGS];
    Vbc *v;

    opts.server = true;
    opts.device = "'cancel-after': 100";
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    vbc_write(v, 0, 512, 1);
    vbc_hold(v);
    send_hangs(v, r);
    vbc_sync(v, v->q);
    vbc_watch_begin(v);
    for (unsigned int i = 0; i < HANGS; i++) {
        VbcReq cancel = { .type = VBC_T_CANCEL, .tag = r[i].tag,
                          .queue = v->q };

        do {
            vbc_send(v, &cancel);
            vbc_wait(v, &cancel);
        } while (cancel.status == VBC_S_NOT_CANCELED);
        g_assert_cmpint(cancel.status, ==, VIRTIO_BLK_S_OK);
        g_assert_cmpint(r[i].status, ==, VBC_S_CANCELED);
    }
    vbc_watch_end(v);
    vbc_stop(v);
}

/* How much a discard or write zeroes may be, and is accepted to be */

#define LIMIT           (64 * MiB / VBC_SECTOR)
#define STOCK_LIMIT     (INT_MAX / VBC_SECTOR)
#define MAX_DISCARD     36      /* in the configuration space */
#define MAX_ZEROES      48

static uint32_t config(Vbc *v, unsigned int offset)
{
    return qvirtio_config_readl(v->dev, offset);
}

static void check_limits(const VbcOptions *base, const char *device,
                         uint32_t discard, uint32_t zeroes)
{
    VbcOptions opts = *base;
    VbcReq large[] = {
        { .type = VIRTIO_BLK_T_DISCARD, .tag = 1, .len = LIMIT * VBC_SECTOR },
        { .type = VIRTIO_BLK_T_WRITE_ZEROES, .tag = 2 },
    };
    Vbc *v;

    opts.drive_all = "driver=null-co,size=4G";
    opts.device = device;
    v = vbc_start(&opts);
    g_assert_cmpuint(config(v, MAX_DISCARD), ==, discard);
    g_assert_cmpuint(config(v, MAX_ZEROES), ==, zeroes);
    for (unsigned int i = 0; i < ARRAY_SIZE(large); i++) {
        large[i].queue = v->q;
        large[i].len = MAX(LIMIT, i ? zeroes : discard) * VBC_SECTOR;
        vbc_do(v, &large[i], VIRTIO_BLK_S_OK);
        /* A guest that was started elsewhere knows of more */
        large[i].len = 1 * GiB;
        vbc_do(v, &large[i], VIRTIO_BLK_S_OK);
    }
    vbc_stop(v);
}

static void test_limits(const void *base)
{
    VbcOptions stock = *(const VbcOptions *)base;

    check_limits(base, NULL, LIMIT, LIMIT);
    check_limits(base, "'max-discard-sectors': 2097152,"
                 " 'max-write-zeroes-sectors': 4194302", 2097152, 4194302);
    stock.stock = true;
    check_limits(&stock, NULL, STOCK_LIMIT, STOCK_LIMIT);
    check_limits(&stock, "'cancel': 'reset'", STOCK_LIMIT, STOCK_LIMIT);
}

/* Each property says what it is */

static void check_described(QTestState *qts, const char *driver)
{
    const char *const names[] = { "cancel", "cancel-budget", "cancel-after",
                                  NULL };
    QDict *ret = qtest_qmp(qts, "{'execute': 'device-list-properties',"
                           " 'arguments': {'typename': %s}}", driver);
    QListEntry *e;
    unsigned int found = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(ret, "return"), e) {
        QDict *prop = qobject_to(QDict, qlist_entry_obj(e));
        const char *text = qdict_get_try_str(prop, "description");

        if (g_strv_contains(names, qdict_get_str(prop, "name"))) {
            g_assert_cmpuint(strlen(text), >, 20);
            found++;
        }
    }
    g_assert_cmpuint(found, ==, 3);
    qobject_unref(ret);
}

static void test_described(void)
{
    const char *const drivers[] = {
        "virtio-blk-pci", "virtio-blk-device", "scsi-hd", "scsi-cd", "nvme",
        "nvme-ns", NULL
    };
    QTestState *qts = qtest_init("-machine none");

    for (unsigned int i = 0; drivers[i]; i++) {
        if (qtest_has_device(drivers[i])) {
            check_described(qts, drivers[i]);
        }
    }
    qtest_quit(qts);
}

void vbc_add_policy_tests(void)
{
    unsigned int loops = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    vbc_add_test("throttle/group", loops, test_throttle_group);
    vbc_add_test("throttle/filter", loops, test_throttle_filter);
    vbc_add_test("policy/stop", loops, test_policy_stop);
    vbc_add_test("policy/stop-one-left", loops, test_policy_stop_one);
    vbc_add_test("policy/report", VBC_SETUP_PLAIN, test_policy_report);
    vbc_add_test("accounting/canceled", loops, test_accounting);
    vbc_add_test("accounting/parked", loops, test_accounting_parked);
    qtest_add_func("/virtio-blk-cancel/accounting/stock",
                   test_accounting_stock);
    vbc_add_test("after/not-yet", loops, test_after);
    vbc_add_test("after/then", loops, test_after_that);
    vbc_add_test("limits", VBC_SETUP_PLAIN, test_limits);
    qtest_add_func("/virtio-blk-cancel/described", test_described);
    if (have_qemu_img()) {
        vbc_add_test("snapshot/busy", loops, test_snapshot);
    }
}
