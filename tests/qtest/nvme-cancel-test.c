/*
 * Tests of NVMe commands that are taken back: Abort
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * In nvme-cancel-reset.c are resets, deleted queues and shutdowns, in
 * nvme-cancel-status.c what asks which blocks are zeroed, in nvme-cancel-vf.c
 * virtual functions, in nvme-cancel-random.c all at once.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "cancel-figures.h"
#include "gate-patience.h"
#include "nvme-cancel-lib.h"

#define BLOCKS  4       /* of most commands */
#define SLBA    64
#define HANGING 8

/* What the disk holds, and what is written by commands that are aborted */
#define OLD     1
#define NEW     11
#define NEWEST  21

typedef struct Target {
    const char *name;
    uint8_t opcode;
    uint32_t nsid;
    NvdOptions opts;
} Target;

static const Target targets[] = {
    { "read", NVD_READ },
    { "read-own", NVD_READ, 1, { .own = true } },
    { "write", NVD_WRITE },
    { "write-zeroes", NVD_WRITE_ZEROES },
    { "flush", NVD_FLUSH },
    { "flush-all", NVD_FLUSH, NVD_ALL_NS },
    { "dsm", NVD_DSM },
    { "compare", NVD_COMPARE },
    { "verify", NVD_VERIFY },
    { "copy", NVD_COPY },
    { "read-metadata", NVD_READ, 1, { NVD_METADATA } },
    { "write-metadata", NVD_WRITE, 1, { NVD_METADATA } },
    { "compare-metadata", NVD_COMPARE, 1, { NVD_METADATA } },
    { "dsm-metadata", NVD_DSM, 1, { NVD_METADATA } },
    { "copy-metadata", NVD_COPY, 1, { NVD_METADATA } },
    { "read-protected", NVD_READ, 1, { NVD_PROTECTION } },
    { "write-protected", NVD_WRITE, 1, { NVD_PROTECTION } },
    { "write-zeroes-protected", NVD_WRITE_ZEROES, 1, { NVD_PROTECTION } },
    { "verify-protected", NVD_VERIFY, 1, { NVD_PROTECTION } },
};

/* Nothing has failed in the eyes of who manages the host. */
static void expect_no_failures(QTestState *qts)
{
    static const char *const counter[] = {
        "failed_rd_operations", "failed_wr_operations",
        "failed_flush_operations", "failed_unmap_operations",
    };
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-blockstats'}");
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), entry) {
        QDict *disk = qobject_to(QDict, qlist_entry_obj(entry));
        QDict *stats = qdict_get_qdict(disk, "stats");

        for (unsigned int i = 0; i < ARRAY_SIZE(counter); i++) {
            g_assert_cmpint(qdict_get_int(stats, counter[i]), ==, 0);
        }
    }
    qobject_unref(rsp);
}

/*
 * A command that hangs is aborted, once.  A newer write to the same blocks
 * prevails, and what the storage does late reaches neither memory nor disk.
 */
static void test_abort(const void *opaque)
{
    const Target *t = opaque;
    NvdCmd c = { .opcode = t->opcode, .nsid = t->nsid, .slba = SLBA,
                 .blocks = BLOCKS, .fill = NEW, .queue = 1 };
    NvdCmd newest = { .opcode = NVD_WRITE, .slba = SLBA, .blocks = 2 * BLOCKS,
                      .fill = NEWEST, .queue = 2 };
    Nvd *v = nvd_start(&t->opts);

    if (!v) {
        return;
    }
    nvd_write(v, 1, SLBA, BLOCKS, OLD);
    nvd_hold(v);
    nvd_send(v, &c);
    nvd_sync(v);
    nvd_expect_pending(v, &c);
    hold_storage_watch_begin(v->storage);
    nvd_abort(v, &c);
    g_assert_cmpuint(nvd_abort_cid(v, 1, c.cid), ==, 1);
    hold_storage_watch_end(v->storage);
    if (c.nsid != NVD_ALL_NS) {     /* else it is of no namespace */
        expect_cancels(v->qts, v->opts.own ? "nvme0" : "ns1", 1, 0, 0, 0);
    }
    expect_no_failures(v->qts);
    nvd_reuse(v, &c);

    nvd_send(v, &newest);
    nvd_sync(v);
    nvd_expect_pending(v, &newest);
    nvd_release(v);
    nvd_expect(v, &newest, NVD_OK);
    nvd_check_reused(v, &c);
    nvd_check_read(v, 1, SLBA, 2 * BLOCKS, NEWEST);
    nvd_check_disk(v, 1, SLBA, 2 * BLOCKS, NEWEST);
    nvd_stop(v);
}

