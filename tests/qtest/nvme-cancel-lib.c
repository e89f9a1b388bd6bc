/*
 * What the tests of NVMe commands that are taken back stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/pci_regs.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "disk-pattern.h"
#include "nvme-cancel-lib.h"

#define PAGE_SIZE       4096
#define SQE_SIZE        64
#define CQE_SIZE        16
#define FIRST_CQE_PHASE 1

/* Contents */

void nvd_fill(Nvd *v, NvdCmd *c, int fill)
{
    g_autofree uint8_t *buf = g_malloc(c->data_len);

    disk_pattern(buf, c->data_len, c->slba * NVD_BLOCK, fill ?: DISK_ZEROES);
    qtest_bufwrite(v->qts, c->data, buf, c->data_len);
}

void nvd_check_data(Nvd *v, NvdCmd *c, int fill)
{
    g_autofree uint8_t *buf = g_malloc(c->data_len);

    qtest_bufread(v->qts, c->data, buf, c->data_len);
    disk_pattern_check(buf, c->data_len, c->slba * NVD_BLOCK,
                       fill ?: DISK_ZEROES);
}

void nvd_check_disk(Nvd *v, uint32_t nsid, uint64_t slba, unsigned int blocks,
                    int fill)
{
    size_t len = blocks * NVD_BLOCK;
    g_autofree uint8_t *buf = g_malloc(len);
    int fd;

    if (v->opts.metadata) {
        nvd_check_read(v, nsid, slba, blocks, fill);
        return;
    }
    fd = open(v->storage->image[nsid - 1], O_RDONLY);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, buf, len, slba * NVD_BLOCK), ==, len);
    close(fd);
    disk_pattern_check(buf, len, slba * NVD_BLOCK, fill ?: DISK_ZEROES);
}

void nvd_spoil_disk(Nvd *v, uint32_t nsid, uint64_t slba)
{
    uint8_t block[NVD_BLOCK];
    int fd = open(v->storage->image[nsid - 1], O_WRONLY);

    memset(block, NVD_POISON, sizeof(block));
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, block, sizeof(block), slba * NVD_BLOCK), ==,
                    sizeof(block));
    close(fd);
}

void nvd_reuse(Nvd *v, NvdCmd *c)
{
    if (c->data_len) {
        nvd_fill(v, c, NVD_POISON);
    }
}

void nvd_check_reused(Nvd *v, NvdCmd *c)
{
    if (c->data_len) {
        nvd_check_data(v, c, NVD_POISON);
    }
}

/* Commands */

static bool is_admin(const NvdCmd *c)
{
    return c->queue == 0;
}

/* How many bytes of buffer the command has. */
static uint32_t data_length(Nvd *v, const NvdCmd *c)
{
    if (is_admin(c)) {
        return 0;
    }
    switch (c->opcode) {
    case NVD_WRITE:
    case NVD_READ:
    case NVD_COMPARE:
    case NVD_ZONE_APPEND:
        return (c->blocks ?: 1) * (NVD_BLOCK + v->opts.metadata);
    case NVD_DSM:
        return 16;
    case NVD_COPY:
        return 32;
    case NVD_ZONE_RECEIVE:
        return 128;
    default:
        return 0;
    }
}

/* What the command's buffer holds when the controller gets to see it. */
static void write_data(Nvd *v, NvdCmd *c)
{
    uint8_t range[32] = {};

    if (c->opcode == NVD_DSM) {
        stl_le_p(range + 4, c->blocks ?: 1);
        stq_le_p(range + 8, c->slba);
        qtest_memwrite(v->qts, c->data, range, 16);
    } else if (c->opcode == NVD_COPY) {
        stq_le_p(range + 8, c->slba);
        stw_le_p(range + 16, (c->blocks ?: 1) - 1);
        qtest_memwrite(v->qts, c->data, range, 32);
    } else {
        nvd_fill(v, c, c->fill);
    }
}

