/*
 * Tests of scsi-hd's cancel=on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Here: task management of commands that hang.  What resets do is in
 * virtio-scsi-cancel-reset.c.
 *
 * Tests wait for events, with generous bounds, and never for time.  "Nothing
 * happened" is said after something later has happened.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "cancel-figures.h"
#include "virtio-scsi-cancel-lib.h"

#define HANGING     8           /* commands; half of them for each unit */
#define LEN         4096
#define SECTORS     (LEN / VBC_SECTOR)
#define NO_MEMORY   0xd0000000  /* guest address */

/* Where the @i-th of a number of commands goes */
static uint64_t place(unsigned int i)
{
    return 64 + i * 2 * SECTORS + (i % VSD_LUNS) * VSD_HALF;
}

/* Reads and writes to both units, on all queues, while the storage hangs */
static void hang(Vsd *s, VsdCmd *c)
{
    vbc_hold(s->v);
    for (unsigned int i = 0; i < HANGING; i++) {
        c[i] = i % 4 < 2 ? vsd_read(i % VSD_LUNS, i, place(i), LEN)
                         : vsd_write(i % VSD_LUNS, i, place(i), LEN, 1);
        c[i].r.queue = VSD_FIRST + i % (s->v->num_queues - VSD_FIRST);
        vsd_send(s, &c[i]);
    }
    vsd_sync(s);
}

/* The storage goes on: nothing of what @c were is to be seen any more. */
static void check_nothing_late(Vsd *s, VsdCmd *c, unsigned int lun)
{
    vbc_release(s->v);
    vbc_settle(s->v);
    for (unsigned int i = 0; i < HANGING; i++) {
        if (c[i].lun == lun) {
            vbc_check_reused(s->v, &c[i].r);
        }
    }
}

static void check_disk(Vsd *s, VsdCmd *write)
{
    VsdCmd read = vsd_read(write->lun, 0, write->r.sector, write->r.len);

    vsd_do(s, &read, VSD_GOOD);
    vbc_check_data(s->v, &read.r, write->r.fill);
    vbc_check_disk(s->v, write->r.sector, write->r.len, write->r.fill);
}

/* Commands of @lun ended as the response says, the others hang. */
static void check_ended(Vsd *s, VsdCmd *c, unsigned int lun, uint8_t response)
{
    vbc_reap(s->v);
    for (unsigned int i = 0; i < HANGING; i++) {
        if (c[i].lun == lun) {
            g_assert_cmpuint(c[i].r.order, !=, 0);
            vsd_expect_response(s, &c[i], response);
            vbc_reuse(s->v, &c[i].r);
        } else {
            vbc_expect_pending(s->v, &c[i].r);
        }
    }
}

static void check_succeed(Vsd *s, VsdCmd *c, unsigned int lun)
{
    for (unsigned int i = 0; i < HANGING; i++) {
        if (c[i].lun == lun) {
            vsd_expect(s, &c[i], VSD_GOOD);
        }
    }
}

/* One by one, the newest first; then newer writes to the same place */
static void test_abort(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[HANGING], newer[HANGING];

    if (!s) {
        return;
    }
    hang(s, c);
    for (unsigned int i = HANGING; i-- > 0;) {
        vsd_tmf(s, VSD_TMF_QUERY_TASK, c[i].lun, i, VSD_S_FUNCTION_SUCCEEDED);
        vsd_abort(s, &c[i]);
        vsd_tmf(s, VSD_TMF_QUERY_TASK, c[i].lun, i, VSD_S_OK);
        vsd_tmf(s, VSD_TMF_ABORT_TASK, c[i].lun, i, VSD_S_OK);
        vbc_reuse(s->v, &c[i].r);
    }
    for (unsigned int lun = 0; lun < VSD_LUNS; lun++) {
        expect_cancels(s->v->qts, lun ? "lun1" : "lun0", HANGING / 2, 0,
                       HANGING / 2, 0);
    }
    g_assert_cmpint(vbc_stat(s->v, "canceled_operations"), ==, HANGING / 2);
    g_assert_cmpint(vbc_stat(s->v, "failed_wr_operations"), ==, 0);
    g_assert_cmpint(vbc_stat(s->v, "failed_rd_operations"), ==, 0);
    for (unsigned int i = 0; i < HANGING; i++) {
        newer[i] = vsd_write(c[i].lun, 100 + i, c[i].r.sector, LEN, 2);
        vsd_send(s, &newer[i]);
    }
    vsd_sync(s);

    /* What waits behind an aborted write can be aborted as well */
    vsd_abort(s, &newer[2]);
    vsd_send(s, &newer[2]);

    check_nothing_late(s, c, 0);
    check_nothing_late(s, c, 1);
    for (unsigned int i = 0; i < HANGING; i++) {
        vsd_expect(s, &newer[i], VSD_GOOD);
        check_disk(s, &newer[i]);
    }
    vsd_stop(s);
}

