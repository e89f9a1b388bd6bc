/*
 * Tests of virtio-blk's CANCEL request: figures and the event
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What QMP, HMP and QOM show of hung storage, when QMP tells of it by itself,
 * and whether the trace log has what scripts/blk-cancel-timeline needs.  Under
 * qtest the rate limit of events runs on the virtual clock, which stands still
 * unless a test steps it.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "cancel-figures.h"
#include "virtio-blk-cancel-lib.h"

#define EVENT           "BLOCK_HUNG_CHANGE"
#define RATE_LIMIT_NS   1000000000
#define ACPI_EJECT      0xae08  /* port of the machine type pc */
#define PROXY           "/machine/peripheral/vblk"
#define DEVICE          PROXY "/virtio-backend"

static Vbc *start(const void *base, const char *device)
{
    VbcOptions opts = *(const VbcOptions *)base;

    opts.server = true;
    opts.device = device;
    return vbc_start(&opts);
}

/* Returns: what query-block-hung has of the one device, or NULL */
static QDict *query_device(Vbc *v)
{
    QDict *ret = qtest_qmp(v->qts, "{'execute': 'query-block-hung'}");
    QList *list = qdict_get_qlist(ret, "return");
    QDict *device = NULL;

    g_assert_nonnull(list);
    if (!qlist_empty(list)) {
        device = qobject_to(QDict, qlist_pop(list));
        g_assert_true(qlist_empty(list));
    }
    qobject_unref(ret);
    return device;
}

static QDict *query_stats(Vbc *v)
{
    QDict *device = query_device(v);
    QDict *stats = qobject_ref(qdict_get_qdict(device, "stats"));

    qobject_unref(device);
    return stats;
}

static int64_t stat_of(Vbc *v, const char *name)
{
    g_autoptr(QDict) stats = query_stats(v);

    return qdict_get_int(stats, name);
}

static void wait_stat(Vbc *v, const char *name, int64_t value)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    while (stat_of(v, name) != value) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void wait_stat_above(Vbc *v, const char *name, int64_t value)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    while (stat_of(v, name) <= value) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void check_stat(Vbc *v, const char *name, int64_t value)
{
    int64_t got = stat_of(v, name);

    if (got != value) {
        g_test_message("%s", name);
    }
    g_assert_cmpint(got, ==, value);
}

/* As check_cancels(), of query-block-hung */
static void check_outcomes(Vbc *v, int64_t canceled, int64_t completed,
                           int64_t not_found, int64_t refused, int64_t invalid)
{
    g_autoptr(QDict) stats = query_stats(v);

    check_cancels(qdict_get_qdict(stats, "cancels"), canceled, completed,
                  not_found, refused, invalid);
}

static void reset_stats(Vbc *v)
{
    qtest_qmp_assert_success(v->qts,
                             "{'execute': 'block-hung-reset-stats'}");
}

/* Figures of CANCELs */

static void test_outcomes(const void *opts)
{
    Vbc *v = start(opts, "'cancel-budget': 4096");
    VbcReq hung = { .type = VIRTIO_BLK_T_IN, .tag = 1, .len = 4096 };
    VbcReq big = { .type = VIRTIO_BLK_T_IN, .tag = 2, .len = 8192 };
    VbcReq data = { .type = VBC_T_CANCEL, .tag = 2, .len = 512,
                    .direction = VBC_DATA_OUT };
    VbcReq unsubmitted = { .type = VIRTIO_BLK_T_IN, .tag = 3, .len = 512 };
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 3 };

    if (!v) {
        return;
    }
    check_outcomes(v, 0, 0, 0, 0, 0);
    vbc_hold(v);
    hung.queue = big.queue = data.queue = v->q;
    unsubmitted.queue = cancel.queue = v->q;
    vbc_send(v, &hung);
    vbc_send(v, &big);
    vbc_sync(v, v->q);

    vbc_cancel_req(v, &hung);
    check_outcomes(v, 1, 0, 0, 0, 0);
    vbc_cancel(v, v->q, 77, VIRTIO_BLK_S_OK);
    vbc_cancel(v, v->q, 1, VIRTIO_BLK_S_OK);
    check_outcomes(v, 1, 0, 2, 0, 0);
    vbc_cancel(v, v->q, 2, VBC_S_NOT_CANCELED);
    check_outcomes(v, 1, 0, 2, 1, 0);
    vbc_do(v, &data, VIRTIO_BLK_S_IOERR);
    check_outcomes(v, 1, 0, 2, 1, 1);

    vbc_add(v, &unsubmitted);
    vbc_add(v, &cancel);
    vbc_kick(v, v->q);
    vbc_expect(v, &cancel, VIRTIO_BLK_S_OK);
    g_assert_cmpint(unsubmitted.status, ==, VBC_S_CANCELED);
    check_outcomes(v, 2, 0, 2, 1, 1);

    vbc_release(v);
    vbc_expect(v, &big, VIRTIO_BLK_S_OK);
    reset_stats(v);
    check_outcomes(v, 0, 0, 0, 0, 0);
    vbc_cancel(v, v->q, 77, VIRTIO_BLK_S_OK);
    check_outcomes(v, 0, 0, 1, 0, 0);
    vbc_stop(v);
}

