/*
 * Host files below a BlockBackend with cancelling on: who makes the system call
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The thread pool has a single thread here, and that one is stuck.  What is
 * done nevertheless was not done by the pool; what the pool is to do has to
 * wait.
 */

#include "qemu/osdep.h"
#include <sys/syscall.h>
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "block/blk-cancel.h"
#include "block/block_int.h"
#include "block/thread-pool.h"
#include "block/thread-pool-overdue.h"
#include "system/block-backend.h"
#include "main-loop-wait.h"

#define SIZE        (64 * KiB)
/* More than a request takes that does not wait */
#define WHILE_MS    300

typedef enum FileOp {
    OP_READ,
    OP_WRITE,
    OP_FLUSH,
    OP_ZEROES,
    OP_BLOCK_STATUS,
    OP__MAX,
} FileOp;

static const char *const op_names[] = {
    "read", "write", "flush", "zeroes", "block-status",
};

typedef struct FileTest {
    const char *aio;
    FileOp op;
    bool cancel;
    bool by_pool;
} FileTest;

/* Everything is owned by the main loop, but for @stuck. */
typedef struct FileRig {
    const FileTest *test;
    char *filename;
    BlockDriverState *bs;
    BlockBackend *blk;
    uint8_t *buf;
    QemuSemaphore gate;
    bool stuck;     /* atomic */
    bool unstuck;
    bool done;
    int ret;
} FileRig;

static int hang(void *opaque)
{
    FileRig *rig = opaque;

    qatomic_set(&rig->stuck, true);
    qemu_sem_wait(&rig->gate);
    return 0;
}

static void hang_done(void *opaque, int ret)
{
    ((FileRig *)opaque)->unstuck = true;
}

static void set_flag(void *opaque)
{
    *(bool *)opaque = true;
}

static int coroutine_fn block_status(BlockDriverState *bs)
{
    BlockDriverState *file;
    int64_t pnum, map;
    int ret;

    GRAPH_RDLOCK_GUARD();
    ret = bdrv_co_block_status(bs, 0, SIZE, &pnum, &map, &file);
    return MIN(ret, 0);
}

static void coroutine_fn perform(void *opaque)
{
    FileRig *rig = opaque;

    switch (rig->test->op) {
    case OP_READ:
        rig->ret = blk_co_pread(rig->blk, 0, SIZE, rig->buf, 0);
        break;
    case OP_WRITE:
        rig->ret = blk_co_pwrite(rig->blk, 0, SIZE, rig->buf, 0);
        break;
    case OP_FLUSH:
        rig->ret = blk_co_flush(rig->blk);
        break;
    case OP_ZEROES:
        rig->ret = blk_co_pwrite_zeroes(rig->blk, 0, SIZE, 0);
        break;
    case OP_BLOCK_STATUS:
        rig->ret = block_status(rig->bs);
        break;
    default:
        g_assert_not_reached();
    }
    rig->done = true;
}

/* Returns false, with the test marked as skipped, if the host cannot do it. */
static bool open_file(FileRig *rig)
{
    QDict *options = qdict_new();
    Error *err = NULL;
    int fd;

    fd = g_file_open_tmp("test-blk-cancel-file-XXXXXX", &rig->filename, NULL);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, SIZE), ==, 0);
    close(fd);

    qdict_put_str(options, "driver", "file");
    qdict_put_str(options, "aio", rig->test->aio);
    qdict_put_str(options, "cache.direct", "on");
    rig->bs = bdrv_open(rig->filename, NULL, options, BDRV_O_RDWR, &err);
    if (!rig->bs) {
        g_test_skip(error_get_pretty(err));
        error_free(err);
        unlink(rig->filename);
        g_free(rig->filename);
        return false;
    }
    return true;
}

static void start_co(FileRig *rig)
{
    rig->done = false;
    qemu_coroutine_enter(qemu_coroutine_create(perform, rig));
}

static void check_who(FileRig *rig)
{
    bool over = false;
    QEMUTimer *timer = timer_new_ms(QEMU_CLOCK_REALTIME, set_flag, &over);

    thread_pool_submit_aio(hang, rig, hang_done, rig);
    main_loop_wait_for(qatomic_read(&rig->stuck));
    start_co(rig);
    if (rig->test->by_pool) {
        timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + WHILE_MS);
        main_loop_wait_for(over);
        g_assert_false(rig->done);
    } else {
        main_loop_wait_for(rig->done);
    }
    qemu_sem_post(&rig->gate);
    main_loop_wait_for(rig->unstuck && rig->done);
    g_assert_cmpint(rig->ret, >=, 0);
    timer_free(timer);
}