/* Dwords 10 and on of an I/O command */
static void build_io(Nvd *v, uint8_t *sqe, const NvdCmd *c)
{
    unsigned int blocks = c->blocks ?: 1;
    unsigned int prinfo = v->opts.prinfo;

    switch (c->opcode) {
    case NVD_FLUSH:
        break;
    case NVD_DSM:
        stl_le_p(sqe + 44, 4);                      /* deallocate */
        break;
    case NVD_COPY:
        stq_le_p(sqe + 40, c->slba + blocks);       /* right behind */
        break;
    case NVD_ZONE_SEND:
        stq_le_p(sqe + 40, c->slba);
        stl_le_p(sqe + 52, c->zone_action);
        break;
    case NVD_ZONE_RECEIVE:
        stq_le_p(sqe + 40, c->slba);
        stl_le_p(sqe + 48, c->data_len / 4 - 1);
        break;
    default:
        if (c->opcode == NVD_VERIFY) {
            prinfo &= 7;                            /* checks only */
        } else if (c->opcode == NVD_WRITE_ZEROES) {
            prinfo &= 8;
        }
        stq_le_p(sqe + 40, c->slba);
        stw_le_p(sqe + 48, blocks - 1);
        stw_le_p(sqe + 50, prinfo << 10);
        stl_le_p(sqe + 56, prinfo ? c->slba : 0);
    }
}

/* A CID is used again as late as possible. */
static uint16_t free_cid(NvdQueue *q)
{
    unsigned int cid = q->sq_tail;

    while (q->owner[cid]) {
        cid = (cid + 1) % NVD_QUEUE_SIZE;
        g_assert_cmpuint(cid, !=, q->sq_tail);
    }
    return cid;
}

void nvd_add(Nvd *v, NvdCmd *c)
{
    NvdQueue *q = &v->queue[c->queue];
    uint8_t sqe[SQE_SIZE] = {};

    c->data_len = data_length(v, c);
    c->data = c->at;
    if (c->data_len && !c->at) {
        c->data = guest_alloc(&v->alloc, c->data_len);
        write_data(v, c);
    }
    g_assert_cmpuint(c->data_len, <=, 2 * PAGE_SIZE);

    c->cid = free_cid(q);
    q->owner[c->cid] = c;
    c->order = 0;
    c->status = 0xffff;
    c->result = 0xffffffff;

    sqe[0] = c->opcode;
    stw_le_p(sqe + 2, c->cid);
    stl_le_p(sqe + 4, c->nsid ?: !is_admin(c));
    stq_le_p(sqe + 24, c->data);
    stq_le_p(sqe + 32, c->data_len > PAGE_SIZE ? c->data + PAGE_SIZE : 0);
    if (is_admin(c)) {
        stl_le_p(sqe + 40, c->cdw10);
        stl_le_p(sqe + 44, c->cdw11);
        stq_le_p(sqe + 24, c->at);
    } else {
        build_io(v, sqe, c);
    }
    qtest_memwrite(v->qts, q->sq + q->sq_tail * SQE_SIZE, sqe, SQE_SIZE);
    q->sq_tail = (q->sq_tail + 1) % q->entries;
}

void nvd_ring(Nvd *v, unsigned int queue)
{
    nvd_writel(v, NVD_REG_DOORBELL + queue * 8, v->queue[queue].sq_tail);
}

void nvd_send(Nvd *v, NvdCmd *c)
{
    nvd_add(v, c);
    nvd_ring(v, c->queue);
}

void nvd_ring_both(Nvd *v)
{
    uint32_t doorbell[4] = {
        cpu_to_le32(v->queue[0].sq_tail), cpu_to_le32(v->queue[0].cq_head),
        cpu_to_le32(v->queue[1].sq_tail), cpu_to_le32(v->queue[1].cq_head),
    };

    qpci_memwrite(v->dev, v->bar, NVD_REG_DOORBELL, doorbell, sizeof(doorbell));
}

static bool reap_one(Nvd *v, NvdQueue *q)
{
    uint8_t cqe[CQE_SIZE];
    uint16_t status, cid;
    NvdCmd *c;

    qtest_memread(v->qts, q->cq + q->cq_head * CQE_SIZE, cqe, CQE_SIZE);
    status = lduw_le_p(cqe + 14);
    if ((status & 1) != q->phase) {
        return false;
    }

    cid = lduw_le_p(cqe + 12);
    g_assert_cmpuint(cid, <, NVD_QUEUE_SIZE);
    c = q->owner[cid];
    g_assert_nonnull(c);
    q->owner[cid] = NULL;
    g_assert_cmpuint(lduw_le_p(cqe + 10), ==, q - v->queue);
    c->status = status >> 1;
    c->result = ldl_le_p(cqe);
    c->order = ++v->completed;

    q->cq_head = (q->cq_head + 1) % q->entries;
    q->phase ^= !q->cq_head;
    return true;
}