/* A flush with nothing to do is over before its callback runs */
static void test_completed(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq flush = { .type = VIRTIO_BLK_T_FLUSH, .tag = 1 };
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = 1 };
    Vbc *v;

    opts.drive_all = "driver=null-co,size=4M";
    v = vbc_start(&opts);
    flush.queue = cancel.queue = v->q;
    vbc_add(v, &flush);
    vbc_add(v, &cancel);
    vbc_kick(v, v->q);
    vbc_expect(v, &cancel, VIRTIO_BLK_S_OK);
    g_assert_cmpint(flush.status, ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(flush.order, <, cancel.order);
    check_outcomes(v, 0, 1, 0, 0, 0);
    check_stat(v, "abandoned-total", 0);
    vbc_stop(v);
}

/* Figures of abandoned and waiting requests */

static void check_idle(Vbc *v)
{
    check_stat(v, "abandoned", 0);
    check_stat(v, "abandoned-bytes", 0);
    check_stat(v, "oldest-age-ns", 0);
    check_stat(v, "waiting-fence", 0);
    check_stat(v, "waiting-budget", 0);
    check_stat(v, "waiting-drained", 0);
    check_stat(v, "issued", 0);
    check_stat(v, "failed", 0);
}

static void test_abandoned(const void *opts)
{
    Vbc *v = start(opts, NULL);
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 8, .len = 4096 },
        { .type = VIRTIO_BLK_T_IN, .tag = 2, .sector = 64, .len = 8192 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 3, .sector = 128, .len = 512 },
    };
    VbcReq behind = { .type = VIRTIO_BLK_T_IN, .tag = 4, .sector = 8,
                      .len = 512 };
    int64_t oldest, max;

    if (!v) {
        return;
    }
    check_idle(v);
    check_stat(v, "abandoned-total", 0);
    check_stat(v, "max-age-ns", 0);
    check_stat(v, "budget-used", 0);
    check_stat(v, "budget", 128 * MiB);

    vbc_hold(v);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    check_stat(v, "abandoned", 0);
    check_stat(v, "issued", ARRAY_SIZE(r));
    vbc_cancel_req(v, &r[0]);
    vbc_cancel_req(v, &r[1]);
    check_stat(v, "abandoned", 2);
    check_stat(v, "issued", ARRAY_SIZE(r));
    check_stat(v, "abandoned-bytes", 4096 + 8192);
    check_stat(v, "abandoned-total", 2);
    check_stat(v, "budget-used", 4096 + 8192 + 4096);
    oldest = stat_of(v, "oldest-age-ns");
    g_assert_cmpint(oldest, >, 0);
    g_assert_cmpint(stat_of(v, "oldest-age-ns"), >, oldest);
    g_assert_cmpint(stat_of(v, "max-age-ns"), >, oldest);

    vbc_send_all(v, &behind, 1);
    check_stat(v, "waiting-fence", 1);
    check_stat(v, "waiting-budget", 0);

    /* What is now is not reset */
    reset_stats(v);
    check_stat(v, "abandoned", 2);
    check_stat(v, "abandoned-total", 0);
    check_stat(v, "waiting-fence", 1);
    vbc_cancel_req(v, &r[2]);
    check_stat(v, "abandoned", 3);
    check_stat(v, "abandoned-total", 1);

    oldest = stat_of(v, "oldest-age-ns");
    vbc_release(v);
    vbc_expect(v, &behind, VIRTIO_BLK_S_OK);
    wait_stat(v, "abandoned", 0);
    wait_stat(v, "budget-used", 0);
    check_idle(v);
    max = stat_of(v, "max-age-ns");
    g_assert_cmpint(max, >=, oldest);
    check_stat(v, "max-age-ns", max);
    reset_stats(v);
    check_stat(v, "max-age-ns", 0);
    check_stat(v, "abandoned-total", 0);
    vbc_stop(v);
}