/* Targets are aborted alone: their neighbours end as if nothing had been. */
static void test_many(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd c[48];

    if (!v) {
        return;
    }
    nvd_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        c[i] = (NvdCmd) {
            .opcode = i % 2 ? NVD_WRITE : NVD_READ, .slba = i * BLOCKS,
            .nsid = 1 + i % 5 / 4, .queue = 1 + i % 3 / 2, .blocks = BLOCKS,
            .fill = NEW,
        };
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = ARRAY_SIZE(c); i-- > 0;) {
        if (i % 4 > 1) {
            nvd_abort(v, &c[i]);
            nvd_reuse(v, &c[i]);
        }
    }
    hold_storage_watch_end(v->storage);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        g_assert_cmpint(!c[i].order, ==, i % 4 <= 1);
    }

    nvd_release(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        if (i % 4 > 1) {
            nvd_check_reused(v, &c[i]);
            continue;
        }
        nvd_expect(v, &c[i], NVD_OK);
        if (c[i].opcode == NVD_WRITE) {
            nvd_check_disk(v, c[i].nsid, c[i].slba, BLOCKS, NEW);
        } else {
            nvd_check_data(v, &c[i], 0);
        }
    }
    nvd_stop(v);
}

/* Abort answers "not aborted" if there is nothing to be aborted. */
static void test_not_there(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd done = { .opcode = NVD_WRITE, .queue = 1, .fill = NEW };
    NvdCmd queue = { .opcode = NVD_ADM_ABORT, .cdw10 = 7 };
    uint16_t self;

    if (!v) {
        return;
    }
    nvd_do(v, &done, NVD_OK);
    g_assert_cmpuint(nvd_abort_cid(v, 1, done.cid), ==, 1);
    g_assert_cmpuint(nvd_abort_cid(v, 1, 0x1234), ==, 1);

    nvd_do(v, &queue, NVD_INVALID_FIELD);
    g_assert_cmphex(queue.result, ==, 1);

    self = v->queue[0].sq_tail;
    g_assert_cmpuint(nvd_abort_cid(v, 0, self), ==, 1);
    nvd_stop(v);
}

/* An Asynchronous Event Request was always aborted, also with others around. */
static void test_async_event(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd c[3];

    if (!v) {
        return;
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        c[i] = (NvdCmd) { .opcode = NVD_ADM_ASYNC_EVENT };
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);
    nvd_abort(v, &c[1]);
    nvd_abort(v, &c[0]);
    nvd_expect_pending(v, &c[2]);
    nvd_abort(v, &c[2]);
    nvd_stop(v);
}

#define ON_NULL "driver=null-co,size=4M,read-zeroes=on"

/*
 * A command whose result is known is not aborted.  Both are fetched together:
 * the flush of null-co ends at once, its completion is still to come.
 */
static void test_result_known(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .drive = ON_NULL });
    NvdCmd set = { .opcode = NVD_ADM_SET_FEATURES,
                   .cdw10 = NVD_FEAT_WRITE_CACHE };
    NvdCmd abort = { .opcode = NVD_ADM_ABORT };

    if (!v) {
        return;
    }

    /* With two namespaces the second flush hangs: that is aborted. */
    nvd_hold(v);
    abort.cdw10 = v->queue[0].sq_tail << 16;
    nvd_add(v, &set);
    nvd_add(v, &abort);
    nvd_ring(v, 0);
    nvd_expect(v, &set, NVD_ABORTED);
    nvd_expect(v, &abort, NVD_OK);
    g_assert_cmphex(abort.result, ==, 0);
    nvd_release(v);
    nvd_stop(v);

    v = nvd_start(&(NvdOptions) { .drive = ON_NULL, .single = true });
    abort.cdw10 = v->queue[0].sq_tail << 16;
    nvd_add(v, &set);
    nvd_add(v, &abort);
    nvd_ring(v, 0);
    nvd_expect(v, &set, NVD_OK);
    nvd_expect(v, &abort, NVD_OK);
    g_assert_cmphex(abort.result, ==, 1);
    nvd_stop(v);
}

/* What cannot be taken back says so, and goes on. */
static void check_refused(Nvd *v, NvdCmd *c)
{
    nvd_hold(v);
    nvd_send(v, c);
    nvd_sync(v);
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = 0; i < 3; i++) {
        g_assert_cmpuint(nvd_abort_cid(v, c->queue, c->cid), ==, 1);
    }
    hold_storage_watch_end(v->storage);
    nvd_expect_pending(v, c);
    nvd_release(v);
    nvd_expect(v, c, NVD_OK);
}

