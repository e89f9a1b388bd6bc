/*
 * The race tests of virtio-blk's CANCEL request: what a guest can make grow
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest that submits and cancels in a loop, on storage that hangs, gets no
 * more of QEMU's memory, threads and open files than the limits say; and a disk
 * in another IOThread goes on.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "standard-headers/linux/virtio_blk.h"
#include "hold-fs.h"
#include "virtio-blk-cancel-lib.h"
#include "virtio-blk-race.h"

#define DISK_SIZE       (1 * GiB)
#define BUDGET          (16 * MiB)      /* cancel-budget */
#define LARGE           1024            /* sectors of a request */
#define BATCH           60
#define BATCHES         320
#define SAMPLES         8
#define OTHER_SLOT      (VBC_SLOT + 1)

/*
 * Besides the budget: what an AioContext keeps of the buffers it has used, and
 * the coroutine and the bookkeeping of each request that is outstanding or that
 * can be abandoned.
 */
#define IDLE_BUFFERS    (8 * MiB)
#define PER_REQUEST     (32 * KiB)
#define MAX_ABANDONED    256

/* Of an AioContext: its thread pool, and threads for what hangs */
#define MAX_THREADS     (64 + 256)

/* From one sample to the last, where nothing is to grow */
#define NOISE           (4 * MiB)

typedef struct Bounds {
    Store *store;               /* what hangs: this */
    HoldFs *fs;                 /* or this */
    Guest *g;
    Guest *other;               /* a disk that does not */
    uint64_t data;              /* guest address for data of any request */
} Bounds;

typedef struct Usage {
    uint64_t memory;            /* bytes, without what it shares */
    unsigned int threads;
    unsigned int files;
} Usage;

static uint64_t status_field(const char *status, const char *name)
{
    const char *line = strstr(status, name);
    uint64_t value;

    g_assert_nonnull(line);
    g_assert_cmpint(qemu_strtou64(line + strlen(name), &line, 10, &value), ==,
                    0);
    return value;
}

static Usage usage(Guest *g, const char *when)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            (int)qtest_pid(g->qts));
    g_autofree char *fds = g_strdup_printf("/proc/%d/fd",
                                           (int)qtest_pid(g->qts));
    g_autofree char *status = NULL;
    GDir *dir = g_dir_open(fds, 0, NULL);
    Usage u = {};

    g_assert_true(g_file_get_contents(path, &status, NULL, NULL));
    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        u.files++;
    }
    g_dir_close(dir);
    u.memory = status_field(status, "RssAnon:") * KiB;
    u.threads = status_field(status, "Threads:");
    g_test_message("%6" PRIu64 " requests, %6" PRIu64 " cancelled: %6" PRIu64
                   " KiB, %u threads, %u files; %s", g->stats.requests,
                   g->stats.canceled, u.memory / KiB, u.threads, u.files,
                   when);
    return u;
}

static void check_usage(Guest *g, const Usage *now, const Usage *before)
{
    uint64_t limit = BUDGET + g->opts.iothreads * IDLE_BUFFERS +
                     (BATCH + MAX_ABANDONED) * PER_REQUEST;

    if (VBC_KNOWS_MEMORY) {
        g_assert_cmpuint(now->memory, <=, before->memory + limit);
    }
    g_assert_cmpuint(now->threads, <=, before->threads +
                     (g->store ? 0 : g->opts.iothreads * MAX_THREADS));
    g_assert_cmpuint(now->files, <=, before->files);
}

/*
 * Requests, mostly large ones, and a CANCEL of each if @cancel.  They do not
 * overlap for a long time: what waits at the fence takes nothing.
 */
static void batch(Guest *g, unsigned int queue, uint64_t data, bool cancel)
{
    static const uint32_t types[] = {
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN,
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_WRITE_ZEROES,
    };
    GuestReq *r[BATCH];

    for (unsigned int i = 0; i < BATCH; i++) {
        GuestReq what = {
            .type = types[i % ARRAY_SIZE(types)], .queue = queue,
            .num = LARGE, .data = data,
            .sector = (g->stats.requests * LARGE) % (DISK_SIZE / RACE_SECTOR),
        };

        if (what.type == VIRTIO_BLK_T_FLUSH) {
            what.num = 0;
        }
        r[i] = guest_add(g, &what);
    }
    guest_kick(g, queue);
    for (unsigned int i = 0; cancel && i < BATCH; i++) {
        GuestReq what = {
            .type = VBC_T_CANCEL, .queue = queue, .tag = r[i]->tag,
            .after_target = true,
        };

        r[i]->asked = true;
        guest_add(g, &what);
    }
    guest_kick(g, queue);
    guest_wait(g, guest_requests(g) + guest_cancels(g) == 0);
}