static void check_task_set(const void *base, uint32_t subtype)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[HANGING];

    if (!s) {
        return;
    }
    for (unsigned int lun = 0; lun < VSD_LUNS; lun++) {
        hang(s, c);
        vsd_tmf(s, subtype, lun, 0, VSD_S_OK);
        check_ended(s, c, lun, VSD_S_ABORTED);
        vsd_tmf(s, subtype, lun, 0, VSD_S_OK);
        expect_cancels(s->v->qts, lun ? "lun1" : "lun0", HANGING / 2, 0, 0, 0);
        check_nothing_late(s, c, lun);
        check_succeed(s, c, !lun);
    }
    vsd_stop(s);
}

static void test_abort_set(const void *base)
{
    check_task_set(base, VSD_TMF_ABORT_TASK_SET);
}

static void test_clear_set(const void *base)
{
    check_task_set(base, VSD_TMF_CLEAR_TASK_SET);
}

/* The command that was reset leaves a fence, which a newer write minds */
static void test_lun_reset(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[HANGING], newer = vsd_write(0, 100, place(2), LEN, 2);
    VsdCmd probe;

    if (!s) {
        return;
    }
    hang(s, c);
    vbc_watch_begin(s->v);
    vsd_tmf(s, VSD_TMF_LUN_RESET, 0, 0, VSD_S_OK);
    vbc_watch_end(s->v);
    check_ended(s, c, 0, VSD_S_RESET);

    probe = vsd_plain(s, 0, 0x00);
    vsd_do(s, &probe, VSD_CHECK_CONDITION);
    g_assert_cmphex(probe.sense_key, ==, 6);
    vsd_send(s, &newer);
    vsd_sync(s);
    vbc_expect_pending(s->v, &newer.r);

    check_nothing_late(s, c, 0);
    check_succeed(s, c, 1);
    vsd_expect(s, &newer, VSD_GOOD);
    check_disk(s, &newer);
    vsd_stop(s);
}

static void test_nexus_reset(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[HANGING];

    if (!s) {
        return;
    }
    hang(s, c);
    vbc_watch_begin(s->v);
    vsd_tmf(s, VSD_TMF_I_T_NEXUS_RESET, 0, 0, VSD_S_OK);
    vbc_watch_end(s->v);
    vbc_reap(s->v);
    for (unsigned int i = 0; i < HANGING; i++) {
        vsd_expect_response(s, &c[i], VSD_S_RESET);
        vbc_reuse(s->v, &c[i].r);
    }
    vsd_expect_attention(s);
    check_nothing_late(s, c, 0);
    check_nothing_late(s, c, 1);
    vsd_stop(s);
}

/* Commands of more than one I/O, or of another one than read and write */

static VsdCmd with_fua(VsdCmd c)
{
    c.cdb[1] |= 8;
    return c;
}

static VsdCmd with_data(Vsd *s, uint8_t opcode, const void *data, size_t len)
{
    VsdCmd c = vsd_plain(s, 0, opcode);

    c.r.direction = VBC_DATA_OUT;
    c.r.len = len;
    c.r.at = guest_alloc(&s->v->alloc, len);
    qtest_memwrite(s->v->qts, c.r.at, data, len);
    return c;
}

static VsdCmd unmap(Vsd *s)
{
    uint8_t list[8 + 2 * 16] = { 0, 38, 0, 32 };
    VsdCmd c;

    stq_be_p(list + 8, 1024);
    stl_be_p(list + 16, 64);
    stq_be_p(list + 24, 2048);
    stl_be_p(list + 32, 64);
    c = with_data(s, 0x42, list, sizeof(list));
    stw_be_p(&c.cdb[7], sizeof(list));
    return c;
}

