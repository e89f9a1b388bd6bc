/*
 * Tests of NVMe commands that are taken back: resets and the like
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qdict.h"
#include "standard-headers/linux/pci_regs.h"
#include "nvme-cancel-lib.h"

#define BLOCKS   8      /* of a command */
#define HANGING  24     /* commands that hang */
#define ON_NULL  "driver=null-co,size=4M,latency-ns=500000000"
#define QUEUE_1  2      /* of a bitmap */
#define QUEUE_2  4

/* What is written by commands that hang, and by later ones */
#define NEW      11
#define NEWEST   21

typedef struct Reset {
    const char *name;
    NvdOptions opts;
    bool finds_again;           /* the PCI device is reset as well */
    void (*reset)(Nvd *v);
} Reset;

static void reset_controller(Nvd *v)
{
    nvd_disable(v);
}

static void reset_function(Nvd *v)
{
    uint8_t cap = qpci_find_capability(v->dev, PCI_CAP_ID_EXP, 0);
    uint16_t control;

    g_assert_cmphex(cap, !=, 0);
    control = qpci_config_readw(v->dev, cap + PCI_EXP_DEVCTL);
    qpci_config_writew(v->dev, cap + PCI_EXP_DEVCTL,
                       control | PCI_EXP_DEVCTL_BCR_FLR);
}

static void reset_bus(Nvd *v)
{
    QPCIDevice *port = qpci_device_find(v->bus, QPCI_DEVFN(NVD_SLOT, 0));
    uint16_t control = qpci_config_readw(port, PCI_BRIDGE_CONTROL);

    qpci_config_writew(port, PCI_BRIDGE_CONTROL,
                       control | PCI_BRIDGE_CTL_BUS_RESET);
    qpci_config_writew(port, PCI_BRIDGE_CONTROL, control);
    g_free(port);
}