static void test_waiting_budget(const void *opts)
{
    Vbc *v = start(opts, "'cancel-budget': 8192");
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 8, .len = 8192 },
        { .type = VIRTIO_BLK_T_IN, .tag = 2, .sector = 64, .len = 4096 },
        { .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 128, .len = 4096 },
    };

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    check_stat(v, "waiting-budget", 2);
    check_stat(v, "budget", 8192);
    check_stat(v, "budget-used", 8192);
    vbc_cancel_req(v, &r[1]);
    check_stat(v, "waiting-budget", 1);
    check_stat(v, "abandoned", 0);
    vbc_release(v);
    vbc_expect(v, &r[2], VIRTIO_BLK_S_OK);
    vbc_expect(v, &r[0], VIRTIO_BLK_S_OK);
    check_stat(v, "waiting-budget", 0);
    vbc_stop(v);
}

/* Where the figures are */

static void test_names(const void *opts)
{
    Vbc *v = start(opts, NULL);
    g_autoptr(QDict) device = NULL;

    if (!v) {
        return;
    }
    device = query_device(v);
    g_assert_cmpstr(qdict_get_str(device, "qom-path"), ==, DEVICE);
    g_assert_cmpstr(qdict_get_str(device, "qdev-id"), ==, "vblk");
    g_assert_cmpstr(qdict_get_str(device, "device"), ==, "drv");
    g_assert_true(qdict_haskey(device, "node-name"));
    vbc_stop(v);
}

static QDict *qom_stats(Vbc *v, const char *path)
{
    return qtest_qmp(v->qts, "{'execute': 'qom-get', 'arguments': {"
                     "'path': %s, 'property': 'cancel-stats'}}", path);
}

static void test_qom(const void *opts)
{
    const char *paths[] = { PROXY, DEVICE };
    Vbc *v = start(opts, NULL);

    if (!v) {
        return;
    }
    vbc_cancel(v, 0, 77, VIRTIO_BLK_S_OK);
    for (unsigned int i = 0; i < ARRAY_SIZE(paths); i++) {
        g_autoptr(QDict) ret = qom_stats(v, paths[i]);
        g_autoptr(QDict) stats = query_stats(v);

        g_assert_true(qobject_is_equal(
            QOBJECT(qdict_get_qdict(ret, "return")), QOBJECT(stats)));
        qmp_expect_error_and_unref(
            qtest_qmp(v->qts, "{'execute': 'qom-set', 'arguments': {"
                      "'path': %s, 'property': 'cancel-stats', 'value': {}}}",
                      paths[i]), "GenericError");
    }
    vbc_stop(v);
}

static void reset_of(Vbc *v, const char *id)
{
    qtest_qmp_assert_success(v->qts, "{'execute': 'block-hung-reset-stats',"
                             " 'arguments': {'id': %s}}", id);
}

static void expect_no_reset_of(Vbc *v, const char *id)
{
    QDict *ret = qtest_qmp(v->qts, "{'execute': 'block-hung-reset-stats',"
                           " 'arguments': {'id': %s}}", id);

    qmp_expect_error_and_unref(ret, "DeviceNotFound");
}

static void test_reset_by_id(const void *opts)
{
    const char *ids[] = { "vblk", DEVICE, PROXY };
    Vbc *v = start(opts, NULL);

    if (!v) {
        return;
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(ids); i++) {
        vbc_cancel(v, 0, 77, VIRTIO_BLK_S_OK);
        expect_no_reset_of(v, "drv2");
        expect_no_reset_of(v, "/machine/peripheral");
        check_outcomes(v, 0, 0, 1, 0, 0);
        reset_of(v, ids[i]);
        check_outcomes(v, 0, 0, 0, 0, 0);
    }
    vbc_stop(v);
}

static void expect_hmp(Vbc *v, const char *command, const char *pattern)
{
    g_autofree char *out = qtest_hmp(v->qts, "%s", command);

    if (!g_regex_match_simple(pattern, out, G_REGEX_DOTALL, 0)) {
        g_test_message("%s", out);
        g_assert_not_reached();
    }
}

