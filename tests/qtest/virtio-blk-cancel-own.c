/*
 * Tests of virtio-blk's CANCEL request: requests that reach the device itself
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest may have a request's buffers lie in the registers of the very device
 * that executes it, so that completing it resets the device, or a virtqueue, or
 * notifies it.  Whatever becomes of that, the machine must not stand still.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/pci_regs.h"
#include "standard-headers/linux/virtio_pci.h"
#include "virtio-blk-cancel-lib.h"

#define ECAM            0xb0000000
#define PCIEXBAR        0x60    /* of the host bridge of q35 */
#define BUS             (1 << 20)

/* Each writes @data to a register when a read of the disk ends */
typedef struct Own {
    const char *name;
    int reg;                    /* of the common configuration, or NOTIFY */
    unsigned int bytes;
    uint32_t data;
} Own;

enum { NOTIFY = -1, FUNCTION_RESET = -2, COMMAND = -3 };

static const Own own[] = {
    { "status", VIRTIO_PCI_COMMON_STATUS, 1, 0 },
    { "status-again", VIRTIO_PCI_COMMON_STATUS, 1,
      VIRTIO_CONFIG_S_ACKNOWLEDGE },
    { "queue-reset", VIRTIO_PCI_COMMON_Q_RESET, 2, 1 },
    { "queue-enable", VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1 },
    { "notify", NOTIFY, 2, 0 },
    { "function-reset", FUNCTION_RESET, 2, PCI_EXP_DEVCTL_BCR_FLR },
    { "command", COMMAND, 2, PCI_COMMAND_MEMORY },
};

static void kill_qemu(void *opaque)
{
    kill(qtest_pid(((Vbc *)opaque)->qts), SIGKILL);
}

/* Where the device's PCI configuration is in memory */
static uint64_t map_config(Vbc *v)
{
    QPCIDevice *host = qpci_device_find(v->bus, QPCI_DEVFN(0, 0));

    qpci_config_writel(host, PCIEXBAR, ECAM | 1);
    g_free(host);
    return ECAM + BUS;
}

static uint64_t address(Vbc *v, int reg)
{
    switch (reg) {
    case NOTIFY:
        return v->pci->bar.addr + v->pci->notify_cfg_offset;
    case FUNCTION_RESET:
        return map_config(v) + PCI_EXP_DEVCTL +
               qpci_find_capability(v->pci->pdev, PCI_CAP_ID_EXP, 0);
    case COMMAND:
        return map_config(v) + PCI_COMMAND;
    default:
        return v->pci->bar.addr + v->pci->common_cfg_offset + reg;
    }
}

/* Have the first bytes of a sector be what the register is to get. */
static void prepare(Vbc *v, const Own *o)
{
    VbcReq r = {
        .type = VIRTIO_BLK_T_OUT, .tag = 1, .len = VBC_SECTOR, .queue = v->q,
    };
    uint8_t buf[VBC_SECTOR] = {};

    r.at = guest_alloc(&v->alloc, VBC_SECTOR);
    stl_le_p(buf, o->data);
    qtest_memwrite(v->qts, r.at, buf, sizeof(buf));
    vbc_do(v, &r, VIRTIO_BLK_S_OK);
}

static void read_into(Vbc *v, VbcReq *r, const Own *o, bool status)
{
    uint64_t mem = guest_alloc(&v->alloc, VBC_HEADER + VBC_SECTOR + 1);
    uint64_t target = address(v, o->reg);
    VbcSegment segs[] = {
        { .addr = mem, .len = VBC_HEADER },
        { .addr = target, .len = o->bytes, .write = true },
        { .addr = mem + VBC_HEADER, .len = VBC_SECTOR - o->bytes,
          .write = true },
        { .addr = mem + VBC_HEADER + VBC_SECTOR, .len = 1, .write = true },
    };

    if (status) {
        /* The status is 0 */
        segs[1] = (VbcSegment) { .addr = mem + VBC_HEADER, .len = o->bytes,
                                 .write = true };
        segs[3].addr = target;
    }
    qtest_memset(v->qts, mem, 0, VBC_HEADER);
    qtest_writeq(v->qts, mem + 16, r->tag);
    r->status_addr = mem + VBC_HEADER + VBC_SECTOR;
    r->order = 0;
    vbc_ring_add(v, r, segs, ARRAY_SIZE(segs));
    vbc_kick(v, r->queue);
}

/* Again and again, so that a device that was reset is found out as well */
static void check_own(const VbcOptions *base, const Own *o, bool status)
{
    VbcOptions opts = *base;
    VbcReq r[3], id = { .type = VIRTIO_BLK_T_GET_ID, .tag = 9, .len = 20 };
    HangWatch *watch;
    Vbc *v;

    opts.port = o->reg == FUNCTION_RESET || o->reg == COMMAND;
    v = vbc_start(&opts);
    prepare(v, o);
    watch = hang_watch_begin(VBC_PATIENCE_US, kill_qemu, v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        r[i] = (VbcReq) { .tag = i, .queue = v->q };
        read_into(v, &r[i], o, status);
        vbc_wait(v, &r[i]);
        id.queue = v->q;
        vbc_do(v, &id, VIRTIO_BLK_S_OK);
    }
    vbc_restart_device(v);
    id.queue = v->q;
    vbc_do(v, &id, VIRTIO_BLK_S_OK);
    vbc_stop(v);
    hang_watch_end(watch);
}

static void test_data(const void *base)
{
    for (unsigned int i = 0; i < ARRAY_SIZE(own); i++) {
        g_test_message("%s", own[i].name);
        check_own(base, &own[i], false);
    }
}

static void test_status(const void *base)
{
    check_own(base, &own[0], true);
}

void vbc_add_own_tests(void)
{
    unsigned int loops = VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS;

    vbc_add_test("own-registers/data", loops, test_data);
    vbc_add_test("own-registers/status", loops, test_status);
}