static VsdCmd write_same(Vsd *s, uint8_t byte)
{
    uint8_t block[VBC_SECTOR];
    VsdCmd c;

    memset(block, byte, sizeof(block));
    c = with_data(s, 0x41, block, sizeof(block));
    stl_be_p(&c.cdb[2], 1024);
    stw_be_p(&c.cdb[7], 2048);          /* two of the pieces it is cut into */
    return c;
}

/* The caching page as it is, without write cache: that flushes */
static VsdCmd mode_select(Vsd *s)
{
    uint8_t list[8 + 20] = { [8] = 0x08, 0x12 };
    VsdCmd c = with_data(s, 0x55, list, sizeof(list));

    c.cdb[1] = 0x10;
    stw_be_p(&c.cdb[7], sizeof(list));
    return c;
}

/* Write something first, or a flush has nothing to do. */
static void check_kind(Vsd *s, VsdCmd c)
{
    VsdCmd dirty = vsd_write(0, 1, 0, VBC_SECTOR, 1);

    g_test_message("opcode 0x%x", c.cdb[0]);
    c.tag = 7;
    c.r.queue = s->v->q;
    vsd_do(s, &dirty, VSD_GOOD);
    vbc_hold(s->v);
    vsd_send(s, &c);
    vsd_sync(s);
    vsd_abort(s, &c);
    vbc_reuse(s->v, &c.r);
    vbc_release(s->v);
    vbc_settle(s->v);
    vbc_check_reused(s->v, &c.r);
}

static void test_kinds(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'dpofua': true",
    });
    VsdCmd plain;

    if (!s) {
        return;
    }
    check_kind(s, vsd_read(0, 0, 64, 65536));
    check_kind(s, vsd_write(0, 0, 64, 65536, 1));
    check_kind(s, with_fua(vsd_read(0, 0, 64, LEN)));
    check_kind(s, with_fua(vsd_write(0, 0, 64, LEN, 1)));
    check_kind(s, vsd_plain(s, 0, 0x35));
    check_kind(s, unmap(s));
    check_kind(s, write_same(s, 0));
    check_kind(s, write_same(s, 0xa5));
    check_kind(s, mode_select(s));

    /* What needs no storage does not hang */
    vbc_hold(s->v);
    plain = vsd_plain(s, 0, 0x1b);
    vsd_do(s, &plain, VSD_GOOD);
    plain = vsd_plain(s, 0, 0x2f);
    vsd_do(s, &plain, VSD_GOOD);
    vsd_stop(s);
}

/* A write with FUA succeeds, and the flush after it hangs */
static void test_second(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'dpofua': true",
        .drive_all = "format=raw,discard=unmap,file.driver=blkdebug,"
                     "file.image.driver=file,file.image.filename=%s",
    });
    VsdCmd write = with_fua(vsd_write(0, 5, 64, LEN, 3));

    vbc_break(s->v, "flush_to_disk", "A");
    vsd_send(s, &write);
    vbc_wait_break(s->v, "A");
    vsd_abort(s, &write);
    vbc_check_disk(s->v, 64, LEN, 3);
    vbc_resume(s->v, "A");
    vsd_stop(s);
}

/*
 * The storage has answered, but the command is still to be completed: null-co
 * answers in the context of the submission.  One access to guest memory
 * notifies both queues, and the main loop then serves them one after another.
 */
static void notify_both(Vsd *s)
{
    QVirtQueuePCI *control =
        container_of(s->v->queue[VSD_CONTROL].vq, QVirtQueuePCI, vq);
    QVirtQueuePCI *commands =
        container_of(s->v->queue[VSD_FIRST].vq, QVirtQueuePCI, vq);
    uint64_t from = control->notify_offset, to = commands->notify_offset;
    QVirtioPCIDevice *pci = s->v->pci;
    g_autofree uint8_t *zeroes = g_malloc0(to + 4 - from);

    vbc_publish(s->v, VSD_CONTROL);
    vbc_publish(s->v, VSD_FIRST);
    qpci_memwrite(pci->pdev, pci->bar, from, zeroes, to + 4 - from);
}

