/*
 * Requests that run on the caller's memory, taken back by swapping its pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The storage is a loop device over a file of a FUSE server that can be made to
 * hang, the program that QTEST_HOLD_FS names.  Whether a request was lent shows
 * when it is taken back: then the owner of the memory is asked.
 *
 * SWAP_STEPS=100000 makes the random test longer.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/loop.h>
#include "qemu/defer-call.h"
#include "qemu/main-loop.h"
#include "qemu/page-swap.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "block/blk-cancel.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "main-loop-wait.h"
#include "iothread.h"
#include "../qtest/hold-fs.h"
#include "../qtest/libqtest.h"

#define PAGE        4096
#define DISK_SIZE   (8 * MiB)
#define BUDGET      (64 * MiB)

/*
 * hold-fs.c is part of a qtest otherwise.  Here a test that fails lets go first
 * because this process cannot end while its requests hang, nor can the server.
 */
static HoldFs *to_let_go;

static void let_go(int sig)
{
    if (to_let_go) {
        hold_fs_hold(to_let_go, false);
    }
}

void qtest_add_abrt_handler(GHookFunc fn, const void *data)
{
    const struct sigaction action = {
        .sa_handler = let_go, .sa_flags = SA_RESETHAND,
    };

    to_let_go = (HoldFs *)data;
    sigaction(SIGABRT, &action, NULL);
}

void qtest_remove_abrt_handler(void *data)
{
    to_let_go = NULL;
}

static char *no_swap;           /* why pages cannot be swapped, or NULL */

/* What the engine has asked the owner of the memory; main loop */
static unsigned int asked;      /* for a request that is taken back */
static unsigned int written;    /* bytes that it was told of */
static bool forbidden;          /* what to answer */

static bool is_possible(void)
{
    return true;
}

static bool may_swap(const struct iovec *iov, int niov)
{
    asked++;
    return !forbidden;
}

static void mark_written(const struct iovec *iov, int niov)
{
    written += iov_size(iov, niov);
}

static const BlkCancelSwap swap = {
    .is_possible = is_possible,
    .may_swap = may_swap,
    .written = mark_written,
};

/* Everything is owned by the main loop. */
typedef struct Rig {
    HoldFs *fs;
    int loop_fd;
    char *loop;
    BlockDriverState *bs;
    BlockBackend *blk;
    uint8_t *ram;
    size_t ram_size;
} Rig;

typedef struct Req {
    Rig *rig;
    bool is_write;
    int64_t offset;
    QEMUIOVector qiov;
    BlockAIOCB *acb;
    bool done;
    bool canceled;
    int ret;
} Req;

/* Returns: whether the host lets us have one. */
static bool make_loop(Rig *rig)
{
    const struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int n = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    int fd = open(hold_fs_path(rig->fs), O_RDWR | O_CLOEXEC);
    bool ok = false;

    if (n >= 0 && fd >= 0) {
        rig->loop = g_strdup_printf("/dev/loop%d", n);
        rig->loop_fd = open(rig->loop, O_RDWR | O_CLOEXEC);
        ok = rig->loop_fd >= 0 && ioctl(rig->loop_fd, LOOP_SET_FD, fd) == 0 &&
             ioctl(rig->loop_fd, LOOP_SET_STATUS64, &info) == 0;
    }
    close(control);
    close(fd);
    return ok;
}

static void rig_free(Rig *rig)
{
    if (rig->blk) {
        blk_set_cancel(rig->blk, NULL, &error_abort);
        blk_unref(rig->blk);
    }
    bdrv_unref(rig->bs);
    if (rig->ram) {
        munmap(rig->ram, rig->ram_size);
    }
    close(rig->loop_fd);
    g_free(rig->loop);
    hold_fs_free(rig->fs);
    g_free(rig);
}

static Rig *rig_skip(Rig *rig, const char *why)
{
    g_test_skip(why);
    rig_free(rig);
    return NULL;
}

static BlockDriverState *open_disk(Rig *rig, const char *aio, int flags,
                                   Error **errp)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "host_device");
    qdict_put_str(options, "aio", aio);
    qdict_put_str(options, "cache.direct", "on");
    return bdrv_open(rig->loop, NULL, options, flags, errp);
}