/* The disk beside it does what it is told. */
static void other_goes_on(Guest *g, uint32_t stamp)
{
    GuestReq write = {
        .type = VIRTIO_BLK_T_OUT, .num = 8, .stamp = stamp, .locked = true,
        .sector = g_test_rand_int_range(0, RACE_SECTORS - 8),
    };
    GuestReq read = write;

    g_assert_true(model_lock(g->model, write.sector, write.num, true));
    guest_add(g, &write);
    guest_kick(g, 0);
    guest_wait(g, guest_requests(g) == 0);

    read.type = VIRTIO_BLK_T_IN;
    g_assert_true(model_lock(g->model, read.sector, read.num, false));
    guest_add(g, &read);
    guest_kick(g, 0);
    guest_wait(g, guest_requests(g) == 0);
}

static void set_hung(Bounds *b, bool hung)
{
    if (b->fs) {
        hold_fs_hold(b->fs, hung);
    } else {
        store_set_mode(b->store, hung ? STORE_HUNG : STORE_FAST);
    }
}

static void hang_and_cancel(Bounds *b)
{
    Guest *g = b->g;
    Usage before, settled = {}, now = {};
    unsigned int threads = usage(g, "started").threads;

    batch(g, 0, b->data, false);
    batch(g, 1, b->data, false);
    before = usage(g, "all is well");
    before.threads = threads;   /* a thread pool grows by itself */

    set_hung(b, true);
    for (unsigned int i = 1; i <= BATCHES; i++) {
        batch(g, i % g->opts.queues, b->data, true);
        other_goes_on(b->other, RACE_STAMP_FIRST + i);
        if (i % (BATCHES / SAMPLES) == 0) {
            now = usage(g, "hung");
            check_usage(g, &now, &before);
            settled = i == 2 * (BATCHES / SAMPLES) ? now : settled;
        }
        if (i % 20 == 0 && race_reset_held()) {
            guest_reset(g);
        }
    }
    if (VBC_KNOWS_MEMORY) {
        g_assert_cmpuint(now.memory, <=, settled.memory + NOISE);
    }
    /* A file system may discard without being asked to wait */
    g_assert_cmpuint(g->stats.canceled, >=, BATCHES * BATCH / 2);

    set_hung(b, false);
    guest_stop_cont(g);
    batch(g, 0, b->data, false);
    now = usage(g, "all is well again");
    check_usage(g, &now, &before);
}

static void run_bounds(Bounds *b, const char *file)
{
    GuestOptions opts = {
        .queues = 4, .iothreads = 2, .device = "'cancel-budget': 16777216",
        .file = file,
    };
    GuestOptions other_opts = { .queues = 1 };
    Store *other_store = store_new(RACE_SECTORS * RACE_SECTOR, 0, true);
    Model *model = model_new();
    g_autofree char *args = guest_disk_args(OTHER_SLOT, other_store);
    unsigned int round = 0;

    QEMU_BUILD_BUG_ON(BUDGET != 16777216);
    opts.args = args;
    race_set_replay("no seed", &round);
    b->g = guest_start(&opts, b->store, NULL);
    b->other = guest_attach(b->g, &other_opts, OTHER_SLOT, other_store, model);
    b->data = guest_alloc(&b->g->alloc, LARGE * RACE_SECTOR);

    hang_and_cancel(b);

    guest_end(b->other);
    guest_end(b->g);
    store_free(other_store);
    model_free(model);
    race_set_replay(NULL, NULL);
}

static void test_bounds_nbd(void)
{
    Bounds b = { .store = store_new(DISK_SIZE, 0, false) };

    run_bounds(&b, NULL);
    store_free(b.store);
}

static void test_bounds_threads(void)
{
    Bounds b = { .fs = hold_fs_new(DISK_SIZE) };
    g_autofree char *file = NULL;

    if (!b.fs) {
        return;
    }
    file = g_strdup_printf("file.driver=file,file.aio=threads,"
                           "file.cache.direct=on,file.locking=off,"
                           "file.filename=%s", hold_fs_path(b.fs));
    run_bounds(&b, file);
    hold_fs_free(b.fs);
}

void race_add_bounds_tests(void)
{
    g_test_add_func("/virtio-blk-race/bounds/nbd", test_bounds_nbd);
    g_test_add_func("/virtio-blk-race/bounds/threads", test_bounds_threads);
}