static void test_over_budget(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .ns = ",cancel-budget=1k" });
    NvdCmd w = { .opcode = NVD_WRITE, .queue = 1, .slba = SLBA,
                 .blocks = BLOCKS, .fill = NEW };
    NvdCmd r = { .opcode = NVD_READ, .queue = 1, .slba = SLBA,
                 .blocks = BLOCKS, .fill = NVD_POISON };

    if (!v) {
        return;
    }
    check_refused(v, &w);
    nvd_check_disk(v, 1, SLBA, BLOCKS, NEW);
    check_refused(v, &r);
    nvd_check_data(v, &r, NEW);
    expect_cancels(v->qts, "ns1", 0, 0, 0, 6);
    nvd_stop(v);
}

static void test_format(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd format = { .opcode = NVD_ADM_FORMAT, .nsid = 1 };

    if (!v) {
        return;
    }
    nvd_write(v, 1, SLBA, BLOCKS, OLD);
    check_refused(v, &format);
    nvd_check_read(v, 1, SLBA, BLOCKS, 0);
    nvd_stop(v);
}

/* A zone's write pointer is where the host thinks it is. */
static void test_zoned(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .zoned = true });
    NvdCmd w = { .opcode = NVD_WRITE, .queue = 1, .blocks = BLOCKS,
                 .fill = NEW };
    NvdCmd append = { .opcode = NVD_ZONE_APPEND, .queue = 1, .blocks = BLOCKS,
                      .fill = NEW };
    NvdCmd r = { .opcode = NVD_READ, .queue = 1, .blocks = BLOCKS };
    NvdCmd reset = { .opcode = NVD_ZONE_SEND, .queue = 1, .zone_action = 4 };

    if (!v) {
        return;
    }
    check_refused(v, &w);
    check_refused(v, &append);
    g_assert_cmpuint(append.result, ==, BLOCKS);
    nvd_write(v, 1, 2 * BLOCKS, BLOCKS, NEWEST);

    nvd_hold(v);
    nvd_send(v, &r);
    nvd_sync(v);
    nvd_abort(v, &r);
    nvd_release(v);

    check_refused(v, &reset);
    nvd_write(v, 1, 0, BLOCKS, NEWEST);
    nvd_stop(v);
}

/* Data in the controller's memory buffer is left alone, too. */
static void test_cmb(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .controller = ",cmb_size_mb=2" });
    NvdCmd c = { .opcode = NVD_READ, .queue = 1, .slba = SLBA,
                 .blocks = BLOCKS };
    QPCIBar cmb;

    if (!v) {
        return;
    }
    cmb = qpci_iomap(v->dev, 2, NULL);
    nvd_writel(v, NVD_REG_CMBMSC + 4, cmb.addr >> 32);
    nvd_writel(v, NVD_REG_CMBMSC, cmb.addr | 3);
    c.at = cmb.addr;

    nvd_write(v, 1, SLBA, BLOCKS, OLD);
    nvd_do(v, &c, NVD_OK);
    nvd_check_data(v, &c, OLD);

    nvd_hold(v);
    nvd_send(v, &c);
    nvd_sync(v);
    hold_storage_watch_begin(v->storage);
    nvd_abort(v, &c);
    hold_storage_watch_end(v->storage);
    nvd_reuse(v, &c);
    nvd_release(v);
    nvd_write(v, 1, SLBA, BLOCKS, NEWEST);
    nvd_check_reused(v, &c);
    nvd_stop(v);
}

/* Switching the write cache off flushes; that does not stop the machine. */
static void test_write_cache(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd set[2];

    if (!v) {
        return;
    }
    nvd_hold(v);
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = 0; i < ARRAY_SIZE(set); i++) {
        set[i] = (NvdCmd) { .opcode = NVD_ADM_SET_FEATURES,
                            .cdw10 = NVD_FEAT_WRITE_CACHE };
        nvd_send(v, &set[i]);
        nvd_sync(v);
        nvd_expect_pending(v, &set[i]);
    }
    nvd_abort(v, &set[0]);
    hold_storage_watch_end(v->storage);
    nvd_expect_pending(v, &set[1]);
    nvd_release(v);
    nvd_expect(v, &set[1], NVD_OK);
    nvd_stop(v);
}