/* Returns: NULL, with the test marked as skipped, if the host cannot do it. */
static Rig *rig_new(const char *aio, uint64_t budget)
{
    const BlkCancelOptions opts = {
        .budget = budget, .damper = 1000, .region = 4 * MiB, .swap = &swap,
    };
    Rig *rig = g_new0(Rig, 1);
    Error *err = NULL;

    rig->loop_fd = -1;
    if (no_swap) {
        g_test_skip(no_swap);
        g_free(rig);
        return NULL;
    }
    rig->fs = hold_fs_new(DISK_SIZE);
    if (!rig->fs) {
        g_free(rig);
        return NULL;
    }
    if (!make_loop(rig)) {
        return rig_skip(rig, "no loop device to be had");
    }
    rig->bs = open_disk(rig, aio, BDRV_O_RDWR, &err);
    if (!rig->bs) {
        rig_skip(rig, error_get_pretty(err));
        error_free(err);
        return NULL;
    }
    rig->blk = blk_new(qemu_get_aio_context(),
                       BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);
    blk_insert_bs(rig->blk, rig->bs, &error_abort);
    blk_set_enable_write_cache(rig->blk, true);
    blk_set_cancel(rig->blk, &opts, &error_abort);

    rig->ram_size = 8 * MiB;
    rig->ram = mmap(NULL, rig->ram_size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert(rig->ram != MAP_FAILED);
    asked = written = 0;
    forbidden = false;
    return rig;
}

static void rig_end(Rig *rig)
{
    BlkCancelInfo info;

    hold_fs_hold(rig->fs, false);
    blk_drain(rig->blk);
    blk_cancel_query(rig->blk, &info);
    g_assert_cmpuint(info.abandoned, ==, 0);
    g_assert_cmpuint(info.budget_used, ==, 0);
    rig_free(rig);
}

static void req_done(void *opaque, int ret)
{
    Req *req = opaque;

    g_assert_false(req->done);
    req->done = true;
    req->ret = ret;
    req->canceled = blk_aio_was_canceled(req->acb);
}

/* Its memory is added by the caller. */
static Req *req_new(Rig *rig, bool is_write, int64_t offset)
{
    Req *req = g_new0(Req, 1);

    req->rig = rig;
    req->is_write = is_write;
    req->offset = offset;
    qemu_iovec_init(&req->qiov, 4);
    return req;
}

static void req_submit(Req *req)
{
    BlockBackend *blk = req->rig->blk;

    req->acb = req->is_write
        ? blk_aio_pwritev(blk, req->offset, &req->qiov, 0, req_done, req)
        : blk_aio_preadv(blk, req->offset, &req->qiov, 0, req_done, req);
}

static Req *submit(Rig *rig, bool is_write, int64_t offset, uint8_t *mem,
                   size_t bytes)
{
    Req *req = req_new(rig, is_write, offset);

    qemu_iovec_add(&req->qiov, mem, bytes);
    req_submit(req);
    return req;
}

static void req_free(Req *req)
{
    g_assert_true(req->done);
    /* As a device does: nothing of the caller's may be used any more */
    memset(req->qiov.iov, 0xee, req->qiov.niov * sizeof(struct iovec));
    qemu_iovec_destroy(&req->qiov);
    g_free(req);
}

/* Take it back: at once, or when the kernel has accepted it. */
static void cancel(Req *req)
{
    main_loop_wait_for(req->done ||
                       (blk_aio_cancel_async(req->acb), req->done));
    g_assert_true(req->canceled);
}

static void wait_done(Req *req, int ret)
{
    main_loop_wait_for(req->done);
    g_assert_false(req->canceled);
    g_assert_cmpint(req->ret, ==, ret);
}

static void check_mem(const uint8_t *mem, size_t bytes, uint8_t pattern)
{
    for (size_t i = 0; i < bytes; i++) {
        g_assert_cmphex(mem[i], ==, pattern);
    }
}

static void fill_disk(Rig *rig, int64_t offset, size_t bytes, uint8_t pattern)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, pattern, bytes);
    g_assert_cmpint(blk_pwrite(rig->blk, offset, bytes, buf, 0), ==, 0);
}