void nvd_reap(Nvd *v)
{
    for (unsigned int i = 0; i < NVD_QUEUES; i++) {
        NvdQueue *q = &v->queue[i];
        bool any = false;

        while (q->cq && reap_one(v, q)) {
            any = true;
        }
        if (any) {
            nvd_writel(v, NVD_REG_DOORBELL + i * 8 + 4, q->cq_head);
        }
    }
}

static void wait_for(Nvd *v, NvdCmd *c)
{
    gint64 end = g_get_monotonic_time() + HOLD_STORAGE_PATIENCE_US;

    for (nvd_reap(v); !c->order; nvd_reap(v)) {
        if (g_get_monotonic_time() > end) {
            g_error("command 0x%x of queue %u does not end", c->opcode,
                    c->queue);
        }
        g_usleep(100);
    }
}

void nvd_expect(Nvd *v, NvdCmd *c, uint16_t status)
{
    wait_for(v, c);
    g_assert_cmphex(c->status, ==, status);
}

void nvd_do(Nvd *v, NvdCmd *c, uint16_t status)
{
    nvd_send(v, c);
    nvd_expect(v, c, status);
}

void nvd_expect_pending(Nvd *v, NvdCmd *c)
{
    nvd_reap(v);
    g_assert_cmpuint(c->order, ==, 0);
}

void nvd_sync(Nvd *v)
{
    NvdCmd get = { .opcode = NVD_ADM_GET_FEATURES,
                   .cdw10 = NVD_FEAT_WRITE_CACHE };

    /*
     * The bottom halves of all doorbells that were rung before run before this
     * one's completion is posted, which takes a second bottom half.
     */
    nvd_do(v, &get, NVD_OK);
}

unsigned int nvd_abort_cid(Nvd *v, unsigned int queue, uint16_t cid)
{
    NvdCmd abort = { .opcode = NVD_ADM_ABORT, .cdw10 = cid << 16 | queue };

    nvd_do(v, &abort, NVD_OK);
    g_assert_cmphex(abort.result & ~1, ==, 0);
    return abort.result;
}

void nvd_abort(Nvd *v, NvdCmd *c)
{
    g_assert_cmpuint(nvd_abort_cid(v, c->queue, c->cid), ==, 0);
    nvd_expect(v, c, NVD_ABORTED);
}

void nvd_send_events(Nvd *v, NvdCmd *event, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        event[i] = (NvdCmd) { .opcode = NVD_ADM_ASYNC_EVENT };
        nvd_send(v, &event[i]);
    }
    nvd_sync(v);
}

void nvd_abort_events(Nvd *v, NvdCmd *event, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        nvd_abort(v, &event[i]);
    }
}

void nvd_write(Nvd *v, uint32_t nsid, uint64_t slba, unsigned int blocks,
               int fill)
{
    NvdCmd c = { .opcode = NVD_WRITE, .queue = 1, .nsid = nsid, .slba = slba,
                 .blocks = blocks, .fill = fill };

    nvd_do(v, &c, NVD_OK);
}

void nvd_check_read(Nvd *v, uint32_t nsid, uint64_t slba, unsigned int blocks,
                    int fill)
{
    NvdCmd c = { .opcode = NVD_READ, .queue = 1, .nsid = nsid, .slba = slba,
                 .blocks = blocks, .fill = NVD_POISON };

    nvd_do(v, &c, NVD_OK);
    nvd_check_data(v, &c, fill);
}

/* The controller */

uint32_t nvd_readl(Nvd *v, unsigned int reg)
{
    return qpci_io_readl(v->dev, v->bar, reg);
}

void nvd_writel(Nvd *v, unsigned int reg, uint32_t value)
{
    qpci_io_writel(v->dev, v->bar, reg, value);
}