/* Commands of which the only, or only the first, I/O is over */
static void check_known(Vsd *s, uint32_t subtype, uint8_t response)
{
    const struct {
        VsdCmd c;
        bool all;
    } known[] = {
        { vsd_write(0, 1, 64, LEN, 1), true },
        { vsd_read(0, 1, 64, LEN), true },
        { vsd_plain(s, 0, 0x35), true },
        { write_same(s, 0), true },
        { mode_select(s), true },
        { with_fua(vsd_read(0, 1, 64, LEN)), false },
        { with_fua(vsd_write(0, 1, 64, LEN, 1)), false },
        { unmap(s), false },
        { write_same(s, 0xa5), false },
    };

    for (unsigned int i = 0; i < ARRAY_SIZE(known); i++) {
        VsdTmf t = { .subtype = subtype, .tag = 1 };
        VsdCmd c = known[i].c;

        g_test_message("opcode 0x%x", c.cdb[0]);
        c.tag = 1;
        vsd_add(s, &c);
        vsd_tmf_add(s, &t);
        notify_both(s);
        vbc_expect(s->v, &t.r, VSD_S_OK);
        vbc_reap(s->v);
        if (known[i].all) {
            vsd_expect(s, &c, VSD_GOOD);
        } else {
            vsd_expect_response(s, &c, response);
        }
        if (subtype == VSD_TMF_LUN_RESET) {
            vsd_expect_attention(s);
        }
    }
}

static void test_known(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'dpofua': true",
        .drive_all = "driver=null-co,size=4M,read-zeroes=on,discard=unmap",
    });

    check_known(s, VSD_TMF_ABORT_TASK, VSD_S_ABORTED);
    expect_cancels(s->v->qts, "lun0", 4, 5, 0, 0);
    check_known(s, VSD_TMF_ABORT_TASK_SET, VSD_S_ABORTED);
    check_known(s, VSD_TMF_LUN_RESET, VSD_S_RESET);
    expect_cancels(s->v->qts, "lun0", 8, 10, 0, 0);
    vsd_abandon(s);
}

/*
 * A command that is cut in two, because bounce buffers allow for only 3072 of
 * its 4096 bytes at a time: qcow2 answers the first part, where nothing was
 * written yet, at once.  The second part comes when the abort is on its way.
 */
static void test_rounds(const void *base)
{
    VsdCmd read = vsd_read(0, 1, 128 - 6, LEN);
    VsdCmd dirty = vsd_write(0, 2, 128, LEN, 1), warm = read;
    VsdTmf t = { .subtype = VSD_TMF_ABORT_TASK, .tag = 1 };
    Vsd *s;

    if (!have_qemu_img()) {
        g_test_skip("needs qemu-img");
        return;
    }
    s = vsd_start(&(VsdOptions) {
        .base = base, .qcow2 = true,
        .args = "-global virtio-scsi-pci.disable-legacy=on "
                "-global virtio-scsi-pci.iommu_platform=on "
                "-global virtio-scsi-pci.x-max-bounce-buffer-size=7168",
    });
    if (!s) {
        return;
    }
    vsd_do(s, &dirty, VSD_GOOD);
    vsd_do(s, &warm, VSD_GOOD);
    vbc_hold(s->v);
    read.r.at = NO_MEMORY;
    vsd_add(s, &read);
    vsd_tmf_add(s, &t);
    notify_both(s);
    vbc_expect(s->v, &t.r, VSD_S_OK);
    vbc_reap(s->v);
    vsd_expect_response(s, &read, VSD_S_ABORTED);
    vsd_stop(s);
}

/* Parked after an I/O error: aborted, it is not submitted again */
static void test_parked(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'werror': 'stop', 'rerror': 'stop'",
        .drive_all = "format=raw,file.driver=blkdebug,"
                     "file.inject-error.0.event=pwritev,"
                     "file.inject-error.0.once=on,"
                     "file.image.driver=file,file.image.filename=%s",
    });
    VsdCmd c = vsd_write(0, 3, 64, LEN, 1);

    vsd_send(s, &c);
    qtest_qmp_eventwait(s->v->qts, "STOP");
    vsd_abort(s, &c);
    vbc_reuse(s->v, &c.r);
    qtest_qmp_assert_success(s->v->qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(s->v->qts, "RESUME");
    vsd_sync(s);
    vbc_check_reused(s->v, &c.r);
    vbc_check_disk(s->v, 64, LEN, VBC_OLD);
    vsd_stop(s);
}