static void check_disk(Rig *rig, int64_t offset, size_t bytes, uint8_t pattern)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(blk_pread(rig->blk, offset, bytes, buf, 0), ==, 0);
    check_mem(buf, bytes, pattern);
}

/* Nothing lands in memory that has been given back. */
static void test_read(gconstpointer aio)
{
    const size_t bytes = 16 * PAGE;
    Rig *rig = rig_new(aio, BUDGET);
    Req *req;

    if (!rig) {
        return;
    }
    fill_disk(rig, 0, bytes, 0x22);
    memset(rig->ram, 0x11, bytes);
    hold_fs_hold(rig->fs, true);
    req = submit(rig, false, 0, rig->ram, bytes);
    cancel(req);
    req_free(req);
    g_assert_cmpuint(asked, >, 0);
    g_assert_cmpuint(written, ==, bytes);
    check_mem(rig->ram, bytes, 0x11);
    memset(rig->ram, 0x5a, bytes);

    hold_fs_hold(rig->fs, false);
    blk_drain(rig->blk);
    check_mem(rig->ram, bytes, 0x5a);

    /* The same memory serves again */
    req = submit(rig, false, 0, rig->ram, bytes);
    wait_done(req, 0);
    req_free(req);
    check_mem(rig->ram, bytes, 0x22);
    rig_end(rig);
}

/* What lands late is what the request was given, not what came there later. */
static void test_write(gconstpointer aio)
{
    const size_t bytes = 16 * PAGE;
    Rig *rig = rig_new(aio, BUDGET);
    Req *req[8];

    if (!rig) {
        return;
    }
    hold_fs_hold(rig->fs, true);
    /* The kernel reads the last ones when the first have landed. */
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        uint8_t *mem = rig->ram + i * bytes;

        memset(mem, 0x30 + i, bytes);
        req[i] = submit(rig, true, i * bytes, mem, bytes);
    }
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        cancel(req[i]);
        req_free(req[i]);
    }
    g_assert_cmpuint(asked, >, 0);
    g_assert_cmpuint(written, ==, 0);
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        check_mem(rig->ram + i * bytes, bytes, 0x30 + i);
    }
    memset(rig->ram, 0x5a, ARRAY_SIZE(req) * bytes);

    hold_fs_hold(rig->fs, false);
    blk_drain(rig->blk);
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        check_disk(rig, i * bytes, bytes, 0x30 + i);
    }
    rig_end(rig);
}

/* Nobody takes anything back. */
static void test_plain(gconstpointer aio)
{
    const size_t bytes = 64 * PAGE;
    Rig *rig = rig_new(aio, BUDGET);
    Req *req;

    if (!rig) {
        return;
    }
    memset(rig->ram, 0x33, bytes);
    req = submit(rig, true, PAGE, rig->ram, bytes);
    wait_done(req, 0);
    req_free(req);
    memset(rig->ram, 0, bytes);
    req = submit(rig, false, PAGE, rig->ram, bytes);
    wait_done(req, 0);
    req_free(req);
    check_mem(rig->ram, bytes, 0x33);
    g_assert_cmpuint(asked, ==, 0);
    rig_end(rig);
}

/* More than the device has tags: the kernel refuses what would wait. */
static void test_many(gconstpointer aio)
{
    Rig *rig = rig_new(aio, BUDGET);
    Req *req[300];
    unsigned int lent;

    if (!rig) {
        return;
    }
    fill_disk(rig, 0, ARRAY_SIZE(req) * PAGE, 0x22);
    hold_fs_hold(rig->fs, true);
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        req[i] = submit(rig, false, i * PAGE, rig->ram + i * PAGE, PAGE);
    }
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        cancel(req[i]);
        req_free(req[i]);
    }
    lent = written / PAGE;
    g_test_message("%u of %zu were lent", lent, ARRAY_SIZE(req));
    g_assert_cmpuint(lent, >, 0);
    g_assert_cmpuint(lent, <, ARRAY_SIZE(req));
    memset(rig->ram, 0x5a, ARRAY_SIZE(req) * PAGE);
    hold_fs_hold(rig->fs, false);
    blk_drain(rig->blk);
    check_mem(rig->ram, ARRAY_SIZE(req) * PAGE, 0x5a);
    rig_end(rig);
}