void nvd_wait_csts(Nvd *v, uint32_t mask, uint32_t value)
{
    gint64 end = g_get_monotonic_time() + HOLD_STORAGE_PATIENCE_US;

    while ((nvd_readl(v, NVD_REG_CSTS) & mask) != value) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(100);
    }
}

/* The old queues stay where they are, in case the controller looks at them. */
static void new_queue(Nvd *v, NvdQueue *q)
{
    *q = (NvdQueue) {
        .sq = guest_alloc(&v->alloc, NVD_QUEUE_SIZE * SQE_SIZE),
        .cq = guest_alloc(&v->alloc, NVD_QUEUE_SIZE * CQE_SIZE),
        .entries = q == &v->queue[0] && v->opts.admin_entries
            ? v->opts.admin_entries : NVD_QUEUE_SIZE,
        .phase = FIRST_CQE_PHASE,
    };
    qtest_memset(v->qts, q->cq, 0, NVD_QUEUE_SIZE * CQE_SIZE);
}

void nvd_create_queue(Nvd *v, unsigned int queue)
{
    uint32_t id_and_size = (NVD_QUEUE_SIZE - 1) << 16 | queue;
    NvdQueue *q = &v->queue[queue];
    NvdCmd cq = { .opcode = NVD_ADM_CREATE_CQ, .cdw10 = id_and_size,
                  .cdw11 = 1 };
    NvdCmd sq = { .opcode = NVD_ADM_CREATE_SQ, .cdw10 = id_and_size,
                  .cdw11 = queue << 16 | 1 };

    new_queue(v, q);
    cq.at = q->cq;
    sq.at = q->sq;
    nvd_do(v, &cq, NVD_OK);
    nvd_do(v, &sq, NVD_OK);
}

void nvd_enable(Nvd *v)
{
    NvdQueue *q = &v->queue[0];

    memset(v->queue, 0, sizeof(v->queue));
    new_queue(v, q);
    nvd_writel(v, NVD_REG_AQA, (q->entries - 1) << 16 | (q->entries - 1));
    nvd_writel(v, NVD_REG_ASQ, q->sq);
    nvd_writel(v, NVD_REG_ASQ + 4, q->sq >> 32);
    nvd_writel(v, NVD_REG_ACQ, q->cq);
    nvd_writel(v, NVD_REG_ACQ + 4, q->cq >> 32);
    nvd_writel(v, NVD_REG_CC,
               NVD_CC_EN | (v->opts.zoned ? NVD_CC_CSS_ALL : 0));
    nvd_wait_csts(v, NVD_CSTS_RDY, NVD_CSTS_RDY);
    for (unsigned int i = 1; i < NVD_QUEUES; i++) {
        nvd_create_queue(v, i);
    }
}

void nvd_disable(Nvd *v)
{
    nvd_writel(v, NVD_REG_CC, NVD_CC_EN & ~1);
    nvd_wait_csts(v, NVD_CSTS_RDY, 0);
}