/*
 * Larger than the budget: not taken back.  Functions wait for it, each of them,
 * and it ends with its status.
 */
static void test_budget(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'cancel-budget': 4096",
    });
    VsdCmd c = vsd_write(0, 1, 64, 8192, 3);
    VsdCmd small = vsd_write(0, 2, 128, 512, 3);
    VsdTmf t[3] = {};

    if (!s) {
        return;
    }
    vbc_hold(s->v);
    vsd_send(s, &c);
    vsd_send(s, &small);
    vsd_sync(s);
    for (unsigned int i = 0; i < ARRAY_SIZE(t); i++) {
        t[i].subtype = i == 1 ? VSD_TMF_ABORT_TASK_SET : VSD_TMF_ABORT_TASK;
        t[i].tag = 1;
        vsd_tmf_send(s, &t[i]);
    }
    vsd_tmf(s, VSD_TMF_QUERY_TASK, 0, 1, VSD_S_FUNCTION_SUCCEEDED);
    vsd_expect_response(s, &small, VSD_S_ABORTED);
    for (unsigned int i = 0; i < ARRAY_SIZE(t); i++) {
        vbc_expect_pending(s->v, &t[i].r);
    }
    vbc_expect_pending(s->v, &c.r);
    expect_cancels(s->v->qts, "lun0", 1, 0, 0, ARRAY_SIZE(t));
    vbc_release(s->v);
    for (unsigned int i = 0; i < ARRAY_SIZE(t); i++) {
        vbc_expect(s->v, &t[i].r, VSD_S_OK);
    }
    vsd_expect(s, &c, VSD_GOOD);
    vbc_check_disk(s->v, 64, 8192, 3);
    vsd_stop(s);
}

/* Without cancel=on everything is as it was: the function waits */
static void test_off(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base, .off = true });
    VsdCmd c = vsd_write(0, 1, 64, LEN, 1);
    VsdTmf t = { .subtype = VSD_TMF_ABORT_TASK, .tag = 1 };
    VsdTmf query = { .subtype = VSD_TMF_QUERY_TASK, .tag = 1 };

    if (!s) {
        return;
    }
    vbc_hold(s->v);
    vsd_send(s, &c);
    vsd_sync(s);
    vsd_tmf_send(s, &t);
    do {
        vsd_tmf_send(s, &query);
        vbc_wait(s->v, &query.r);
    } while (query.r.status == VSD_S_FUNCTION_SUCCEEDED);
    vsd_sync(s);
    vbc_expect_pending(s->v, &c.r);
    vbc_expect_pending(s->v, &t.r);
    vbc_release(s->v);
    vbc_expect(s->v, &t.r, VSD_S_OK);
    vsd_expect_response(s, &c, VSD_S_ABORTED);
    vbc_check_disk(s->v, 64, LEN, 1);
    g_assert_cmpint(vbc_stat(s->v, "canceled_operations"), ==, 0);
    vsd_stop(s);
}

/* A guest that does what no driver does */