/* It is on its way to the kernel only: it stays, this once. */
static void test_queued(gconstpointer aio)
{
    Rig *rig = rig_new(aio, BUDGET);
    Req *req;

    if (!rig) {
        return;
    }
    hold_fs_hold(rig->fs, true);
    defer_call_begin();
    req = submit(rig, false, 0, rig->ram, PAGE);
    blk_aio_cancel_async(req->acb);
    g_assert_false(req->done);
    g_assert_cmpuint(asked, ==, 0);
    defer_call_end();
    cancel(req);
    req_free(req);
    g_assert_cmpuint(asked, ==, 1);
    rig_end(rig);
}

/* Its owner forbids it: the request stays, and ends as if nobody had asked. */
static void test_forbidden(gconstpointer aio)
{
    Rig *rig = rig_new(aio, BUDGET);
    Req *req;

    if (!rig) {
        return;
    }
    fill_disk(rig, 0, PAGE, 0x22);
    forbidden = true;
    hold_fs_hold(rig->fs, true);
    req = submit(rig, false, 0, rig->ram, PAGE);
    main_loop_wait_for((blk_aio_cancel_async(req->acb), asked));
    g_assert_false(req->done);
    hold_fs_hold(rig->fs, false);
    wait_done(req, 0);
    req_free(req);
    check_mem(rig->ram, PAGE, 0x22);
    rig_end(rig);
}

/* The host refuses to go on in the middle: the same. */
static void test_half(gconstpointer aio)
{
    Rig *rig = rig_new(aio, BUDGET);
    Req *req;

    if (!rig) {
        return;
    }
    /* Sanitizers have an mlock() of their own, which does nothing */
    if (mlock2(rig->ram + 2 * PAGE, PAGE, 0) < 0) {
        rig_skip(rig, "no memory may be locked");
        return;
    }
    fill_disk(rig, 0, 2 * PAGE, 0x22);
    hold_fs_hold(rig->fs, true);
    req = req_new(rig, false, 0);
    qemu_iovec_add(&req->qiov, rig->ram, PAGE);
    qemu_iovec_add(&req->qiov, rig->ram + 2 * PAGE, PAGE);
    req_submit(req);
    main_loop_wait_for((blk_aio_cancel_async(req->acb), asked));
    blk_aio_cancel_async(req->acb);
    g_assert_false(req->done);
    hold_fs_hold(rig->fs, false);
    wait_done(req, 0);
    req_free(req);
    check_mem(rig->ram, PAGE, 0x22);
    check_mem(rig->ram + 2 * PAGE, PAGE, 0x22);
    rig_end(rig);
}

/* Two reads to one page: what the other brings is not lost. */
static void test_same_page(gconstpointer aio)
{
    Rig *rig = rig_new(aio, BUDGET);
    Req *req[3];

    if (!rig) {
        return;
    }
    fill_disk(rig, 0, PAGE, 0x22);
    fill_disk(rig, PAGE, 2 * PAGE, 0x33);
    memset(rig->ram, 0x11, 2 * PAGE);
    hold_fs_hold(rig->fs, true);
    req[0] = submit(rig, false, 0, rig->ram, PAGE);
    req[1] = submit(rig, false, PAGE, rig->ram, 2 * PAGE);
    req[2] = submit(rig, false, PAGE, rig->ram, 2 * PAGE);
    cancel(req[0]);
    cancel(req[2]);
    g_assert_cmpuint(asked, >=, 2);
    g_assert_false(req[1]->done);
    hold_fs_hold(rig->fs, false);
    wait_done(req[1], 0);
    check_mem(rig->ram, 2 * PAGE, 0x33);
    for (int i = 0; i < ARRAY_SIZE(req); i++) {
        req_free(req[i]);
    }
    rig_end(rig);
}

/*
 * Another disk, in a thread of its own, reads to a page of a write that is
 * taken back: what it brings is not lost.
 */