/* Returns: as open_file() */
static bool begin(FileRig *rig)
{
    const BlkCancelOptions cancel_options = {
        .budget = 1 * MiB,
        .damper = 100, .region = 4096,
    };

    if (!open_file(rig)) {
        return false;
    }
    qemu_sem_init(&rig->gate, 0);
    rig->buf = qemu_memalign(4096, SIZE);
    memset(rig->buf, 0x5a, SIZE);
    rig->blk = blk_new(qemu_get_aio_context(),
                       BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);
    blk_insert_bs(rig->blk, rig->bs, &error_abort);
    /* Something to flush, and to find */
    g_assert_cmpint(blk_pwrite(rig->blk, 0, SIZE, rig->buf, 0), ==, 0);

    if (rig->test->cancel) {
        blk_set_cancel(rig->blk, &cancel_options, &error_abort);
        /* The pool is not to make up for its only thread. */
        thread_pool_overdue_enable(false);
    }
    return true;
}

static void end(FileRig *rig)
{
    if (rig->test->cancel) {
        thread_pool_overdue_enable(true);
        blk_set_cancel(rig->blk, NULL, &error_abort);
    }
    blk_unref(rig->blk);
    bdrv_unref(rig->bs);
    qemu_vfree(rig->buf);
    qemu_sem_destroy(&rig->gate);
    unlink(rig->filename);
    g_free(rig->filename);
}

static void test_file(gconstpointer opaque)
{
    FileRig rig = { .test = opaque };

    if (begin(&rig)) {
        check_who(&rig);
        end(&rig);
    }
}

/* In place of the C library's: QEMU calls this one. */
static unsigned int syncs;  /* atomic */

int fdatasync(int fd)
{
    qatomic_inc(&syncs);
    return syscall(SYS_fdatasync, fd);
}

/* A write with FUA is durable, also if nothing was written since a flush. */
static void test_fua(gconstpointer opaque)
{
    FileRig rig = { .test = opaque };

    if (!begin(&rig)) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        g_assert_cmpint(blk_flush(rig.blk), ==, 0);
        qatomic_set(&syncs, 0);
        g_assert_cmpint(blk_pwrite(rig.blk, 0, SIZE, rig.buf, BDRV_REQ_FUA),
                        ==, 0);
        g_assert_cmpuint(qatomic_read(&syncs), ==, 1);
    }
    end(&rig);
}

static bool is_by_pool(const char *aio, FileOp op, bool cancel)
{
    switch (op) {
    case OP_BLOCK_STATUS:
        return cancel;
    case OP_ZEROES:
        return true;
    default:
        return g_str_equal(aio, "threads") ||
               (g_str_equal(aio, "native") && cancel);
    }
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "threads", "native", "io_uring" };
    static FileTest tests[ARRAY_SIZE(modes) * OP__MAX * 2];
    static const FileTest fua_tests[] = {
        { "threads", OP_WRITE, .cancel = true },
        { "native", OP_WRITE, .cancel = true },
    };

    bdrv_init();
    qemu_init_main_loop(&error_abort);
    aio_context_set_thread_pool_params(qemu_get_aio_context(), 0, 1,
                                       &error_abort);
    g_test_init(&argc, &argv, NULL);

    for (int i = 0; i < ARRAY_SIZE(tests); i++) {
        FileTest *test = &tests[i];
        g_autofree char *name = NULL;

        test->aio = modes[i / 2 / OP__MAX];
        test->op = i / 2 % OP__MAX;
        test->cancel = i % 2;
        test->by_pool = is_by_pool(test->aio, test->op, test->cancel);
        name = g_strdup_printf("/blk-cancel-file/%s/%s/%s", test->aio,
                               op_names[test->op],
                               test->cancel ? "cancel" : "stock");
        g_test_add_data_func(name, test, test_file);
    }
    /* io_uring has no system call of its own for it */
    for (int i = 0; i < ARRAY_SIZE(fua_tests); i++) {
        g_autofree char *name = g_strdup_printf("/blk-cancel-file/%s/fua",
                                                fua_tests[i].aio);

        g_test_add_data_func(name, &fua_tests[i], test_fua);
    }
    return g_test_run();
}