static void reset_system(Nvd *v)
{
    qtest_qmp_assert_success(v->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(v->qts, "RESET");
}

/* A shutdown that is under way is given up as well. */
static void reset_in_shutdown(Nvd *v)
{
    nvd_writel(v, NVD_REG_CC, NVD_CC_EN | NVD_CC_SHN_NORMAL);
    nvd_wait_csts(v, NVD_CSTS_SHST, NVD_CSTS_SHST_BUSY);
    nvd_disable(v);
    nvd_wait_csts(v, NVD_CSTS_SHST, 0);
}

static const Reset resets[] = {
    { "controller", {}, false, reset_controller },
    { "function", {}, true, reset_function },
    { "bus", { .port = true }, true, reset_bus },
    { "system", {}, true, reset_system },
    { "in-shutdown", {}, false, reset_in_shutdown },
    { "metadata", { NVD_METADATA, .keep = true }, false, reset_controller },
    { "protection", { NVD_PROTECTION }, false, reset_controller },
};

static bool was_aborted(unsigned int i)
{
    return i % 3 == 2;
}

/*
 * Hold the storage and send HANGING commands on all queues; their blocks are
 * the first HANGING * BLOCKS.  Some are aborted, and their buffers used again.
 */
static void hang_some(Nvd *v, NvdCmd *c)
{
    static const uint8_t opcode[] = {
        NVD_READ, NVD_WRITE, NVD_WRITE, NVD_READ, NVD_COMPARE, NVD_DSM,
        NVD_FLUSH, NVD_WRITE_ZEROES, NVD_COPY, NVD_VERIFY, NVD_WRITE,
    };

    nvd_hold(v);
    for (unsigned int i = 0; i < HANGING; i++) {
        c[i] = (NvdCmd) {
            .opcode = opcode[i % ARRAY_SIZE(opcode)], .queue = 1 + i % 2,
            .nsid = 1 + i / 2 % 2, .slba = i * BLOCKS, .blocks = BLOCKS / 2,
            .fill = NEW,
        };
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);
    for (unsigned int i = 0; i < HANGING; i++) {
        if (was_aborted(i)) {
            nvd_abort(v, &c[i]);
            nvd_reuse(v, &c[i]);
        }
    }
}

/*
 * Newer writes to all that has hung in these queues: they wait for the storage,
 * and prevail.
 */
static void write_newest(Nvd *v, NvdCmd *w, unsigned int queues)
{
    for (unsigned int i = 0; i < HANGING; i++) {
        w[i] = (NvdCmd) {
            .opcode = NVD_WRITE, .queue = 1 + i % 2, .nsid = 1 + i / 2 % 2,
            .slba = i * BLOCKS, .blocks = BLOCKS, .fill = NEWEST,
        };
        if (queues & 1 << w[i].queue) {
            nvd_send(v, &w[i]);
        }
    }
    nvd_sync(v);
    for (unsigned int i = 0; i < HANGING; i++) {
        nvd_expect_pending(v, &w[i]);
    }
}

static void check_newest(Nvd *v, NvdCmd *w, unsigned int queues)
{
    for (unsigned int i = 0; i < HANGING; i++) {
        if (queues & 1 << w[i].queue) {
            nvd_expect(v, &w[i], NVD_OK);
        }
    }
    for (unsigned int i = 0; i < HANGING; i++) {
        if (queues & 1 << w[i].queue) {
            nvd_check_disk(v, w[i].nsid, w[i].slba, BLOCKS, NEWEST);
        }
    }
}

/* The host uses its old queues for something else. */
static void reuse_queues(Nvd *v, NvdQueue *old)
{
    memcpy(old, v->queue, sizeof(v->queue));
    for (unsigned int i = 0; i < NVD_QUEUES; i++) {
        qtest_memset(v->qts, old[i].cq, NVD_POISON, NVD_QUEUE_SIZE * 16);
    }
}

static void check_reused_queues(Nvd *v, NvdQueue *old)
{
    for (unsigned int i = 0; i < NVD_QUEUES; i++) {
        uint8_t buf[NVD_QUEUE_SIZE * 16];

        qtest_memread(v->qts, old[i].cq, buf, sizeof(buf));
        for (unsigned int j = 0; j < sizeof(buf); j++) {
            g_assert_cmphex(buf[j], ==, NVD_POISON);
        }
    }
}

/*
 * A reset does not wait.  Nothing is completed or touched after it, and what
 * is written later prevails.
 */
static void test_reset(const void *opaque)
{
    const Reset *t = opaque;
    Nvd *v = nvd_start(&t->opts);
    NvdCmd event = { .opcode = NVD_ADM_ASYNC_EVENT };
    NvdCmd cache = { .opcode = NVD_ADM_SET_FEATURES,
                     .cdw10 = NVD_FEAT_WRITE_CACHE };
    NvdCmd c[HANGING], w[HANGING];
    NvdQueue old[NVD_QUEUES];
    gint64 start;

    if (!v) {
        return;
    }
    hang_some(v, c);
    nvd_send(v, &event);
    nvd_send(v, &cache);
    nvd_sync(v);

    hold_storage_watch_begin(v->storage);
    start = g_get_monotonic_time();
    t->reset(v);
    g_test_message("it took %" PRId64 " us", g_get_monotonic_time() - start);
    for (unsigned int i = 0; i < HANGING; i++) {
        nvd_reuse(v, &c[i]);
    }
    reuse_queues(v, old);
    if (t->finds_again) {
        nvd_find_device(v);
    }
    nvd_enable(v);
    write_newest(v, w, QUEUE_1 | QUEUE_2);
    hold_storage_watch_end(v->storage);

    nvd_release(v);
    check_newest(v, w, QUEUE_1 | QUEUE_2);
    for (unsigned int i = 0; i < HANGING; i++) {
        nvd_check_reused(v, &c[i]);
    }
    check_reused_queues(v, old);
    g_assert_cmphex(nvd_readl(v, NVD_REG_CSTS), ==, NVD_CSTS_RDY);
    nvd_stop(v);
}

/* A Format that a reset has ended is to be done again. */
static void test_format(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd format = { .opcode = NVD_ADM_FORMAT, .nsid = 1 };
    NvdCmd read = { .opcode = NVD_READ, .queue = 1 };

    if (!v) {
        return;
    }
    nvd_hold(v);
    nvd_send(v, &format);
    nvd_sync(v);
    hold_storage_watch_begin(v->storage);
    nvd_disable(v);
    nvd_enable(v);
    nvd_do(v, &read, NVD_FORMAT_IN_PROGRESS);
    hold_storage_watch_end(v->storage);
    nvd_release(v);
    nvd_do(v, &format, NVD_OK);
    nvd_do(v, &read, NVD_OK);
    nvd_stop(v);
}

/* One reset after the other, with everything hanging. */
/*
 * A reset, or the deletion of a queue, waits for what cannot be taken back, and
 * not for what has been aborted.
 */
static void check_left_alone(void (*end)(Nvd *v))
{
    Nvd *v = nvd_start(&(NvdOptions) {
        .ns = ",cancel-budget=4k", .drive = ON_NULL,
    });
    NvdCmd hung = { .opcode = NVD_WRITE, .queue = 1, .nsid = 2, .fill = NEW };
    NvdCmd large = { .opcode = NVD_WRITE, .queue = 1, .blocks = 2 * BLOCKS };
    bool waited = false;

    if (!v) {
        return;
    }
    for (unsigned int i = 0; !waited && i < 20; i++) {
        nvd_hold(v);
        nvd_send(v, &hung);
        nvd_sync(v);
        nvd_abort(v, &hung);
        nvd_send(v, &large);
        g_assert_cmpuint(nvd_abort_cid(v, 1, large.cid), ==, 1);
        waited = !large.order;
        hold_storage_watch_begin(v->storage);
        end(v);
        hold_storage_watch_end(v->storage);
        nvd_reuse(v, &hung);
        nvd_release(v);
        nvd_check_read(v, 2, BLOCKS, 1, 0);
        nvd_check_reused(v, &hung);
    }
    g_assert_true(waited);
    nvd_stop(v);
}

static void disable_and_enable(Nvd *v)
{
    nvd_disable(v);
    nvd_enable(v);
}

static void delete_queue_1(Nvd *v)
{
    NvdCmd delete = { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = 1 };
    NvdCmd delete_cq = { .opcode = NVD_ADM_DELETE_CQ, .cdw10 = 1 };

    nvd_do(v, &delete, NVD_OK);
    nvd_do(v, &delete_cq, NVD_OK);
    nvd_create_queue(v, 1);
}

static void test_left_alone(void)
{
    check_left_alone(disable_and_enable);
}

static void test_left_alone_queue(void)
{
    check_left_alone(delete_queue_1);
}

static void test_again(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd c[HANGING], w[HANGING];

    if (!v) {
        return;
    }
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = 0; i < 10; i++) {
        hang_some(v, c);
        nvd_disable(v);
        nvd_enable(v);
    }
    hold_storage_watch_end(v->storage);
    write_newest(v, w, QUEUE_1 | QUEUE_2);
    nvd_release(v);
    check_newest(v, w, QUEUE_1 | QUEUE_2);
    nvd_stop(v);
}