typedef struct OtherCase {
    const char *aio;            /* of the disk with the write */
    const char *other_aio;
    bool lent;                  /* cancelling is on for the other as well */
} OtherCase;

typedef struct OtherDisk {
    BlockBackend *blk;          /* set once */
    IOThread *iothread;         /* set once */
    QEMUIOVector qiov;          /* set once */
    bool done;                  /* atomic */
    int ret;                    /* valid when done */
} OtherDisk;

static void other_done(void *opaque, int ret)
{
    OtherDisk *other = opaque;

    other->ret = ret;
    qatomic_store_release(&other->done, true);
    qemu_notify_event();
}

static void other_read(void *opaque)
{
    OtherDisk *other = opaque;

    blk_aio_preadv(other->blk, 0, &other->qiov, 0, other_done, other);
}

static void other_open(OtherDisk *other, Rig *rig, const OtherCase *c)
{
    const BlkCancelOptions opts = {
        .budget = BUDGET, .damper = 1000, .region = 4 * MiB, .swap = &swap,
    };
    BlockDriverState *bs = open_disk(rig, c->other_aio, 0, &error_abort);

    other->blk = blk_new(qemu_get_aio_context(), BLK_PERM_CONSISTENT_READ,
                         BLK_PERM_ALL);
    blk_insert_bs(other->blk, bs, &error_abort);
    bdrv_unref(bs);
    if (c->lent) {
        blk_set_cancel(other->blk, &opts, &error_abort);
    }
    other->iothread = iothread_new();
    blk_set_aio_context(other->blk, iothread_get_aio_context(other->iothread),
                        &error_abort);
}

static void other_end(OtherDisk *other)
{
    blk_set_aio_context(other->blk, qemu_get_aio_context(), &error_abort);
    blk_set_cancel(other->blk, NULL, &error_abort);
    blk_unref(other->blk);
    iothread_join(other->iothread);
    g_assert_cmpint(other->ret, ==, 0);
}

/* Whether the device has a read: its memory is pinned. */
static bool device_reads(Rig *rig)
{
    g_autofree char *path = g_strdup_printf("/sys/block/%s/inflight",
                                            rig->loop + strlen("/dev/"));
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return g_ascii_strtoull(text, NULL, 10) > 0;
}

static void test_other_disk(gconstpointer opaque)
{
    const OtherCase *c = opaque;
    const size_t at = c->lent ? 0 : 512;
    const size_t bytes = c->lent ? PAGE : 1024;
    Rig *rig = rig_new(c->aio, BUDGET);
    OtherDisk other = {};
    Req *req;

    if (!rig) {
        return;
    }
    fill_disk(rig, 0, PAGE, 0x33);
    memset(rig->ram, 0x11, PAGE);
    qemu_iovec_init_buf(&other.qiov, rig->ram + at, bytes);
    other_open(&other, rig, c);
    hold_fs_hold(rig->fs, true);
    aio_bh_schedule_oneshot(blk_get_aio_context(other.blk), other_read, &other);
    main_loop_wait_for(device_reads(rig));
    req = submit(rig, true, PAGE, rig->ram, PAGE);
    cancel(req);
    req_free(req);
    g_assert_cmpuint(asked, >, 0);
    g_assert_false(qatomic_read(&other.done));

    hold_fs_hold(rig->fs, false);
    main_loop_wait_for(qatomic_load_acquire(&other.done));
    other_end(&other);
    check_mem(rig->ram, at, 0x11);
    check_mem(rig->ram + at, bytes, 0x33);
    check_mem(rig->ram + at + bytes, PAGE - at - bytes, 0x11);
    rig_end(rig);
}

/* What is not lent goes through a buffer, and can be taken back. */
static void check_buffered(Rig *rig, bool is_write, int64_t offset,
                           uint8_t *mem, size_t bytes)
{
    Req *req;

    hold_fs_hold(rig->fs, true);
    req = submit(rig, is_write, offset, mem, bytes);
    cancel(req);
    req_free(req);
    g_assert_cmpuint(asked, ==, 0);
    hold_fs_hold(rig->fs, false);
    blk_drain(rig->blk);
}