static void test_hmp(const void *opts)
{
    Vbc *v = start(opts, NULL);
    VbcReq r = { .type = VIRTIO_BLK_T_OUT, .tag = 1, .len = 4096 };

    if (!v) {
        return;
    }
    expect_hmp(v, "info block-hung",
               "^vblk \\(.*\\): nothing abandoned\r?\n"
               ".*Cancels received: 0 .*Abandoned now: +0\r?\n"
               ".*Abandoned in all: +0\r?\n");
    vbc_hold(v);
    vbc_send_all(v, &r, 1);
    wait_stat_above(v, "issued-age-ns", G_GINT64_CONSTANT(1000000000));
    expect_hmp(v, "info block-hung", "nothing abandoned, but the storage"
               " does not answer\r?\n");
    vbc_cancel_req(v, &r);
    vbc_cancel(v, v->q, 77, VIRTIO_BLK_S_OK);
    expect_hmp(v, "info block-hung",
               "^vblk \\(.*\\): storage hangs\r?\n"
               ".*received: 2 \\(1 canceled, 0 completed, 1 not found,"
               " 0 refused, 0 invalid\\)"
               ".*Abandoned now: +1 \\(4 KiB\\), the oldest for [0-9.]+ s"
               ".*Abandoned in all: +1, highest age [0-9.]+ s"
               ".*Budget used: +4 KiB of 128 MiB");
    expect_hmp(v, "blk_cancel_reset_stats nobody",
               "No device 'nobody' with cancel=");
    expect_hmp(v, "blk_cancel_reset_stats vblk", "^$");
    expect_hmp(v, "info block-hung", "received: 0 .*Abandoned now: +1 ");
    vbc_stop(v);
}

/* Without cancelling the device has no figures, and there is no event */
static void test_off(void)
{
    VbcOptions opts = { .stock = true };
    Vbc *v = vbc_start(&opts);
    VbcReq cancel = { .type = VBC_T_CANCEL, .header = VBC_HEADER_STOCK };

    vbc_do(v, &cancel, VIRTIO_BLK_S_UNSUPP);
    vbc_write(v, 8, 4096, 1);
    g_assert_null(query_device(v));
    reset_stats(v);
    expect_no_reset_of(v, "vblk");
    qmp_expect_error_and_unref(qom_stats(v, PROXY), "GenericError");
    expect_hmp(v, "info block-hung", "^No device has cancel=\r?\n$");
    g_assert_null(qtest_qmp_event_ref(v->qts, EVENT));
    vbc_stop(v);
}

/* The event */

static void next_second(Vbc *v)
{
    qtest_clock_step(v->qts, RATE_LIMIT_NS);
}

static QDict *expect_event(Vbc *v, bool hung)
{
    QDict *event = qtest_qmp_eventwait_ref(v->qts, EVENT);
    QDict *data = qobject_ref(qdict_get_qdict(event, "data"));

    g_assert_cmpint(qdict_get_bool(data, "hung"), ==, hung);
    qobject_unref(event);
    return data;
}

static void expect_no_event(Vbc *v)
{
    /* The bottom half has run, and what it sent has come, before an answer */
    qtest_qmp_assert_success(v->qts, "{'execute': 'query-block-hung'}");
    qtest_qmp_assert_success(v->qts, "{'execute': 'query-block-hung'}");
    g_assert_null(qtest_qmp_event_ref(v->qts, EVENT));
}

static void check_event_names(QDict *data)
{
    g_assert_cmpstr(qdict_get_str(data, "qom-path"), ==, DEVICE);
    g_assert_cmpstr(qdict_get_str(data, "qdev-id"), ==, "vblk");
    g_assert_cmpstr(qdict_get_str(data, "device"), ==, "drv");
    g_assert_true(qdict_haskey(data, "node-name"));
}

