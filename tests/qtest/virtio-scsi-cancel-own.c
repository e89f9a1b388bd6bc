/*
 * Tests of scsi-hd's cancel=on: commands that reach the HBA itself
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The data of a command, or the response to it, lies in the registers of the
 * HBA, so that to complete the command is to reset the HBA.  The machine must
 * not stand still.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_pci.h"
#include "virtio-scsi-cancel-lib.h"

#define HEADER          51
#define RESPONSE        108

static void kill_qemu(void *opaque)
{
    kill(qtest_pid(((Vsd *)opaque)->v->qts), SIGKILL);
}

/* Read a sector whose first byte, or the response, is 0: a reset */
static void read_into_status(Vsd *s, VsdCmd *c, bool response)
{
    Vbc *v = s->v;
    uint64_t mem = guest_alloc(&v->alloc, 1024);
    uint64_t status = v->pci->bar.addr + v->pci->common_cfg_offset +
                      VIRTIO_PCI_COMMON_STATUS;
    uint8_t header[HEADER] = { 1, 1, 0x40, 0, 0, 0, 0, 0, c->tag };
    VbcSegment segs[] = {
        { .addr = mem, .len = HEADER },
        { .addr = response ? status : mem + 64, .len = RESPONSE,
          .write = true },
        { .addr = response ? mem + 512 : status, .len = 1, .write = true },
        { .addr = mem + 513, .len = VBC_SECTOR - 1, .write = true },
    };

    memcpy(header + 19, c->cdb, sizeof(c->cdb));
    qtest_memwrite(v->qts, mem, header, sizeof(header));
    c->r.status_addr = mem + 64 + 11;
    c->r.order = 0;
    vbc_ring_add(v, &c->r, segs, ARRAY_SIZE(segs));
    vbc_kick(v, c->r.queue);
}

static void check_own(const void *base, bool response)
{
    VbcOptions opts = *(const VbcOptions *)base;
    Vsd *s = vsd_start(&(VsdOptions) { .base = &opts });
    VsdCmd c[3], probe;
    HangWatch *watch;

    if (!s) {
        return;
    }
    watch = hang_watch_begin(VBC_PATIENCE_US, kill_qemu, s);
    for (unsigned int i = 0; i < ARRAY_SIZE(c); i++) {
        c[i] = vsd_read(0, i, 0, VBC_SECTOR);
        read_into_status(s, &c[i], response);
        vbc_wait(s->v, &c[i].r);
        probe = vsd_plain(s, 0, 0x00);
        vsd_do(s, &probe, VSD_GOOD);
    }
    vbc_restart_device(s->v);
    vsd_expect_attention(s);
    vsd_stop(s);
    hang_watch_end(watch);
}

static void test_data(const void *base)
{
    check_own(base, false);
}

static void test_response(const void *base)
{
    check_own(base, true);
}

void vsd_add_own_tests(void)
{
    vsd_add_test("own-registers/data", test_data);
    vsd_add_test("own-registers/response", test_response);
}