static void test_hostile(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd twins[3], out;
    VsdTmf t[64] = {};

    if (!s) {
        return;
    }
    vbc_hold(s->v);
    for (unsigned int i = 0; i < ARRAY_SIZE(twins); i++) {
        twins[i] = vsd_write(0, 9, 64, LEN, i);
        vsd_send(s, &twins[i]);
    }
    vsd_sync(s);
    vsd_tmf(s, VSD_TMF_ABORT_TASK, 0, 10, VSD_S_OK);
    vsd_tmf(s, VSD_TMF_ABORT_TASK, 1, 9, VSD_S_OK);
    vsd_tmf(s, VSD_TMF_ABORT_TASK, 7, 9, VSD_S_INCORRECT_LUN);
    vsd_tmf(s, VSD_TMF_LUN_RESET, 7, 9, VSD_S_INCORRECT_LUN);
    vsd_tmf(s, 99, 0, 9, VSD_S_FUNCTION_REJECTED);
    for (unsigned int i = 0; i < ARRAY_SIZE(twins); i++) {
        vbc_expect_pending(s->v, &twins[i].r);
    }

    /* All kinds at once, most of them for nothing */
    vbc_watch_begin(s->v);
    for (unsigned int i = 0; i < ARRAY_SIZE(t); i++) {
        t[i].subtype = i % 8;
        t[i].tag = 9;
        vsd_tmf_add(s, &t[i]);
    }
    vbc_kick(s->v, VSD_CONTROL);
    for (unsigned int i = 0; i < ARRAY_SIZE(t); i++) {
        vbc_wait(s->v, &t[i].r);
    }
    vbc_watch_end(s->v);
    for (unsigned int i = 0; i < ARRAY_SIZE(twins); i++) {
        vbc_wait(s->v, &twins[i].r);
        g_assert_cmphex(twins[i].r.status, !=, VSD_S_OK);
        vbc_reuse(s->v, &twins[i].r);
    }
    vsd_expect_attention(s);

    /* No memory: the device waits for a bounce buffer that nobody frees */
    out = vsd_read(0, 11, 64, LEN);
    out.r.at = NO_MEMORY;
    vsd_send(s, &out);
    vsd_sync(s);
    vsd_abort(s, &out);

    vbc_release(s->v);
    vbc_settle(s->v);
    for (unsigned int i = 0; i < ARRAY_SIZE(twins); i++) {
        vbc_check_reused(s->v, &twins[i].r);
    }
    vsd_stop(s);
}

/* Storage that answers, functions that come at any time */
static void test_race(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    static const uint32_t kinds[] = {
        VSD_TMF_ABORT_TASK, VSD_TMF_ABORT_TASK_SET, VSD_TMF_LUN_RESET,
    };

    for (unsigned int i = 0; s && i < 45; i++) {
        VsdTmf t = { .subtype = kinds[i % 3], .tag = 2 };
        VsdCmd c[8];

        for (unsigned int j = 0; j < ARRAY_SIZE(c); j++) {
            c[j] = j % 2 ? vsd_read(0, j, 64 + j * SECTORS, LEN)
                         : vsd_write(0, j, 64 + j * SECTORS, LEN, i);
            c[j].r.queue = VSD_FIRST + j % (s->v->num_queues - VSD_FIRST);
            vsd_add(s, &c[j]);
        }
        vsd_tmf_add(s, &t);
        for (unsigned int j = s->v->num_queues; j-- > VSD_FIRST;) {
            vbc_kick(s->v, j);
        }
        vbc_kick(s->v, VSD_CONTROL);
        vbc_expect(s->v, &t.r, VSD_S_OK);
        for (unsigned int j = 0; j < ARRAY_SIZE(c); j++) {
            vbc_wait(s->v, &c[j].r);
            if (c[j].r.status == VSD_S_OK && j % 2 == 0 && i % 3 < 2) {
                vsd_expect_response(s, &c[j], VSD_S_OK);
                if (c[j].status == VSD_GOOD) {
                    vbc_check_disk(s->v, c[j].r.sector, LEN, i);
                }
            }
            vbc_reuse(s->v, &c[j].r);
        }
        vbc_reap(s->v);
    }
    if (s) {
        vsd_stop(s);
    }
}

/*
 * Of each disk the first event is sent at once, however many there are: under
 * qtest the clock of the rate limit stands still
 */
static void test_events(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) { .base = base });
    VsdCmd c[VSD_HANGING];
    bool seen[VSD_LUNS] = {};

    if (!s) {
        return;
    }
    vsd_hang(s, c);
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        vsd_abort(s, &c[i]);
    }
    for (unsigned int i = 0; i < VSD_LUNS; i++) {
        QDict *event = qtest_qmp_eventwait_ref(s->v->qts,
                                               "BLOCK_HUNG_CHANGE");
        QDict *data = qdict_get_qdict(event, "data");
        unsigned int lun = g_str_equal(qdict_get_str(data, "qdev-id"), "lun1");

        g_assert_true(qdict_get_bool(data, "hung"));
        g_assert_false(seen[lun]);
        seen[lun] = true;
        qobject_unref(event);
    }
    vbc_release(s->v);
    vsd_stop(s);
}

/*
 * The storage is given an hour: no function but a reset takes a command back
 * before.
 */