static void test_event(const void *opts)
{
    Vbc *v = start(opts, NULL);
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_OUT, .tag = 1, .sector = 8, .len = 4096 },
        { .type = VIRTIO_BLK_T_IN, .tag = 2, .sector = 64, .len = 8192 },
    };
    QDict *data;
    int64_t age;

    if (!v) {
        return;
    }
    vbc_hold(v);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    expect_no_event(v);

    vbc_cancel_req(v, &r[0]);
    data = expect_event(v, true);
    check_event_names(data);
    g_assert_cmpint(qdict_get_int(data, "abandoned"), ==, 1);
    g_assert_cmpint(qdict_get_int(data, "abandoned-bytes"), ==, 4096);
    g_assert_cmpint(qdict_get_int(data, "requests"), ==, 1);
    age = qdict_get_int(data, "max-age-ns");
    g_assert_cmpint(age, >, 0);
    qobject_unref(data);

    vbc_cancel_req(v, &r[1]);
    next_second(v);
    expect_no_event(v);

    vbc_release(v);
    data = expect_event(v, false);
    check_event_names(data);
    g_assert_cmpint(qdict_get_int(data, "abandoned"), ==, 0);
    g_assert_cmpint(qdict_get_int(data, "abandoned-bytes"), ==, 0);
    g_assert_cmpint(qdict_get_int(data, "requests"), ==, 2);
    g_assert_cmpint(qdict_get_int(data, "max-age-ns"), >, age);
    qobject_unref(data);
    next_second(v);
    expect_no_event(v);
    vbc_stop(v);
}

static void hang_and_cancel(Vbc *v, uint64_t tag)
{
    VbcReq r = { .type = VIRTIO_BLK_T_IN, .tag = tag, .sector = 8,
                 .len = 4096 };

    vbc_hold(v);
    vbc_send_all(v, &r, 1);
    vbc_cancel_req(v, &r);
    check_stat(v, "abandoned", 1);
}

static void come_back(Vbc *v)
{
    vbc_release(v);
    wait_stat(v, "abandoned", 0);
}

/* However often it comes and goes: one at once, and then the last one */
static void test_event_rate(const void *opts)
{
    Vbc *v = start(opts, NULL);
    unsigned int i;

    if (!v) {
        return;
    }
    for (i = 0; i < 10; i++) {
        hang_and_cancel(v, i);
        come_back(v);
    }
    qobject_unref(expect_event(v, true));
    expect_no_event(v);
    next_second(v);
    qobject_unref(expect_event(v, false));
    expect_no_event(v);
    next_second(v);
    expect_no_event(v);

    /* The last state comes out, whichever it is */
    hang_and_cancel(v, i++);
    qobject_unref(expect_event(v, true));
    come_back(v);
    expect_no_event(v);
    hang_and_cancel(v, i++);
    expect_no_event(v);
    next_second(v);
    qobject_unref(expect_event(v, true));
    next_second(v);
    expect_no_event(v);
    come_back(v);
    qobject_unref(expect_event(v, false));
    vbc_stop(v);
}

/* A device that goes is told of, too, and no figure of it is left */
static void wait_no_device(Vbc *v)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;
    QDict *device;

    while ((device = query_device(v))) {
        qobject_unref(device);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
}

/* The device goes at once; that its storage is back comes when it is */
static void test_unplug(const void *opts)
{
    Vbc *v = start(opts, NULL);
    QDict *data;

    if (!v) {
        return;
    }
    hang_and_cancel(v, 1);
    qobject_unref(expect_event(v, true));
    qpci_unplug_acpi_device_test(v->qts, "vblk", VBC_SLOT);
    next_second(v);
    expect_no_event(v);
    expect_hmp(v, "info block-hung",
               "^vblk, unplugged \\(.*\\): storage hangs");
    vbc_release(v);
    data = expect_event(v, false);
    g_assert_cmpstr(qdict_get_str(data, "qom-path"), ==, DEVICE);
    g_assert_cmpstr(qdict_get_str(data, "qdev-id"), ==, "vblk");
    qobject_unref(data);
    wait_no_device(v);
    expect_no_reset_of(v, "vblk");
    vbc_abandon(v);
}

/* There is nothing to tell of one that was well */
static void test_unplug_idle(const void *base)
{
    Vbc *v = vbc_start(base);

    /* qpci_unplug_acpi_device_test() throws other events away */
    qtest_qmp_device_del_send(v->qts, "vblk");
    qtest_outl(v->qts, ACPI_EJECT, 1 << VBC_SLOT);
    wait_no_device(v);
    expect_no_event(v);
    next_second(v);
    expect_no_event(v);
    vbc_abandon(v);
}

/* The trace log, as scripts/blk-cancel-timeline reads it */

static char *run_timeline(const char *script, const char *log)
{
    const char *argv[] = { script, log, "--disk", "vblk", NULL };
    GError *err = NULL;
    char *out = NULL;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &out, NULL, &status,
                 &err);
    g_assert_no_error(err);
    g_assert_cmpint(status, ==, 0);
    return out;
}