static void test_buffered(gconstpointer aio)
{
    Rig *rig = rig_new(aio, BUDGET);

    if (!rig) {
        return;
    }
    check_buffered(rig, false, 0, rig->ram + 512, PAGE);
    check_buffered(rig, false, 0, rig->ram, 512);
    check_buffered(rig, false, 0, rig->ram, 257 * PAGE);
    blk_set_enable_write_cache(rig->blk, false);
    check_buffered(rig, true, 0, rig->ram, PAGE);
    rig_end(rig);
}

static void test_threads(void)
{
    Rig *rig = rig_new("threads", BUDGET);

    if (rig) {
        check_buffered(rig, false, 0, rig->ram, PAGE);
        rig_end(rig);
    }
}

/* Old pages and new ones are as much as a buffer. */
static void test_budget(gconstpointer aio)
{
    const size_t bytes = 16 * PAGE;
    Rig *rig = rig_new(aio, bytes);
    BlkCancelInfo info;
    Req *req[2];

    if (!rig) {
        return;
    }
    hold_fs_hold(rig->fs, true);
    for (int i = 0; i < 2; i++) {
        req[i] = submit(rig, false, i * MiB, rig->ram + i * bytes, bytes);
    }
    cancel(req[0]);
    blk_cancel_query(rig->blk, &info);
    g_assert_cmpuint(info.budget_used, ==, bytes);
    g_assert_cmpuint(info.waiting_budget, ==, 1);
    hold_fs_hold(rig->fs, false);
    wait_done(req[1], 0);
    req_free(req[0]);
    req_free(req[1]);
    rig_end(rig);
}

/*
 * Random requests, cancels and late ends, while threads that play virtual CPUs
 * count in the pages that are written.
 *
 * The memory's first half is for reads, of blocks that nobody writes, the
 * second for writes.
 */

#define HALF            (DISK_SIZE / PAGE / 2)
#define MAX_PAGES       8
#define FIRST_BLOCKS    256     /* so few that requests meet */
#define MAX_REQS        32
#define NR_VCPUS        2
#define POISON          (1ULL << 63)    /* written after it was given back */

typedef struct Page {
    uint64_t marker;            /* the main loop's */
    uint64_t count[NR_VCPUS];   /* each virtual CPU's own */
} Page;

typedef struct Random Random;

typedef struct Vcpu {
    Random *m;
    unsigned int index;
    QemuThread thread;
} Vcpu;

struct Random {
    Rig *rig;
    bool stop;                  /* atomic */
    Vcpu vcpu[NR_VCPUS];

    /* Owned by the main loop */
    uint64_t next_marker;
    unsigned int nr_canceled;
    bool held;
    struct {
        Req *req;
        bool is_write;
        unsigned int page, block, n;
    } slot[MAX_REQS];
    bool page_busy[2 * HALF];
    bool block_busy[2 * HALF];
    uint64_t stamp[2 * HALF];   /* of each page, or 0: not known */
    uint64_t certain[2 * HALF]; /* of each block */
    GArray *maybe[2 * HALF];    /* of each block: of writes taken back */
};

static Page *page_of(Random *m, unsigned int i)
{
    return (Page *)(m->rig->ram + i * PAGE);
}

static void *vcpu_run(void *opaque)
{
    Vcpu *v = opaque;
    g_autofree uint64_t *count = g_new0(uint64_t, 2 * HALF);

    while (!qatomic_read(&v->m->stop)) {
        for (unsigned int i = HALF; i < 2 * HALF; i++) {
            uint64_t *p = &page_of(v->m, i)->count[v->index];

            g_assert_cmpuint(qatomic_read(p), ==, count[i]);
            qatomic_set(p, ++count[i]);
        }
    }
    return NULL;
}

static bool any_busy(const bool *busy, unsigned int first, unsigned int n)
{
    return memchr(busy + first, true, n);
}

static void check_stamps(Random *m, unsigned int first, unsigned int n)
{
    for (unsigned int i = first; i < first + n; i++) {
        if (m->stamp[i]) {
            g_assert_cmphex(qatomic_read(&page_of(m, i)->marker), ==,
                            m->stamp[i]);
        }
    }
}