static void test_after(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'cancel-after': 3600000",
    });
    VsdCmd c = vsd_write(0, 1, 64, VSD_LEN, 1);
    VsdCmd flush;

    if (!s) {
        return;
    }
    flush = vsd_plain(s, 0, 0x35);
    flush.tag = 2;
    vsd_do(s, &c, VSD_GOOD);                /* or a flush has nothing to do */
    vbc_hold(s->v);
    vsd_send(s, &c);
    vsd_send(s, &flush);
    vsd_sync(s);
    for (unsigned int tag = 1; tag <= 2; tag++) {
        vsd_tmf(s, VSD_TMF_ABORT_TASK, 0, tag, VSD_S_FUNCTION_REJECTED);
        vsd_tmf(s, VSD_TMF_ABORT_TASK_SET, 0, 0, VSD_S_FUNCTION_REJECTED);
        vsd_tmf(s, VSD_TMF_QUERY_TASK, 0, tag, VSD_S_FUNCTION_SUCCEEDED);
    }
    vsd_tmf(s, VSD_TMF_ABORT_TASK, 0, 3, VSD_S_OK);
    vbc_expect_pending(s->v, &c.r);
    vbc_expect_pending(s->v, &flush.r);
    vbc_watch_begin(s->v);
    vsd_tmf(s, VSD_TMF_LUN_RESET, 0, 0, VSD_S_OK);
    vbc_reap(s->v);
    vsd_expect_response(s, &c, VSD_S_RESET);
    vsd_expect_response(s, &flush, VSD_S_RESET);
    vbc_watch_end(s->v);
    vsd_stop(s);
}

/* After that time they do */
static void test_after_that(const void *base)
{
    Vsd *s = vsd_start(&(VsdOptions) {
        .base = base, .disk = "'cancel-after': 100",
    });
    VsdCmd c = vsd_write(0, 1, 64, VSD_LEN, 1);
    VsdTmf t = { .subtype = VSD_TMF_ABORT_TASK, .tag = 1 };

    if (!s) {
        return;
    }
    vbc_hold(s->v);
    vsd_send(s, &c);
    vsd_sync(s);
    vbc_watch_begin(s->v);
    do {
        vsd_tmf_send(s, &t);
        vbc_wait(s->v, &t.r);
    } while (t.r.status == VSD_S_FUNCTION_REJECTED);
    g_assert_cmpint(t.r.status, ==, VSD_S_OK);
    vsd_expect_response(s, &c, VSD_S_ABORTED);
    vbc_watch_end(s->v);
    vsd_stop(s);
}

int main(int argc, char **argv)
{
    static const VbcOptions main_loop, iothread = { .iothreads = 1 };
    static const VbcOptions platform = {
        .features = VBC_F(VIRTIO_F_ACCESS_PLATFORM),
    };

    g_test_init(&argc, &argv, NULL);
    if (!qtest_has_device("virtio-scsi-pci")) {
        g_test_skip("no virtio-scsi-pci");
        return 0;
    }
    vsd_add_test("abort", test_abort);
    vsd_add_test("abort-set", test_abort_set);
    vsd_add_test("clear-set", test_clear_set);
    vsd_add_test("lun-reset", test_lun_reset);
    vsd_add_test("nexus-reset", test_nexus_reset);
    vsd_add_test("kinds", test_kinds);
    vsd_add_test("budget", test_budget);
    vsd_add_test("after/not-yet", test_after);
    vsd_add_test("after/then", test_after_that);
    vsd_add_test("off", test_off);
    vsd_add_test("hostile", test_hostile);
    vsd_add_test("race", test_race);
    vsd_add_test("events", test_events);
    qtest_add_data_func("/virtio-scsi-cancel/lun-reset/iothread", &iothread,
                        test_lun_reset);
    qtest_add_data_func("/virtio-scsi-cancel/second/main-loop", &main_loop,
                        test_second);
    qtest_add_data_func("/virtio-scsi-cancel/known/main-loop", &main_loop,
                        test_known);
    qtest_add_data_func("/virtio-scsi-cancel/rounds/main-loop", &platform,
                        test_rounds);
    qtest_add_data_func("/virtio-scsi-cancel/parked/main-loop", &main_loop,
                        test_parked);
    vsd_add_reset_tests();
    vsd_add_unplug_tests();
    vsd_add_own_tests();
    return g_test_run();
}