static void expect_line(const char *out, const char *pattern)
{
    if (!g_regex_match_simple(pattern, out, G_REGEX_MULTILINE, 0)) {
        g_test_message("no line '%s' in", pattern);
        g_test_message("%s", out);
        g_assert_not_reached();
    }
}

/* Two that hang, one behind them, a CANCEL in vain, and a reset */
static void write_log(Vbc *v)
{
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_OUT, .tag = 0x11, .sector = 8, .len = 4096 },
        { .type = VIRTIO_BLK_T_IN, .tag = 0x12, .sector = 64, .len = 8192 },
    };
    VbcReq behind = { .type = VIRTIO_BLK_T_IN, .tag = 0x13, .sector = 8,
                      .len = 512 };

    vbc_hold(v);
    vbc_send_all(v, r, ARRAY_SIZE(r));
    vbc_cancel_req(v, &r[0]);
    vbc_send_all(v, &behind, 1);
    check_stat(v, "waiting-fence", 1);
    vbc_cancel(v, v->q, 0x77, VIRTIO_BLK_S_OK);
    vbc_restart_device(v);
    come_back(v);
    vbc_write(v, 8, 4096, VBC_OLD);
    vbc_stop(v);
}

static void test_timeline(const void *base)
{
    const char *script = getenv("QTEST_TIMELINE");
    VbcOptions opts = *(const VbcOptions *)base;
    g_autofree char *log = NULL;
    g_autofree char *args = NULL;
    g_autofree char *out = NULL;
    Vbc *v;

    if (!script) {
        g_test_skip("QTEST_TIMELINE does not name blk-cancel-timeline");
        return;
    }
    log = g_strdup_printf("%s/qtest-timeline-%d", g_get_tmp_dir(), getpid());
    args = g_strdup_printf("-msg timestamp=on -D %s -trace blk_cancel_* "
                           "-trace virtio_blk_*", log);
    opts.server = true;
    opts.args = args;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    write_log(v);

    out = run_timeline(script, log);
    expect_line(out, "^Disk vblk \\(.*\\); 0 s is 20");
    expect_line(out, "#1 write 4 KiB at 4 KiB: submitted, queue \\d,"
                     " tag 0x11$");
    expect_line(out, "#1 write 4 KiB at 4 KiB: CANCEL: given back$");
    expect_line(out, "#1 write 4 KiB at 4 KiB: abandoned, \\d+\\.\\d+ s old$");
    expect_line(out, "#1 write 4 KiB at 4 KiB: finished late,");
    expect_line(out, "#2 read 8 KiB at 32 KiB: dropped by a reset$");
    expect_line(out, "#2 read 8 KiB at 32 KiB: abandoned,");
    expect_line(out, "#3 read 512 B at 4 KiB: waits at the fence$");
    expect_line(out, "#3 read 512 B at 4 KiB: dropped by a reset$");
    expect_line(out, "CANCEL of tag 0x77 on queue \\d: unknown tag$");
    expect_line(out, "RESET: 2 requests dropped$");
    expect_line(out, "the storage is back: it hung for .* abandoned: 2 ---$");
    unlink(log);
}

int main(int argc, char **argv)
{
    unsigned int threads = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    g_test_init(&argc, &argv, NULL);
    vbc_add_test("figures/outcomes", VBC_SETUP_PLAIN, test_outcomes);
    vbc_add_test("figures/completed", VBC_SETUP_PLAIN, test_completed);
    vbc_add_test("figures/abandoned", threads, test_abandoned);
    vbc_add_test("figures/budget", VBC_SETUP_PLAIN, test_waiting_budget);
    vbc_add_test("figures/names", VBC_SETUP_PLAIN, test_names);
    vbc_add_test("figures/qom", VBC_SETUP_PLAIN, test_qom);
    vbc_add_test("figures/reset", VBC_SETUP_PLAIN, test_reset_by_id);
    vbc_add_test("figures/hmp", VBC_SETUP_PLAIN, test_hmp);
    qtest_add_func("/virtio-blk-cancel/figures/off", test_off);
    vbc_add_test("event/hung", threads, test_event);
    vbc_add_test("event/rate", VBC_SETUP_IOTHREADS, test_event_rate);
    vbc_add_test("event/unplug", threads, test_unplug);
    vbc_add_test("event/unplug-idle", VBC_SETUP_PLAIN, test_unplug_idle);
    vbc_add_test("timeline", VBC_SETUP_PLAIN, test_timeline);
    return g_test_run();
}
