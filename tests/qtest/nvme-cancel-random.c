/*
 * Tests of NVMe commands that are taken back: everything at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A host that sends, aborts, deletes queues and resets at random, on storage
 * that hangs now and then.  Random numbers come from GLib: --seed repeats a
 * run.  That no command ends twice, and none that was not sent, is checked with
 * every completion.
 */

#include "qemu/osdep.h"
#include "nvme-cancel-lib.h"

#define STEPS       400
#define BLOCKS      4
#define RANGES      16          /* of BLOCKS blocks each */
#define NEWEST      21
#define MAX_PENDING 40          /* in one queue */

typedef struct Host {
    Nvd *v;
    bool held;
    NvdCmd cmd[NVD_QUEUES][MAX_PENDING];
    bool sent[NVD_QUEUES][MAX_PENDING];
} Host;

/* Returns: a command that is not outstanding, or NULL */
static NvdCmd *free_cmd(Host *h, unsigned int queue)
{
    for (unsigned int i = 0; i < MAX_PENDING; i++) {
        NvdCmd *c = &h->cmd[queue][i];

        if (!h->sent[queue][i] || c->order) {
            h->sent[queue][i] = true;
            return c;
        }
    }
    return NULL;
}

static void forget(Host *h, unsigned int queue)
{
    memset(h->sent[queue], 0, sizeof(h->sent[queue]));
}

static void send_io(Host *h)
{
    static const uint8_t opcode[] = {
        NVD_READ, NVD_WRITE, NVD_WRITE, NVD_WRITE_ZEROES, NVD_FLUSH, NVD_DSM,
        NVD_COMPARE, NVD_VERIFY, NVD_COPY,
    };
    unsigned int queue = g_test_rand_int_range(1, NVD_QUEUES);
    NvdCmd *c = free_cmd(h, queue);

    if (c) {
        *c = (NvdCmd) {
            .opcode = opcode[g_test_rand_int_range(0, ARRAY_SIZE(opcode))],
            .queue = queue, .blocks = BLOCKS,
            .nsid = g_test_rand_int_range(1, HOLD_STORAGE_DISKS + 1),
            .slba = g_test_rand_int_range(0, RANGES) * BLOCKS,
            .fill = g_test_rand_int_range(1, 100),
        };
        nvd_send(h->v, c);
    }
}

/* What may stay in the admin queue for long */
static void send_admin(Host *h)
{
    NvdCmd *c = free_cmd(h, 0);

    if (c) {
        *c = (NvdCmd) { .opcode = NVD_ADM_ASYNC_EVENT };
        if (g_test_rand_bit()) {
            c->opcode = NVD_ADM_SET_FEATURES;
            c->cdw10 = NVD_FEAT_WRITE_CACHE;
        }
        nvd_send(h->v, c);
    }
}

/* Several at once: of anything, of each other, of what is not there */
static void abort_some(Host *h)
{
    NvdCmd abort[4];

    for (unsigned int i = 0; i < ARRAY_SIZE(abort); i++) {
        uint32_t cid = g_test_rand_int_range(0, NVD_QUEUE_SIZE + 4);

        abort[i] = (NvdCmd) {
            .opcode = NVD_ADM_ABORT,
            .cdw10 = cid << 16 | g_test_rand_int_range(0, NVD_QUEUES),
        };
        nvd_add(h->v, &abort[i]);
    }
    nvd_ring(h->v, 0);
    for (unsigned int i = 0; i < ARRAY_SIZE(abort); i++) {
        nvd_expect(h->v, &abort[i], NVD_OK);
    }
}

static void delete_queue(Host *h)
{
    unsigned int queue = g_test_rand_int_range(1, NVD_QUEUES);
    NvdCmd sq = { .opcode = NVD_ADM_DELETE_SQ, .cdw10 = queue };
    NvdCmd cq = { .opcode = NVD_ADM_DELETE_CQ, .cdw10 = queue };

    nvd_do(h->v, &sq, NVD_OK);
    nvd_reap(h->v);
    for (unsigned int i = 0; i < NVD_QUEUE_SIZE; i++) {
        g_assert_null(h->v->queue[queue].owner[i]);
    }
    nvd_do(h->v, &cq, NVD_OK);
    nvd_create_queue(h->v, queue);
    forget(h, queue);
}

static void reset(Host *h)
{
    nvd_disable(h->v);
    nvd_enable(h->v);
    for (unsigned int i = 0; i < NVD_QUEUES; i++) {
        forget(h, i);
    }
}

static void step(Host *h)
{
    unsigned int dice = g_test_rand_int_range(0, 100);

    if (dice < 60) {
        send_io(h);
    } else if (dice < 64) {
        send_admin(h);
    } else if (dice < 90) {
        abort_some(h);
    } else if (dice < 93) {
        delete_queue(h);
    } else if (dice < 95) {
        reset(h);
    } else if (h->held) {
        nvd_release(h->v);
        h->held = false;
    } else {
        nvd_hold(h->v);
        h->held = true;
    }
    nvd_reap(h->v);
}

/* Whatever has been: what is written last prevails, on every block. */
static void finish(Host *h)
{
    nvd_release(h->v);
    reset(h);
    for (uint32_t nsid = 1; nsid <= HOLD_STORAGE_DISKS; nsid++) {
        for (unsigned int i = 0; i < RANGES + 1; i++) {
            nvd_write(h->v, nsid, i * BLOCKS, BLOCKS, NEWEST);
        }
    }
    for (uint32_t nsid = 1; nsid <= HOLD_STORAGE_DISKS; nsid++) {
        for (unsigned int i = 0; i < RANGES + 1; i++) {
            nvd_check_disk(h->v, nsid, i * BLOCKS, BLOCKS, NEWEST);
        }
    }
    nvd_stop(h->v);
}

static void test_random(const void *opts)
{
    g_autofree Host *h = g_new0(Host, 1);

    h->v = nvd_start(opts);
    if (!h->v) {
        return;
    }
    for (unsigned int i = 0; i < STEPS; i++) {
        hold_storage_watch_begin(h->v->storage);
        step(h);
        hold_storage_watch_end(h->v->storage);
    }
    finish(h);
}

void nvd_add_random_tests(void)
{
    static const NvdOptions plain = {};
    static const NvdOptions metadata = { NVD_METADATA };
    static const NvdOptions kept = { NVD_METADATA, .keep = true };
    static const NvdOptions protection = { NVD_PROTECTION };

    qtest_add_data_func("/nvme-cancel/random/plain", &plain, test_random);
    qtest_add_data_func("/nvme-cancel/random/metadata", &metadata, test_random);
    qtest_add_data_func("/nvme-cancel/random/kept", &kept, test_random);
    qtest_add_data_func("/nvme-cancel/random/protection", &protection,
                        test_random);
}
