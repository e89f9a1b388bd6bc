/*
 * Tests of virtio-blk's CANCEL request: how the device reaches guest memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device behind an IOMMU may use a request's buffers until it has used the
 * request, and what the guest unmaps then must not be missed.  And each buffer
 * is unmapped by the device exactly once, which shows where mappings are few.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "virtio-blk-cancel-lib.h"

/* Intel's IOMMU: registers, and the tables in memory */

#define VTD_BASE                0xfed90000
#define VTD_GCMD                0x18    /* 32 bits */
#define VTD_GSTS                0x1c    /* 32 bits */
#define VTD_RTADDR              0x20
#define VTD_CCMD                0x28
#define VTD_FSTS                0x34    /* 32 bits */
#define VTD_IOTLB               0xf8
#define VTD_GCMD_TE             (1u << 31)
#define VTD_GCMD_SRTP           (1u << 30)
#define VTD_CCMD_GLOBAL         (1ull << 63 | 1ull << 61)
#define VTD_IOTLB_GLOBAL        (1ull << 63 | 1ull << 60)
#define VTD_FSTS_FAULT          (1u << 1)
#define VTD_PRESENT             1
#define VTD_READ_WRITE          3
#define VTD_39_BITS             1       /* three levels of tables */

#define PAGE                    4096
#define ENTRIES                 512     /* of a table */
#define MAPPED                  (128 * MiB)
#define LEAVES                  (MAPPED / PAGE / ENTRIES)

typedef struct Iommu {
    Vbc *v;
    uint64_t leaves;            /* LEAVES tables, one after the other */
} Iommu;

static void set_entry(Vbc *v, uint64_t table, unsigned int i, uint64_t value)
{
    value = cpu_to_le64(value);
    qtest_memwrite(v->qts, table + i * 8, &value, sizeof(value));
}

static uint64_t new_tables(Vbc *v, unsigned int n)
{
    uint64_t addr = guest_alloc(&v->alloc, n * PAGE);

    qtest_memset(v->qts, addr, 0, n * PAGE);
    return addr;
}

static void iommu_command(Vbc *v, uint32_t command)
{
    qtest_writel(v->qts, VTD_BASE + VTD_GCMD, command);
    g_assert_cmphex(qtest_readl(v->qts, VTD_BASE + VTD_GSTS) & command, ==,
                    command);
}

static void iommu_invalidate(Vbc *v)
{
    qtest_writeq(v->qts, VTD_BASE + VTD_CCMD, VTD_CCMD_GLOBAL);
    qtest_writeq(v->qts, VTD_BASE + VTD_IOTLB, VTD_IOTLB_GLOBAL);
    g_assert_cmphex(qtest_readq(v->qts, VTD_BASE + VTD_IOTLB) >> 63, ==, 0);
}

/* All memory is mapped to where it is, page by page, for this device */
static void iommu_start(Iommu *m, Vbc *v)
{
    uint64_t root = new_tables(v, 1), context = new_tables(v, 1);
    uint64_t top = new_tables(v, 1), middle = new_tables(v, 1);
    unsigned int devfn = QPCI_DEVFN(VBC_SLOT, 0);
    g_autofree uint64_t *leaf = g_new(uint64_t, LEAVES * ENTRIES);

    m->v = v;
    m->leaves = new_tables(v, LEAVES);
    for (uint64_t i = 0; i < LEAVES * ENTRIES; i++) {
        leaf[i] = cpu_to_le64(i * PAGE | VTD_READ_WRITE);
    }
    qtest_bufwrite(v->qts, m->leaves, leaf, LEAVES * PAGE);
    for (unsigned int i = 0; i < LEAVES; i++) {
        set_entry(v, middle, i, (m->leaves + i * PAGE) | VTD_READ_WRITE);
    }
    set_entry(v, top, 0, middle | VTD_READ_WRITE);
    set_entry(v, context, devfn * 2, top | VTD_PRESENT);
    set_entry(v, context, devfn * 2 + 1, VTD_39_BITS | 1 << 8);
    set_entry(v, root, 0, context | VTD_PRESENT);

    qtest_writeq(v->qts, VTD_BASE + VTD_RTADDR, root);
    iommu_command(v, VTD_GCMD_SRTP);
    iommu_invalidate(v);
    iommu_command(v, VTD_GCMD_TE);
}

static void iommu_map(Iommu *m, uint64_t addr, uint64_t len, bool map)
{
    for (uint64_t i = addr / PAGE; i <= (addr + len - 1) / PAGE; i++) {
        set_entry(m->v, m->leaves, i, map ? i * PAGE | VTD_READ_WRITE : 0);
    }
    iommu_invalidate(m->v);
}

/* Header, data and status lie together */
static void iommu_map_req(Iommu *m, VbcReq *r, bool map)
{
    iommu_map(m, r->mem, r->status_addr - r->mem + 1, map);
}

static bool iommu_has_faulted(Vbc *v)
{
    return qtest_readl(v->qts, VTD_BASE + VTD_FSTS) & VTD_FSTS_FAULT;
}