/* Endless aborts while the storage hangs use up nothing. */
static void test_flood(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd newest = { .opcode = NVD_WRITE, .queue = 2, .slba = 0,
                      .blocks = BLOCKS, .fill = NEWEST };

    if (!v) {
        return;
    }
    nvd_hold(v);
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = 0; i < 500; i++) {
        NvdCmd c = { .opcode = i % 2 ? NVD_WRITE : NVD_FLUSH, .queue = 1,
                     .slba = i % 7, .blocks = BLOCKS, .fill = NEW };

        nvd_send(v, &c);
        nvd_sync(v);
        nvd_abort(v, &c);
    }
    hold_storage_watch_end(v->storage);
    nvd_send(v, &newest);
    nvd_release(v);
    nvd_expect(v, &newest, NVD_OK);
    nvd_check_disk(v, 1, 0, BLOCKS, NEWEST);
    nvd_stop(v);
}

/* With cancel=off Abort is what it was: no command is aborted. */
/* How many Aborts the host may send at a time */
static void check_abort_limit(bool off, uint8_t limit)
{
    Nvd *v = nvd_start(&(NvdOptions) { .off = off });
    NvdCmd identify = { .opcode = NVD_ADM_IDENTIFY, .cdw10 = 1 };

    if (!v) {
        return;
    }
    identify.at = guest_alloc(&v->alloc, 4096);
    nvd_do(v, &identify, NVD_OK);
    g_assert_cmpuint(qtest_readb(v->qts, identify.at + 258), ==, limit);
    nvd_stop(v);
}

static void test_abort_limit(void)
{
    check_abort_limit(false, 255);
    check_abort_limit(true, 3);
}

/*
 * The storage is given an hour: no command, of one step or several, is aborted
 * before; a reset does not wait.
 */
static void test_after(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .ns = ",cancel-after=3600000" });
    NvdCmd c[] = {
        { .opcode = NVD_READ, .slba = SLBA }, { .opcode = NVD_FLUSH },
        { .opcode = NVD_WRITE, .slba = 2 * SLBA },
        { .opcode = NVD_DSM, .slba = 3 * SLBA },
        { .opcode = NVD_COPY, .slba = 4 * SLBA },
    };

    if (!v) {
        return;
    }
    nvd_write(v, 1, SLBA, BLOCKS, OLD);
    nvd_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        c[i].queue = 1;
        c[i].blocks = BLOCKS;
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        g_assert_cmpuint(nvd_abort_cid(v, 1, c[i].cid), ==, 1);
        nvd_expect_pending(v, &c[i]);
    }
    hold_storage_watch_begin(v->storage);
    nvd_disable(v);
    hold_storage_watch_end(v->storage);
    nvd_enable(v);
    nvd_stop(v);
}

/* After that time it is */
static void test_after_that(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .ns = ",cancel-after=100" });
    NvdCmd c[] = { { .opcode = NVD_READ }, { .opcode = NVD_COPY } };

    if (!v) {
        return;
    }
    nvd_hold(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        c[i].queue = 1;
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        while (nvd_abort_cid(v, 1, c[i].cid)) {
            /* not yet */
        }
        nvd_expect(v, &c[i], NVD_ABORTED);
    }
    hold_storage_watch_end(v->storage);
    nvd_stop(v);
}

static void test_off(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .off = true });
    NvdCmd c = { .opcode = NVD_READ, .queue = 1, .slba = SLBA,
                 .blocks = BLOCKS };

    if (!v) {
        return;
    }
    nvd_write(v, 1, SLBA, BLOCKS, OLD);
    nvd_hold(v);
    nvd_send(v, &c);
    nvd_sync(v);
    g_assert_cmpuint(nvd_abort_cid(v, 1, c.cid), ==, 1);
    nvd_expect_pending(v, &c);
    nvd_release(v);
    nvd_expect(v, &c, NVD_ABORTED);
    nvd_check_data(v, &c, OLD);
    nvd_stop(v);
}

/* A controller that makes no namespace of its own cannot have cancel=on. */
static void test_config(void)
{
    QTestState *qts = qtest_init("-nodefaults -machine q35 "
                                 "-device pcie-root-port,id=root-port");
    QDict *reply = qtest_qmp(qts, "{'execute': 'device_add', 'arguments': {"
                             " 'driver': 'nvme', 'bus': 'root-port',"
                             " 'serial': 'nvd', 'cancel': true }}");
    QDict *error = qdict_get_qdict(reply, "error");

    g_assert_nonnull(error);
    g_assert_cmpstr(qdict_get_str(error, "desc"), ==,
                    "cancel=on needs a drive");
    qobject_unref(reply);
    qtest_quit(qts);
}