/* What cannot be taken back is waited for. */
static void test_over_budget(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .ns = ",cancel-budget=1k" });
    NvdCmd c[HANGING], w[HANGING];
    GThread *thread;

    if (!v) {
        return;
    }
    nvd_hold(v);
    for (unsigned int i = 0; i < HANGING; i++) {
        c[i] = (NvdCmd) { .opcode = NVD_WRITE, .queue = 1 + i % 2,
                          .slba = i * BLOCKS, .blocks = BLOCKS, .fill = NEW };
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);
    thread = hold_storage_release_soon(v->storage);
    nvd_disable(v);
    g_thread_join(thread);
    for (unsigned int i = 0; i < HANGING; i++) {
        nvd_check_disk(v, 1, c[i].slba, BLOCKS, NEW);
        nvd_reuse(v, &c[i]);
    }

    nvd_enable(v);
    nvd_hold(v);
    write_newest(v, w, QUEUE_1 | QUEUE_2);
    nvd_release(v);
    check_newest(v, w, QUEUE_1 | QUEUE_2);
    nvd_stop(v);
}

/* A queue is deleted with all that hangs in it, and others go on. */
static void test_delete_queue(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    NvdCmd delete_sq = { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = 1 };
    NvdCmd delete_cq = { .opcode = NVD_ADM_DELETE_CQ, .cdw10 = 1 };
    NvdCmd c[HANGING], w[HANGING];

    if (!v) {
        return;
    }
    hang_some(v, c);
    hold_storage_watch_begin(v->storage);
    nvd_do(v, &delete_sq, NVD_OK);
    nvd_reap(v);
    for (unsigned int i = 0; i < HANGING; i++) {
        if (was_aborted(i)) {
            continue;
        }
        if (c[i].queue == 1) {
            nvd_expect(v, &c[i], NVD_SQ_DELETED);
            nvd_reuse(v, &c[i]);
        } else {
            nvd_expect_pending(v, &c[i]);
        }
    }

    /* Nothing of it is left to be aborted. */
    nvd_do(v, &delete_cq, NVD_OK);
    nvd_create_queue(v, 1);
    g_assert_cmpuint(nvd_abort_cid(v, 1, c[0].cid), ==, 1);

    write_newest(v, w, QUEUE_1);
    hold_storage_watch_end(v->storage);
    nvd_release(v);
    check_newest(v, w, QUEUE_1);
    for (unsigned int i = 0; i < HANGING; i++) {
        if (c[i].queue == 1 || was_aborted(i)) {
            nvd_check_reused(v, &c[i]);
        } else {
            nvd_expect(v, &c[i], c[i].opcode == NVD_COMPARE ?
                                 NVD_COMPARE_FAILED : NVD_OK);
        }
    }
    nvd_stop(v);
}

