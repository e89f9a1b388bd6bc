/*
 * Tests of NVMe commands that are taken back: which blocks read as zeroes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On a namespace with metadata a deallocation asks that of the storage, and so
 * does what reads protection information.  Two ways to have nothing but this
 * question with the storage: deallocation, or reads, that do not reach it.
 */

#include "qemu/osdep.h"
#include "gate-patience.h"
#include "nvme-cancel-lib.h"

#define BLOCKS  4
#define SLBA    64
#define HANGING 8
#define HOLE    128     /* the host's file system has holes of such a size */

#define OLD     1
#define NEW     11
#define NEWEST  21

typedef struct Asks {
    const char *name;
    uint8_t opcode;
    NvdOptions opts;
} Asks;

static const Asks asks[] = {
    { "dsm", NVD_DSM, { NVD_METADATA, .keep = true } },
    { "read", NVD_READ, { NVD_PROTECTION, .zeroes = true } },
    { "verify", NVD_VERIFY, { NVD_PROTECTION, .zeroes = true } },
    { "copy", NVD_COPY, { NVD_PROTECTION, .zeroes = true } },
};

static NvdCmd command(const Asks *t)
{
    return (NvdCmd) { .opcode = t->opcode, .queue = 1, .slba = SLBA,
                      .blocks = BLOCKS, .fill = NEW };
}

/* A question that hangs holds up nobody, and is aborted like a read. */
static void test_abort(const void *opaque)
{
    const Asks *t = opaque;
    NvdCmd c = command(t);
    NvdCmd newest = { .opcode = NVD_WRITE, .queue = 2, .slba = SLBA,
                      .blocks = BLOCKS, .fill = NEWEST };
    Nvd *v = nvd_start(&t->opts);

    if (!v) {
        return;
    }
    nvd_hold(v);
    hold_storage_watch_begin(v->storage);
    nvd_send(v, &c);
    nvd_sync(v);
    nvd_sync(v);
    nvd_expect_pending(v, &c);
    nvd_abort(v, &c);
    nvd_reuse(v, &c);
    nvd_send(v, &newest);
    nvd_sync(v);
    nvd_expect_pending(v, &newest);
    hold_storage_watch_end(v->storage);

    nvd_release(v);
    nvd_expect(v, &newest, NVD_OK);
    nvd_check_reused(v, &c);
    nvd_check_disk(v, 1, SLBA, BLOCKS, NEWEST);
    nvd_stop(v);
}

/*
 * Commands that are about to ask, on storage that answers, and the deletion of
 * their queue come together.  Taking one back must not end others.
 */
static void test_delete(const void *opaque)
{
    const Asks *t = opaque;
    Nvd *v = nvd_start(&t->opts);
    NvdCmd delete_sq = { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = 1 };
    NvdCmd delete_cq = { .opcode = NVD_ADM_DELETE_CQ, .cdw10 = 1 };
    NvdCmd c[HANGING];

    if (!v) {
        return;
    }
    if (t->opcode == NVD_DSM) {
        /* The answer is no, with which the command ends */
        nvd_write(v, 1, SLBA, BLOCKS, OLD);
    }
    for (unsigned int i = 0; i < 5; i++) {
        for (unsigned int j = 0; j < HANGING; j++) {
            c[j] = command(t);
            nvd_add(v, &c[j]);
        }
        nvd_add(v, &delete_sq);
        nvd_ring_both(v);
        nvd_expect(v, &delete_sq, NVD_OK);
        nvd_reap(v);
        for (unsigned int j = 0; j < HANGING; j++) {
            /* The controller may not even have fetched it. */
            if (c[j].order) {
                g_assert_true(c[j].status == NVD_OK ||
                              c[j].status == NVD_SQ_DELETED);
            }
        }
        nvd_do(v, &delete_cq, NVD_OK);
        nvd_create_queue(v, 1);
    }
    nvd_stop(v);
}

/*
 * The deletion is fetched while a command asks: it comes behind one that uses
 * the last free entry of the admin queue.  Whoever waited for the answer in the
 * middle of the command would be waited for by the deletion.
 */
static void test_delete_meanwhile(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { NVD_METADATA, .keep = true,
                                       .admin_entries = 3 });
    NvdCmd delete_sq = { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = 1 };
    NvdCmd first = { .opcode = NVD_ADM_GET_FEATURES,
                     .cdw10 = NVD_FEAT_WRITE_CACHE };
    NvdCmd dsm = command(&asks[0]);
    NvdCmd event[2];

    if (!v) {
        return;
    }
    nvd_send_events(v, event, ARRAY_SIZE(event));
    nvd_add(v, &dsm);
    nvd_add(v, &first);
    nvd_add(v, &delete_sq);
    nvd_ring_both(v);
    nvd_expect(v, &first, NVD_OK);
    nvd_expect(v, &delete_sq, NVD_OK);
    nvd_reap(v);
    g_assert_true(dsm.status == NVD_OK || dsm.status == NVD_SQ_DELETED);
    nvd_abort_events(v, event, ARRAY_SIZE(event));
    nvd_stop(v);
}