/* The controller's own namespace can be unplugged, and used again. */
static void test_unplug_idle(void)
{
    QTestState *qts = qtest_init("-nodefaults -machine pc -blockdev "
                                 "null-co,node-name=disk,size=4194304");

    for (unsigned int i = 0; i < 2; i++) {
        qtest_qmp_device_add(qts, "nvme", "nvme0", "{'addr': '4',"
                             " 'serial': 'nvd', 'drive': 'disk',"
                             " 'cancel': true, 'cancel-budget': 65536 }");
        qpci_unplug_acpi_device_test(qts, "nvme0", 4);
    }
    qtest_quit(qts);
}

/*
 * The controller goes while the storage hangs.  A namespace that it had as its
 * own goes with it, when that answers; others stay, in their subsystem.
 */
static void test_unplug(const void *opts)
{
    static const uint8_t opcode[] = { NVD_WRITE, NVD_READ, NVD_DSM };
    Nvd *v = nvd_start(opts);
    NvdCmd c[HANGING];

    if (!v) {
        return;
    }
    nvd_hold(v);
    for (unsigned int i = 0; i < HANGING; i++) {
        c[i] = (NvdCmd) { .opcode = opcode[i % ARRAY_SIZE(opcode)], .queue = 1,
                          .slba = i * BLOCKS, .blocks = BLOCKS, .fill = NEW };
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);

    hold_storage_watch_begin(v->storage);
    qpci_unplug_acpi_device_test(v->qts, "nvme0", NVD_SLOT);
    for (unsigned int i = 0; i < HANGING; i++) {
        nvd_reuse(v, &c[i]);
    }
    g_assert_cmpint(gate_has_orphan(v->qts), ==, v->opts.own);
    hold_storage_watch_end(v->storage);

    nvd_release(v);
    gate_wait_no_orphan(v->qts);
    if (v->opts.own) {
        nvd_check_disk(v, 1, 0, BLOCKS, NEW);
    }
    for (unsigned int i = 0; i < HANGING; i++) {
        nvd_check_reused(v, &c[i]);
    }
    nvd_abandon(v);
}

int main(int argc, char **argv)
{
    static const NvdOptions own = { .unplug = true, .own = true };
    static const NvdOptions namespaces = { .unplug = true };
    static const NvdOptions status = { .unplug = true, NVD_METADATA,
                                       .keep = true };

    g_test_init(&argc, &argv, NULL);

    /* For QEMU: what was freed must not look as if it were still there. */
    g_setenv("MALLOC_PERTURB_", "165", false);
    for (unsigned int i = 0; i < ARRAY_SIZE(targets); i++) {
        g_autofree char *path = g_strdup_printf("/nvme-cancel/abort/%s",
                                                targets[i].name);

        qtest_add_data_func(path, &targets[i], test_abort);
    }
    qtest_add_func("/nvme-cancel/abort/many", test_many);
    qtest_add_func("/nvme-cancel/abort/not-there", test_not_there);
    qtest_add_func("/nvme-cancel/abort/async-event", test_async_event);
    qtest_add_func("/nvme-cancel/abort/result-known", test_result_known);
    qtest_add_func("/nvme-cancel/abort/over-budget", test_over_budget);
    qtest_add_func("/nvme-cancel/abort/format", test_format);
    qtest_add_func("/nvme-cancel/abort/zoned", test_zoned);
    qtest_add_func("/nvme-cancel/abort/cmb", test_cmb);
    qtest_add_func("/nvme-cancel/abort/write-cache", test_write_cache);
    qtest_add_func("/nvme-cancel/abort/flood", test_flood);
    qtest_add_func("/nvme-cancel/abort/limit", test_abort_limit);
    qtest_add_func("/nvme-cancel/abort/after", test_after);
    qtest_add_func("/nvme-cancel/abort/after-that", test_after_that);
    qtest_add_func("/nvme-cancel/abort/off", test_off);
    qtest_add_func("/nvme-cancel/config", test_config);
    qtest_add_func("/nvme-cancel/unplug/idle", test_unplug_idle);
    qtest_add_data_func("/nvme-cancel/unplug/own", &own, test_unplug);
    qtest_add_data_func("/nvme-cancel/unplug/namespaces", &namespaces,
                        test_unplug);
    qtest_add_data_func("/nvme-cancel/unplug/status", &status, test_unplug);
    nvd_add_reset_tests();
    nvd_add_status_tests();
    nvd_add_vf_tests();
    nvd_add_random_tests();
    return g_test_run();
}