/*
 * While a deletion waits for a command that cannot be taken back, another one
 * of the same queue could be fetched: when the flush that has the last entry of
 * the admin queue ends.
 */
static void test_delete_twice(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .drive = ON_NULL, .admin_entries = 3,
                                       .ns = ",cancel-budget=1k" });
    NvdCmd write = { .opcode = NVD_WRITE, .queue = 1, .blocks = BLOCKS };
    NvdCmd flush = { .opcode = NVD_ADM_SET_FEATURES,
                     .cdw10 = NVD_FEAT_WRITE_CACHE };
    NvdCmd delete_sq[2] = { { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = 1 },
                            { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = 1 } };
    NvdCmd event;
    GThread *thread;

    if (!v) {
        return;
    }
    nvd_send_events(v, &event, 1);
    nvd_hold(v);
    nvd_send(v, &flush);
    nvd_sync(v);
    nvd_expect_pending(v, &flush);
    nvd_send(v, &write);
    nvd_add(v, &delete_sq[0]);
    nvd_add(v, &delete_sq[1]);
    thread = hold_storage_release_soon(v->storage);
    nvd_ring(v, 0);
    nvd_expect(v, &flush, NVD_OK);
    nvd_expect(v, &delete_sq[0], NVD_OK);
    nvd_expect(v, &delete_sq[1], NVD_INVALID_QUEUE);
    g_thread_join(thread);
    nvd_expect(v, &write, NVD_OK);
    nvd_abort_events(v, &event, 1);
    nvd_stop(v);
}