static void random_submit(Random *m, int s)
{
    bool is_write = g_test_rand_int_range(0, 2);
    unsigned int base = is_write ? HALF : 0;
    unsigned int n = g_test_rand_int_range(1, MAX_PAGES + 1);
    unsigned int page = base + g_test_rand_int_range(0, HALF - n);
    unsigned int block = base + g_test_rand_int_range(0, FIRST_BLOCKS);
    Req *req;

    if (any_busy(m->page_busy, page, n) ||
        (is_write && any_busy(m->block_busy, block, n))) {
        return;
    }
    check_stamps(m, page, n);
    memset(m->page_busy + page, true, n);
    memset(m->block_busy + block, true, n);
    for (unsigned int i = 0; i < n; i++) {
        m->stamp[page + i] = is_write ? ++m->next_marker : 0;
        if (is_write) {
            qatomic_set(&page_of(m, page + i)->marker, m->stamp[page + i]);
        }
    }
    req = req_new(m->rig, is_write, (int64_t)block * PAGE);
    for (unsigned int i = 0; i < n; ) {
        unsigned int some = g_test_rand_int_range(1, n - i + 1);

        qemu_iovec_add(&req->qiov, page_of(m, page + i), some * PAGE);
        i += some;
    }
    m->slot[s].req = req;
    m->slot[s].is_write = is_write;
    m->slot[s].page = page;
    m->slot[s].block = block;
    m->slot[s].n = n;
    req_submit(req);
}

static void end_write(Random *m, int s)
{
    for (unsigned int i = 0; i < m->slot[s].n; i++) {
        unsigned int page = m->slot[s].page + i;
        unsigned int block = m->slot[s].block + i;
        uint64_t marker = m->stamp[page];

        g_assert_cmphex(qatomic_read(&page_of(m, page)->marker), ==, marker);
        if (!m->slot[s].req->canceled) {
            m->certain[block] = marker;
            g_array_set_size(m->maybe[block], 0);
        } else {
            g_array_append_val(m->maybe[block], marker);
        }
        m->stamp[page] = marker | POISON;
        qatomic_set(&page_of(m, page)->marker, m->stamp[page]);
        m->block_busy[block] = false;
    }
}

static void end_read(Random *m, int s)
{
    for (unsigned int i = 0; i < m->slot[s].n; i++) {
        unsigned int page = m->slot[s].page + i;

        if (!m->slot[s].req->canceled) {
            g_assert_cmphex(page_of(m, page)->marker, ==,
                            m->certain[m->slot[s].block + i]);
        }
        m->stamp[page] = ++m->next_marker | POISON;
        page_of(m, page)->marker = m->stamp[page];
        m->block_busy[m->slot[s].block + i] = false;
    }
}

static void random_reap(Random *m)
{
    for (int s = 0; s < MAX_REQS; s++) {
        Req *req = m->slot[s].req;

        if (!req || !req->done) {
            continue;
        }
        g_assert_cmpint(req->ret, ==, req->canceled ? -ECANCELED : 0);
        m->nr_canceled += req->canceled;
        if (m->slot[s].is_write) {
            end_write(m, s);
        } else {
            end_read(m, s);
        }
        memset(m->page_busy + m->slot[s].page, false, m->slot[s].n);
        m->slot[s].req = NULL;
        req_free(req);
    }
}

static void random_step(Random *m)
{
    int s = g_test_rand_int_range(0, MAX_REQS);

    if (!m->slot[s].req) {
        random_submit(m, s);
    } else if (!m->slot[s].req->done && m->held) {
        blk_aio_cancel_async(m->slot[s].req->acb);
    }
    if (!g_test_rand_int_range(0, 100)) {
        m->held = !m->held;
        hold_fs_hold(m->rig->fs, m->held);
    }
    random_reap(m);
    main_loop_wait(true);
}