/* What the guest gets back, it unmaps, and uses for something else */
static void cancel_and_unmap(Iommu *m, VbcReq *r, unsigned int num)
{
    for (unsigned int i = 0; i < num; i++) {
        vbc_cancel_req(m->v, &r[i]);
        iommu_map_req(m, &r[i], false);
        vbc_reuse(m->v, &r[i]);
    }
    g_assert_false(iommu_has_faulted(m->v));
}

/*
 * An IOThread takes the BQL to read what is no memory.  Until it has, QEMU must
 * not wait for it with the BQL held, as for a stop.
 */
static void wait_needs_reset(Vbc *v)
{
    gint64 end = g_get_monotonic_time() + VBC_PATIENCE_US;

    while (!(vbc_device_status(v) & VIRTIO_CONFIG_S_NEEDS_RESET)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
}

static void test_iommu(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[] = {
        { .type = VIRTIO_BLK_T_IN, .tag = 1, .sector = 8, .len = 4096 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 64, .len = 65536,
          .fill = 1 },
        { .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 256, .len = 65536,
          .pieces = 32 },
        { .type = VIRTIO_BLK_T_WRITE_ZEROES, .tag = 4, .sector = 512,
          .len = 4096 },
        { .type = VIRTIO_BLK_T_OUT, .tag = 5, .sector = 64, .len = 4096,
          .fill = 2 },                      /* at the fence */
    };
    VbcReq kept = {
        .type = VIRTIO_BLK_T_IN, .tag = 6, .sector = 16, .len = 4096,
    };
    VbcReq fault = { .type = VIRTIO_BLK_T_IN, .tag = 7, .len = 4096 };
    Iommu m;
    Vbc *v;

    opts.server = true;
    opts.no_start = true;
    opts.features = VBC_F(VIRTIO_F_ACCESS_PLATFORM);
    opts.machine = "q35";
    opts.args = "-device intel-iommu";
    opts.device = "'iommu_platform': true, 'disable-legacy': 'on'";
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    iommu_start(&m, v);
    vbc_find_device(v);
    vbc_start_device(v);
    vbc_check_read(v, 8, 4096, VBC_OLD);

    kept.queue = fault.queue = v->q;
    vbc_hold(v);
    vbc_send(v, &kept);
    vbc_send_all(v, r, ARRAY_SIZE(r) - 1);
    cancel_and_unmap(&m, r, ARRAY_SIZE(r) - 1);
    vbc_send_all(v, &r[4], 1);
    cancel_and_unmap(&m, &r[4], 1);

    vbc_release(v);
    vbc_expect(v, &kept, VIRTIO_BLK_S_OK);
    vbc_check_data(v, &kept, VBC_OLD);
    vbc_settle(v);
    for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
        vbc_check_reused(v, &r[i]);
    }
    vbc_check_unspecified(v, 64, 65536, 1);
    vbc_write(v, 64, 65536, 3);
    vbc_check_read(v, 64, 65536, 3);
    g_assert_false(iommu_has_faulted(v));

    /* All this was translated: what is not mapped is not reached */
    vbc_add(v, &fault);
    iommu_map_req(&m, &fault, false);
    vbc_kick(v, v->q);
    wait_needs_reset(v);
    g_assert_true(iommu_has_faulted(v));
    vbc_abandon(v);
}

/*
 * Where there is no memory, QEMU maps a bounce buffer, and a device has 4 KiB
 * of them.  A mapping that is left behind is missed soon.
 */
static void test_unmapped_once(const void *base)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vbc *v;

    opts.server = true;
    v = vbc_start(&opts);
    if (!v) {
        return;
    }
    for (unsigned int round = 0; round < 10; round++) {
        VbcReq r[] = {
            { .type = VIRTIO_BLK_T_IN, .tag = 1, .len = 2048 },
            { .type = VIRTIO_BLK_T_OUT, .tag = 2, .sector = 8, .len = 512 },
            { .type = VIRTIO_BLK_T_IN, .tag = 3, .sector = 8, .len = 512 },
        };

        vbc_hold(v);
        for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
            r[i].queue = v->q;
            r[i].at = MAPPED + i * PAGE;
            vbc_send(v, &r[i]);
        }
        if (round % 2) {
            vbc_sync(v, v->q);
        }
        vbc_cancel_req(v, &r[0]);
        vbc_cancel_req(v, &r[1]);
        vbc_release(v);
        vbc_expect(v, &r[2], VIRTIO_BLK_S_OK);
        vbc_settle(v);
        g_assert_false(vbc_device_status(v) & VIRTIO_CONFIG_S_NEEDS_RESET);
    }
    vbc_stop(v);
}

void vbc_add_memory_tests(void)
{
    if (qtest_has_device("intel-iommu") && qtest_has_machine("q35")) {
        vbc_add_test("memory/iommu", VBC_SETUP_ALL, test_iommu);
    }
    vbc_add_test("memory/unmapped-once", VBC_SETUP_ALL, test_unmapped_once);
}
