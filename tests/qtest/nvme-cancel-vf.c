/*
 * Tests of NVMe commands that are taken back: virtual functions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The namespaces are shared by the physical and one virtual function.  What
 * hangs in the latter is dropped when it is reset or taken offline.
 */

#include "qemu/osdep.h"
#include "standard-headers/linux/pci_regs.h"
#include "nvme-cancel-lib.h"

#define ECAM            0xb0000000ull
#define Q35_PCIEXBAR    0x60
#define VF_BAR          0xd0000000u
#define SRIOV           0x120           /* where the capability is */
#define EXPRESS         0x80
#define VF_CNTLID       1

#define NVD_ADM_VIRT    0x1c
#define VIRT_OFFLINE    7
#define VIRT_ASSIGN     8
#define VIRT_ONLINE     9
#define VIRT_QUEUE      (0 << 8)
#define VIRT_INTERRUPT  (1 << 8)

#define COMMANDS        16
#define BLOCKS          4
#define NEW             11
#define NEWEST          21

/* Of the physical function, 0, or the virtual one, 1 */
static uint64_t config(unsigned int function)
{
    return ECAM + (QPCI_DEVFN(NVD_SLOT, function) << 12);
}

static void manage(Nvd *v, uint32_t action, unsigned int num)
{
    NvdCmd c = { .opcode = NVD_ADM_VIRT, .cdw10 = VF_CNTLID << 16 | action,
                 .cdw11 = num };

    nvd_do(v, &c, NVD_OK);
}

static void online(Nvd *v)
{
    manage(v, VIRT_ASSIGN | VIRT_QUEUE, NVD_QUEUES);
    manage(v, VIRT_ASSIGN | VIRT_INTERRUPT, 1);
    manage(v, VIRT_ONLINE, 0);
}

static void enable_device(Nvd *v)
{
    qtest_writew(v->qts, config(1) + PCI_COMMAND,
                 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* Returns: the virtual function; like @v, which owns what both have */
static Nvd *make_vf(Nvd *v)
{
    QPCIDevice *host = qpci_device_find(v->bus, 0);
    Nvd *vf;

    qpci_config_writel(host, Q35_PCIEXBAR, ECAM | 1);
    g_free(host);
    qtest_writew(v->qts, config(0) + SRIOV + PCI_SRIOV_NUM_VF, 1);
    qtest_writel(v->qts, config(0) + SRIOV + PCI_SRIOV_BAR, VF_BAR);
    qtest_writel(v->qts, config(0) + SRIOV + PCI_SRIOV_BAR + 4, 0);
    qtest_writew(v->qts, config(0) + SRIOV + PCI_SRIOV_CTRL,
                 PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE);
    enable_device(v);
    online(v);

    vf = g_memdup2(v, sizeof(*v));
    vf->bar = (QPCIBar) { .addr = VF_BAR };
    return vf;
}

static void reset_function(Nvd *v)
{
    qtest_writew(v->qts, config(1) + EXPRESS + PCI_EXP_DEVCTL,
                 PCI_EXP_DEVCTL_BCR_FLR);
    enable_device(v);
}

static void take_offline(Nvd *v)
{
    manage(v, VIRT_OFFLINE, 0);
    online(v);
}

static void send_all(Nvd *v, NvdCmd *c, int fill)
{
    for (unsigned int i = 0; i < COMMANDS; i++) {
        c[i] = (NvdCmd) {
            .opcode = i % 2 && fill == NEW ? NVD_READ : NVD_WRITE,
            .queue = 1 + i % 2, .nsid = 1 + i / 2 % 2, .slba = i * BLOCKS,
            .blocks = BLOCKS, .fill = fill,
        };
        nvd_send(v, &c[i]);
    }
    nvd_sync(v);
}

static void test_vf(const void *opaque)
{
    void (*drop)(Nvd *v) = opaque;
    Nvd *v = nvd_start(&(NvdOptions) {
        .subsystem = true,
        .controller = ",sriov_max_vfs=1,sriov_vq_flexible=3,"
                      "sriov_vi_flexible=1",
    });
    NvdCmd others = { .opcode = NVD_READ, .queue = 1, .slba = 512 };
    NvdCmd c[COMMANDS], newest[COMMANDS];
    Nvd *vf;

    if (!v) {
        return;
    }
    vf = make_vf(v);
    nvd_enable(vf);
    nvd_hold(v);
    send_all(vf, c, NEW);
    nvd_send(v, &others);
    nvd_sync(v);

    hold_storage_watch_begin(v->storage);
    drop(v);
    for (unsigned int i = 0; i < COMMANDS; i++) {
        nvd_reuse(vf, &c[i]);
    }
    nvd_enable(vf);
    send_all(vf, newest, NEWEST);
    nvd_expect_pending(v, &others);
    hold_storage_watch_end(v->storage);

    nvd_release(v);
    nvd_expect(v, &others, NVD_OK);
    for (unsigned int i = 0; i < COMMANDS; i++) {
        nvd_expect(vf, &newest[i], NVD_OK);
        nvd_check_disk(v, newest[i].nsid, newest[i].slba, BLOCKS, NEWEST);
        nvd_check_reused(vf, &c[i]);
    }
    g_free(vf);
    nvd_stop(v);
}

void nvd_add_vf_tests(void)
{
    qtest_add_data_func("/nvme-cancel/vf/reset", reset_function, test_vf);
    qtest_add_data_func("/nvme-cancel/vf/offline", take_offline, test_vf);
}