static void random_begin(Random *m)
{
    for (unsigned int i = 0; i < 2 * HALF; i++) {
        g_autofree Page *page = g_malloc0(PAGE);

        m->certain[i] = page->marker = ++m->next_marker;
        m->maybe[i] = g_array_new(false, false, sizeof(uint64_t));
        if (i % HALF >= FIRST_BLOCKS + MAX_PAGES) {
            continue;
        }
        g_assert_cmpint(blk_pwrite(m->rig->blk, (int64_t)i * PAGE, PAGE, page,
                                   0), ==, 0);
    }
    for (int i = 0; i < NR_VCPUS; i++) {
        m->vcpu[i] = (Vcpu) { .m = m, .index = i };
        qemu_thread_create(&m->vcpu[i].thread, "vcpu", vcpu_run, &m->vcpu[i],
                           QEMU_THREAD_JOINABLE);
    }
}

/* What is in a block: of its last write, or of one taken back since. */
static void check_block(Random *m, unsigned int block)
{
    g_autofree Page *page = g_malloc0(PAGE);
    bool found;

    g_assert_cmpint(blk_pread(m->rig->blk, (int64_t)block * PAGE, PAGE, page,
                              0), ==, 0);
    found = page->marker == m->certain[block];
    for (unsigned int i = 0; i < m->maybe[block]->len && !found; i++) {
        found = page->marker == g_array_index(m->maybe[block], uint64_t, i);
    }
    g_assert_true(found);
}

static void random_end(Random *m)
{
    hold_fs_hold(m->rig->fs, false);
    blk_drain(m->rig->blk);
    random_reap(m);
    qatomic_set(&m->stop, true);
    for (int i = 0; i < NR_VCPUS; i++) {
        qemu_thread_join(&m->vcpu[i].thread);
    }
    check_stamps(m, 0, 2 * HALF);
    for (unsigned int i = 0; i < 2 * HALF; i++) {
        if (i % HALF < FIRST_BLOCKS + MAX_PAGES) {
            check_block(m, i);
        }
        g_array_free(m->maybe[i], true);
    }
}

static void test_random(gconstpointer aio)
{
    const char *env = g_getenv("SWAP_STEPS");
    unsigned int steps = env ? atoi(env) : 5000;
    g_autofree Random *m = g_new0(Random, 1);

    m->rig = rig_new(aio, BUDGET);
    if (!m->rig) {
        return;
    }
    random_begin(m);
    for (unsigned int i = 0; i < steps; i++) {
        random_step(m);
    }
    random_end(m);
    g_test_message("%u requests taken back, of %u that were lent",
                   m->nr_canceled, asked);
    g_assert_cmpuint(asked, >, 0);
    rig_end(m->rig);
}

static void add(const char *name, const char *aio, GTestDataFunc fn)
{
    g_autofree char *path = g_strdup_printf("/blk-cancel-swap/%s/%s", name,
                                            aio);

    g_test_add_data_func(path, aio, fn);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "native", "io_uring" };
    static const OtherCase other[] = {
        { "native", "native", true },
        { "native", "threads", false },
        { "native", "io_uring", false },
        { "io_uring", "io_uring", true },
        { "io_uring", "native", false },
    };
    Error *err = NULL;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    if (qemu_real_host_page_size() != PAGE) {
        no_swap = g_strdup("for pages of 4 KiB");
    } else if (!page_swap_init(NULL, &err)) {
        no_swap = g_strdup(error_get_pretty(err)); /* as long as the process */
        error_free(err);
    }
    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        add("read", modes[i], test_read);
        add("write", modes[i], test_write);
        add("plain", modes[i], test_plain);
        add("many", modes[i], test_many);
        add("queued", modes[i], test_queued);
        add("forbidden", modes[i], test_forbidden);
        add("half", modes[i], test_half);
        add("same-page", modes[i], test_same_page);
        add("buffered", modes[i], test_buffered);
        add("budget", modes[i], test_budget);
        add("random", modes[i], test_random);
    }
    for (int i = 0; i < ARRAY_SIZE(other); i++) {
        const OtherCase *c = &other[i];
        g_autofree char *path = g_strdup_printf(
            "/blk-cancel-swap/other-disk/%s/%s-%s", c->aio,
            c->lent ? "lent" : "plain", c->other_aio);

        g_test_add_data_func(path, c, test_other_disk);
    }
    g_test_add_func("/blk-cancel-swap/buffered/threads", test_threads);
    return g_test_run();
}