static uint64_t write_pointer(Nvd *v, uint64_t slba)
{
    NvdCmd report = { .opcode = NVD_ZONE_RECEIVE, .queue = 2, .slba = slba };

    nvd_do(v, &report, NVD_OK);
    g_assert_cmphex(qtest_readq(v->qts, report.data + 64 + 16), ==, slba);
    return qtest_readq(v->qts, report.data + 64 + 24);
}

/*
 * A Copy to a zone is dropped while it writes.  The host asks for the write
 * pointer, and goes on from there.
 */
static void test_zoned_copy(const void *deletes)
{
    Nvd *v = nvd_start(&(NvdOptions) { .zoned = true, .zeroes = true });
    NvdCmd copy = { .opcode = NVD_COPY, .queue = 1, .blocks = BLOCKS,
                    .slba = NVD_ZONE - BLOCKS };
    NvdCmd delete_sq = { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = 1 };
    NvdCmd delete_cq = { .opcode = NVD_ADM_DELETE_CQ, .cdw10 = 1 };
    uint64_t wp;

    if (!v) {
        return;
    }
    nvd_hold(v);
    nvd_send(v, &copy);
    nvd_sync(v);
    nvd_sync(v);
    nvd_expect_pending(v, &copy);
    hold_storage_watch_begin(v->storage);
    if (deletes) {
        nvd_do(v, &delete_sq, NVD_OK);
        nvd_expect(v, &copy, NVD_SQ_DELETED);
        nvd_do(v, &delete_cq, NVD_OK);
        nvd_create_queue(v, 1);
    } else {
        nvd_disable(v);
        nvd_enable(v);
    }
    wp = write_pointer(v, NVD_ZONE);
    hold_storage_watch_end(v->storage);

    /* Behind what it was about to write, which nobody may count on */
    g_assert_cmpuint(wp, ==, NVD_ZONE + BLOCKS);
    nvd_release(v);
    nvd_write(v, 1, wp, BLOCKS, NEWEST);
    nvd_check_disk(v, 1, wp, BLOCKS, NEWEST);
    g_assert_cmpuint(write_pointer(v, NVD_ZONE), ==, wp + BLOCKS);
    nvd_stop(v);
}

/* The shutdown notification does not wait; the host can see it proceed. */
static void test_shutdown(void)
{
    Nvd *v = nvd_start(&(NvdOptions) {});
    uint32_t notified = NVD_CC_EN | NVD_CC_SHN_NORMAL;
    NvdCmd flush = { .opcode = NVD_FLUSH, .queue = 1, .nsid = NVD_ALL_NS };

    if (!v) {
        return;
    }
    nvd_hold(v);
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = 0; i < 300; i++) {
        nvd_writel(v, NVD_REG_CC, NVD_CC_EN);
        g_assert_cmphex(nvd_readl(v, NVD_REG_CSTS), ==, NVD_CSTS_RDY);
        nvd_writel(v, NVD_REG_CC, notified);
        g_assert_cmphex(nvd_readl(v, NVD_REG_CSTS), ==,
                        NVD_CSTS_RDY | NVD_CSTS_SHST_BUSY);
    }

    /* One that was withdrawn has no end. */
    nvd_writel(v, NVD_REG_CC, NVD_CC_EN);
    hold_storage_watch_end(v->storage);
    nvd_release(v);
    nvd_do(v, &flush, NVD_OK);
    nvd_sync(v);
    g_assert_cmphex(nvd_readl(v, NVD_REG_CSTS), ==, NVD_CSTS_RDY);

    nvd_writel(v, NVD_REG_CC, notified);
    nvd_wait_csts(v, NVD_CSTS_SHST, NVD_CSTS_SHST_DONE);

    nvd_disable(v);
    nvd_enable(v);
    nvd_stop(v);
}

/* With cancel=off it has waited when the register has been written. */
static void test_shutdown_off(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .off = true });

    if (!v) {
        return;
    }
    nvd_writel(v, NVD_REG_CC, NVD_CC_EN | NVD_CC_SHN_NORMAL);
    g_assert_cmphex(nvd_readl(v, NVD_REG_CSTS), ==,
                    NVD_CSTS_RDY | NVD_CSTS_SHST_DONE);
    nvd_disable(v);
    nvd_enable(v);
    nvd_stop(v);
}