/* What would wait for the answer with the machine standing still is refused. */
static void test_stop(void)
{
    Nvd *v = nvd_start(&asks[0].opts);
    NvdCmd c[2] = { command(&asks[0]), command(&asks[0]) };
    QDict *rsp;

    if (!v) {
        return;
    }
    nvd_hold(v);
    nvd_send(v, &c[0]);
    nvd_send(v, &c[1]);
    nvd_sync(v);
    nvd_abort(v, &c[1]);
    hold_storage_watch_begin(v->storage);
    rsp = qtest_qmp(v->qts, "{'execute': 'stop'}");
    g_assert_nonnull(gate_says(rsp));
    qobject_unref(rsp);
    rsp = qtest_qmp(v->qts, "{'execute': 'blockdev-add', 'arguments': {"
                    "'driver': 'raw', 'node-name': 'other', 'file': {"
                    "'driver': 'null-co'}}}");
    g_assert_nonnull(strstr(gate_says(rsp), "disk 'ns1' waits for an answer"));
    qobject_unref(rsp);
    nvd_abort(v, &c[0]);
    rsp = qtest_qmp(v->qts, "{'execute': 'stop'}");
    g_assert_nonnull(gate_says(rsp));
    qobject_unref(rsp);
    hold_storage_watch_end(v->storage);
    nvd_release(v);
    gate_patient_qmp(v->qts, "{'execute': 'stop'}", NULL);
    qtest_qmp_assert_success(v->qts, "{'execute': 'cont'}");
    nvd_stop(v);
}

/* Endless aborts of commands whose question hangs use up nothing. */
static void test_flood(void)
{
    Nvd *v = nvd_start(&asks[0].opts);
    NvdCmd newest = { .opcode = NVD_WRITE, .queue = 2, .slba = SLBA,
                      .blocks = BLOCKS, .fill = NEWEST };
    NvdCmd last = command(&asks[0]);

    if (!v) {
        return;
    }
    nvd_hold(v);
    hold_storage_watch_begin(v->storage);
    for (unsigned int i = 0; i < 200; i++) {
        NvdCmd c = command(&asks[0]);

        nvd_send(v, &c);
        nvd_sync(v);
        nvd_abort(v, &c);
    }
    nvd_send(v, &last);
    nvd_sync(v);
    hold_storage_watch_end(v->storage);
    nvd_expect_pending(v, &last);
    nvd_release(v);
    nvd_expect(v, &last, NVD_OK);
    nvd_do(v, &newest, NVD_OK);
    nvd_check_read(v, 1, SLBA, BLOCKS, NEWEST);
    nvd_stop(v);
}

/*
 * What has never been written, or was deallocated, has no protection; all else
 * has, also what is around it.
 */
static void test_unprotected(void)
{
    Nvd *v = nvd_start(&(NvdOptions) { NVD_PROTECTION });
    NvdCmd verify = { .opcode = NVD_VERIFY, .queue = 1, .slba = 0,
                      .blocks = 3 * HOLE };
    NvdCmd dsm = { .opcode = NVD_DSM, .queue = 1, .slba = HOLE,
                   .blocks = HOLE };

    if (!v) {
        return;
    }
    nvd_check_read(v, 1, HOLE, BLOCKS, 0);
    nvd_do(v, &verify, NVD_OK);
    for (unsigned int i = 0; i < HOLE; i += BLOCKS) {
        nvd_write(v, 1, HOLE + i, BLOCKS, OLD);
    }
    nvd_check_read(v, 1, HOLE, BLOCKS, OLD);
    nvd_do(v, &verify, NVD_OK);

    nvd_spoil_disk(v, 1, 2 * HOLE - 1);
    nvd_do(v, &verify, NVD_GUARD_ERROR);

    nvd_do(v, &dsm, NVD_OK);
    nvd_check_read(v, 1, HOLE, BLOCKS, 0);
    nvd_do(v, &verify, NVD_OK);
    nvd_stop(v);
}

/* Metadata goes with blocks that are zeroes then; otherwise it stays. */
static void test_metadata(const void *opts)
{
    const NvdOptions *o = opts;
    Nvd *v = nvd_start(opts);
    NvdCmd dsm = { .opcode = NVD_DSM, .queue = 1, .slba = HOLE,
                   .blocks = HOLE };

    if (!v) {
        return;
    }
    nvd_write(v, 1, HOLE, BLOCKS, OLD);
    nvd_do(v, &dsm, NVD_OK);
    nvd_check_read(v, 1, HOLE, BLOCKS, o->keep ? OLD : 0);
    nvd_stop(v);
}

void nvd_add_status_tests(void)
{
    static const NvdOptions deallocates = { NVD_METADATA };
    static const NvdOptions keeps = { NVD_METADATA, .keep = true };

    for (unsigned int i = 0; i < ARRAY_SIZE(asks); i++) {
        g_autofree char *abort = g_strdup_printf("/nvme-cancel/status/abort/%s",
                                                 asks[i].name);
        g_autofree char *delete = g_strdup_printf("/nvme-cancel/status/delete-"
                                                  "queue/%s", asks[i].name);

        qtest_add_data_func(abort, &asks[i], test_abort);
        qtest_add_data_func(delete, &asks[i], test_delete);
    }
    qtest_add_func("/nvme-cancel/status/delete-meanwhile",
                   test_delete_meanwhile);
    qtest_add_func("/nvme-cancel/status/stop", test_stop);
    qtest_add_func("/nvme-cancel/status/flood", test_flood);
    qtest_add_func("/nvme-cancel/status/unprotected", test_unprotected);
    qtest_add_data_func("/nvme-cancel/status/deallocates", &deallocates,
                        test_metadata);
    qtest_add_data_func("/nvme-cancel/status/keeps", &keeps, test_metadata);
}