static void open_port(Nvd *v)
{
    QPCIDevice *port = qpci_device_find(v->bus, QPCI_DEVFN(NVD_SLOT, 0));

    g_assert_nonnull(port);
    qpci_config_writel(port, PCI_PRIMARY_BUS, 0x00010100);
    qpci_config_writel(port, PCI_MEMORY_BASE, 0xeff0e000);
    qpci_config_writew(port, PCI_COMMAND,
                       PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    g_free(port);
}

void nvd_find_device(Nvd *v)
{
    int devfn = v->opts.port ? NVD_BEHIND_PORT : QPCI_DEVFN(NVD_SLOT, 0);

    if (v->opts.port) {
        open_port(v);
    }
    g_free(v->dev);
    v->dev = qpci_device_find(v->bus, devfn);
    g_assert_nonnull(v->dev);
    qpci_device_enable(v->dev);
    v->bar = qpci_iomap(v->dev, 0, NULL);
}

/* After a failed assertion nothing may be left that waits for what hangs. */
static void kill_all(void *opaque)
{
    Nvd *v = opaque;

    hold_storage_kill(v->storage);
    if (v->qts && qtest_pid(v->qts) > 0) {
        kill(qtest_pid(v->qts), SIGKILL);
    }
}

/* What reads give comes from the first child; the second is asked as well. */
#define QUORUM "driver=quorum,read-pattern=fifo,vote-threshold=1," \
    "children.0.driver=null-co,children.0.size=%u,children.0.read-zeroes=on," \
    "children.1.driver=nbd,children.1.server.type=unix," \
    "children.1.server.path=%s,children.1.export=disk%u"

static char *drive_arguments(Nvd *v, unsigned int disk)
{
    g_autofree char *drive = NULL;

    if (!disk && v->opts.drive) {
        return g_strdup(v->opts.drive);
    }
    if (v->opts.zeroes) {
        return g_strdup_printf(QUORUM, NVD_DISK_SIZE, v->storage->socket, disk);
    }
    drive = hold_storage_drive(v->storage, disk);
    return g_strconcat(drive, v->opts.keep ? ",discard=ignore" : "", NULL);
}

static char *device_arguments(Nvd *v)
{
    unsigned int num = v->opts.own ? 0 :
                       v->opts.single ? 1 : HOLD_STORAGE_DISKS;
    const char *cancel = v->opts.off ? "off" : "on";
    GString *s = g_string_new("");

    if (v->opts.port) {
        g_string_append_printf(s, "-device pcie-root-port,id=root-port,"
                               "addr=%x.0 ", NVD_SLOT);
    }
    if (v->opts.subsystem) {
        g_string_append(s, "-device nvme-subsys,id=subsys ");
    }
    g_string_append_printf(s, "-device nvme,id=nvme0,serial=nvd%s%s%s",
                           v->opts.port ? ",bus=root-port,addr=0" : ",addr=4",
                           v->opts.subsystem ? ",subsys=subsys" : "",
                           v->opts.controller ?: "");
    if (v->opts.own) {
        g_autofree char *drive = hold_storage_drive(v->storage, 0);

        g_string_append_printf(s, ",drive=drive0,cancel=%s"
                               " -drive if=none,id=drive0,%s", cancel, drive);
    }
    for (unsigned int i = 0; i < num; i++) {
        g_autofree char *drive = drive_arguments(v, i);

        g_string_append_printf(s, " -drive if=none,id=drive%u,%s"
                               " -device nvme-ns,id=ns%u,bus=nvme0,"
                               "drive=drive%u,cancel=%s%s%s", i, drive, i + 1,
                               i, cancel,
                               v->opts.zoned ? ",zoned=on,"
                               "zoned.zone_size=1M" : "", v->opts.ns ?: "");
    }
    return g_string_free(s, false);
}

Nvd *nvd_start(const NvdOptions *opts)
{
    HoldStorage *storage = hold_storage_start(NVD_DISK_SIZE);
    g_autofree char *arguments = NULL;
    Nvd *v;

    if (!storage) {
        return NULL;
    }
    v = g_new0(Nvd, 1);
    v->opts = *opts;
    v->storage = storage;
    qtest_add_abrt_handler(kill_all, v);
    arguments = device_arguments(v);
    v->qts = qtest_initf("-machine %s -nodefaults %s",
                         opts->unplug ? "pc" : "q35", arguments);
    pc_alloc_init(&v->alloc, v->qts, ALLOC_NO_FLAGS);
    v->bus = qpci_new_pc(v->qts, &v->alloc);
    nvd_find_device(v);
    nvd_enable(v);
    return v;
}

void nvd_abandon(Nvd *v)
{
    g_free(v->dev);
    qpci_free_pc(v->bus);
    alloc_destroy(&v->alloc);
    qtest_quit(g_steal_pointer(&v->qts));
    qtest_remove_abrt_handler(v);
    hold_storage_stop(v->storage);
    g_free(v);
}

void nvd_stop(Nvd *v)
{
    nvd_release(v);
    nvd_sync(v);
    nvd_reap(v);
    for (unsigned int i = 0; i < NVD_QUEUES; i++) {
        for (unsigned int j = 0; j < NVD_QUEUE_SIZE; j++) {
            g_assert_null(v->queue[i].owner[j]);
        }
    }
    nvd_abandon(v);
}