/*
 * A read whose data goes to where the controller's own PCI configuration is in
 * memory, so that completing it resets the function.  The machine must not
 * stand still; what is to go to the controller's registers is refused as ever.
 */

#define ECAM            0xb0000000
#define PCIEXBAR        0x60    /* of the host bridge of q35 */
#define BUS_1           (1 << 20)
#define DATA_ERROR      0x4004  /* Data Transfer Error, do not retry */

static void kill_qemu(void *opaque)
{
    kill(qtest_pid(((Nvd *)opaque)->qts), SIGKILL);
}

static void write_at(Nvd *v, const void *data, size_t len)
{
    NvdCmd c = { .opcode = NVD_WRITE, .queue = 1 };
    uint8_t buf[NVD_BLOCK] = {};

    memcpy(buf, data, len);
    c.at = guest_alloc(&v->alloc, NVD_BLOCK);
    qtest_memwrite(v->qts, c.at, buf, sizeof(buf));
    nvd_do(v, &c, NVD_OK);
}

static void test_own_registers(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { .port = true });
    const uint16_t reset = cpu_to_le16(PCI_EXP_DEVCTL_BCR_FLR);
    NvdCmd c = { .opcode = NVD_READ, .queue = 1 };
    HangWatch *watch;
    QPCIDevice *host;
    uint8_t cap;

    if (!v) {
        return;
    }
    host = qpci_device_find(v->bus, QPCI_DEVFN(0, 0));
    qpci_config_writel(host, PCIEXBAR, ECAM | 1);
    g_free(host);
    write_at(v, &reset, sizeof(reset));
    watch = hang_watch_begin(HOLD_STORAGE_PATIENCE_US, kill_qemu, v);
    cap = qpci_find_capability(v->dev, PCI_CAP_ID_EXP, 0);
    c.at = ECAM + BUS_1 + cap + PCI_EXP_DEVCTL;
    nvd_do(v, &c, NVD_OK);
    g_assert_cmphex(nvd_readl(v, NVD_REG_CSTS), ==, NVD_CSTS_RDY);
    c.at = v->bar.addr + NVD_REG_CC;
    nvd_do(v, &c, DATA_ERROR);
    nvd_check_read(v, 2, 0, 1, 0);
    nvd_stop(v);
    hang_watch_end(watch);
}

void nvd_add_reset_tests(void)
{
    for (unsigned int i = 0; i < ARRAY_SIZE(resets); i++) {
        g_autofree char *path = g_strdup_printf("/nvme-cancel/reset/%s",
                                                resets[i].name);

        qtest_add_data_func(path, &resets[i], test_reset);
    }
    qtest_add_func("/nvme-cancel/reset/format", test_format);
    qtest_add_func("/nvme-cancel/reset/again", test_again);
    qtest_add_func("/nvme-cancel/reset/over-budget", test_over_budget);
    qtest_add_func("/nvme-cancel/reset/left-alone", test_left_alone);
    qtest_add_func("/nvme-cancel/own-registers", test_own_registers);
    qtest_add_func("/nvme-cancel/delete-queue/left-alone",
                   test_left_alone_queue);
    qtest_add_func("/nvme-cancel/delete-queue/hanging", test_delete_queue);
    qtest_add_func("/nvme-cancel/delete-queue/twice", test_delete_twice);
    qtest_add_data_func("/nvme-cancel/zoned-copy/reset", NULL,
                        test_zoned_copy);
    qtest_add_data_func("/nvme-cancel/zoned-copy/delete-queue", "",
                        test_zoned_copy);
    qtest_add_func("/nvme-cancel/shutdown/on", test_shutdown);
    qtest_add_func("/nvme-cancel/shutdown/off", test_shutdown_off);
}
