/*
 * Host files below a BlockBackend with cancelling on: who makes the system call
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The thread pool has a single thread here, and that one is stuck.  What is
 * done nevertheless was not done by the pool; what the pool is to do has to
 * wait.  What is submitted otherwise is seen on its way: this file has
 * functions of libaio's and liburing's in place of theirs, which can refuse it
 * as a kernel would.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/syscall.h>
#ifdef CONFIG_LINUX
#include <linux/loop.h>
#endif
#ifdef CONFIG_LINUX_AIO
#include <libaio.h>
#endif
#ifdef CONFIG_LINUX_IO_URING
#include <liburing.h>
#endif
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

/* Ways to the kernel that were seen; the thread pool is not among them */
enum {
    BY_AIO = 1 << 0,
    BY_AIO_NOWAIT = 1 << 1,
    BY_RING = 1 << 2,
    BY_RING_ASYNC = 1 << 3,
};

/* All of these are owned by the main loop. */
static unsigned int ways;       /* that were taken */
static unsigned int refused;    /* ways that the kernel does not go */
static unsigned int submitted;  /* requests, whichever way */
static bool no_ring;            /* as if the kernel had no io_uring */
static bool have_ring;          /* whether it has; set once */

static unsigned int syncs;      /* of whole files; atomic */

/* In place of the C library's */
int fdatasync(int fd)
{
    qatomic_inc(&syncs);
    return syscall(SYS_fdatasync, fd);
}

#ifdef CONFIG_LINUX_AIO
/* In place of libaio's */
int io_submit(io_context_t ctx, long nr, struct iocb *iocbs[])
{
    long ret;

    for (int i = 0; i < nr; i++) {
        unsigned int way = iocbs[i]->aio_rw_flags & RWF_NOWAIT ? BY_AIO_NOWAIT
                                                               : BY_AIO;
        ways |= way;
        submitted++;
        if (iocbs[i]->aio_lio_opcode == IO_CMD_FDSYNC) {
            qatomic_inc(&syncs);
        }
        if (refused & way) {
            return i ?: -EOPNOTSUPP;
        }
    }
    ret = syscall(SYS_io_submit, ctx, nr, iocbs);
    return ret < 0 ? -errno : ret;
}
#endif

#ifdef CONFIG_LINUX_IO_URING
/* A pipe that is full and one that is empty, and neither waits */
static int full_fd, empty_fd;   /* set once */

static void make_pipes(void)
{
    uint8_t byte = 0;
    int full[2], empty[2];

    g_assert_cmpint(pipe2(full, O_CLOEXEC | O_NONBLOCK), ==, 0);
    g_assert_cmpint(pipe2(empty, O_CLOEXEC | O_NONBLOCK), ==, 0);
    full_fd = full[1];
    empty_fd = empty[0];
    while (write(full_fd, &byte, 1) == 1) {
        /* fill it */
    }
}

static bool has_ring(void)
{
    struct io_uring ring;
    bool has = io_uring_queue_init(1, &ring, 0) == 0;

    if (has) {
        io_uring_queue_exit(&ring);
    }
    return has;
}

static void see_sqe(struct io_uring_sqe *sqe)
{
    unsigned int way = sqe->flags & IOSQE_ASYNC ? BY_RING_ASYNC : BY_RING;

    switch (sqe->opcode) {
    case IORING_OP_READ:
    case IORING_OP_READV:
    case IORING_OP_WRITE:
    case IORING_OP_WRITEV:
    case IORING_OP_FSYNC:
        break;
    default:
        return; /* the event loop's own */
    }
    ways |= way;
    submitted++;
    if (refused & way) {
        sqe->fd = sqe->opcode == IORING_OP_READ ||
                  sqe->opcode == IORING_OP_READV ? empty_fd : full_fd;
        sqe->off = -1;
        sqe->rw_flags = RWF_NOWAIT;
    }
}

/* In place of liburing's: the kernel answers -EAGAIN to what is refused. */
int io_uring_submit(struct io_uring *ring)
{
    for (unsigned int i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++) {
        see_sqe(&ring->sq.sqes[i & *ring->sq.kring_mask]);
    }
    return io_uring_submit_and_wait(ring, 0);
}

/* The same, for a kernel that has no io_uring or a policy against it. */
int io_uring_queue_init(unsigned int entries, struct io_uring *ring,
                        unsigned int flags)
{
    struct io_uring_params params = { .flags = flags };

    return no_ring ? -EPERM
                   : io_uring_queue_init_params(entries, ring, &params);
}
#endif

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
    bool device;            /* a loop device, not a file */
    bool cancel;
    unsigned int refused;
    unsigned int ways;      /* that must be taken */
    bool by_pool;           /* in the end */
} FileTest;

/* Everything is owned by the main loop, but for @stuck. */
typedef struct FileRig {
    const FileTest *test;
    char *filename;
    char *loop;         /* name of the loop device on that file, or NULL */
    int loop_fd;
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

#ifdef CONFIG_LINUX
/* Returns: whether the host lets us have one, on our file. */
static bool make_loop(FileRig *rig, int fd)
{
    const struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int n = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    bool ok = false;

    if (n >= 0) {
        rig->loop = g_strdup_printf("/dev/loop%d", n);
        rig->loop_fd = open(rig->loop, O_RDWR | O_CLOEXEC);
        ok = rig->loop_fd >= 0 && ioctl(rig->loop_fd, LOOP_SET_FD, fd) == 0 &&
             ioctl(rig->loop_fd, LOOP_SET_STATUS64, &info) == 0;
    }
    if (control >= 0) {
        close(control);
    }
    return ok;
}

#else
static bool make_loop(FileRig *rig, int fd)
{
    return false;
}
#endif

static bool skip_file(FileRig *rig, const char *why)
{
    g_test_skip(why);
    unlink(rig->filename);
    g_free(rig->filename);
    return false;
}

/* Returns false, with the test marked as skipped, if the host cannot do it. */
static bool open_file(FileRig *rig)
{
    QDict *options = qdict_new();
    Error *err = NULL;
    bool ok = true;
    int fd;

    fd = g_file_open_tmp("test-blk-cancel-file-XXXXXX", &rig->filename, NULL);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, SIZE), ==, 0);
    if (rig->test->device) {
        ok = make_loop(rig, fd);
    }
    close(fd);
    if (!ok) {
        qobject_unref(options);
        return skip_file(rig, "no loop device to be had");
    }

    qdict_put_str(options, "driver",
                  rig->test->device ? "host_device" : "file");
    qdict_put_str(options, "aio", rig->test->aio);
    qdict_put_str(options, "cache.direct", "on");
    rig->bs = bdrv_open(rig->loop ?: rig->filename, NULL, options, BDRV_O_RDWR,
                        &err);
    if (!rig->bs) {
        ok = skip_file(rig, error_get_pretty(err));
        error_free(err);
    }
    return ok;
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
    ways = submitted = 0;
    refused = rig->test->refused;
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
    g_assert_cmphex(ways, ==, rig->test->ways);
    /* Never the same way again */
    g_assert_cmpuint(submitted, ==, ctpop32(rig->test->ways));
    refused = 0;
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
    if (rig->loop) {
        close(rig->loop_fd);
        g_free(rig->loop);
    }
    unlink(rig->filename);
    g_free(rig->filename);
}

static void test_file(gconstpointer opaque)
{
    FileRig rig = { .test = opaque };

    if (!have_ring && (rig.test->ways & (BY_RING | BY_RING_ASYNC))) {
        g_test_skip("no io_uring to be had");
    } else if (begin(&rig)) {
        check_who(&rig);
        end(&rig);
    }
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

/* The way of a request, by class of file and mode, if nothing refuses it */
static unsigned int expected_ways(const FileTest *test)
{
    if (test->op == OP_ZEROES || test->op == OP_BLOCK_STATUS ||
        g_str_equal(test->aio, "threads")) {
        return 0;
    }
    if (test->op == OP_FLUSH || !test->cancel) {
        return g_str_equal(test->aio, "native") ? BY_AIO : BY_RING;
    }
    if (!test->device) {
        return BY_RING_ASYNC;
    }
    return g_str_equal(test->aio, "native") ? BY_AIO_NOWAIT : BY_RING;
}

static void add_test(const char *aio, FileOp op, bool device, bool cancel)
{
    FileTest *test = g_new0(FileTest, 1); /* as long as the process */
    g_autofree char *name = NULL;

    *test = (FileTest) {
        .aio = aio, .op = op, .device = device, .cancel = cancel,
    };
    test->ways = expected_ways(test);
    test->by_pool = !test->ways && (op != OP_BLOCK_STATUS || cancel);
    name = g_strdup_printf("/blk-cancel-file/%s/%s/%s/%s", aio,
                           device ? "device" : "file", op_names[op],
                           cancel ? "cancel" : "stock");
    g_test_add_data_func(name, test, test_file);
}

/* What one refuses the next must do, and nobody asks it twice. */
static const struct {
    const char *name;
    FileTest test;
} refusals[] = {
    { "native/file/workers", {
        .aio = "native",
        .refused = BY_RING_ASYNC,
        .ways = BY_RING_ASYNC,
        .by_pool = true,
    } },
    { "io_uring/file/workers", {
        .aio = "io_uring",
        .refused = BY_RING_ASYNC,
        .ways = BY_RING_ASYNC,
        .by_pool = true,
    } },
    { "native/device/inline", {
        .aio = "native",
        .device = true,
        .refused = BY_AIO_NOWAIT,
        .ways = BY_AIO_NOWAIT | BY_RING_ASYNC,
    } },
    { "native/device/all", {
        .aio = "native",
        .device = true,
        .refused = BY_AIO_NOWAIT | BY_RING_ASYNC,
        .ways = BY_AIO_NOWAIT | BY_RING_ASYNC,
        .by_pool = true,
    } },
    { "io_uring/device/inline", {
        .aio = "io_uring",
        .device = true,
        .refused = BY_RING,
        .ways = BY_RING,
        .by_pool = true,
    } },
};

static void add_refusal(const char *name, const FileTest *model, FileOp op)
{
    FileTest *test = g_memdup2(model, sizeof(*model));
    g_autofree char *path = g_strdup_printf("/blk-cancel-file/refused/%s/%s",
                                            name, op_names[op]);

    test->op = op;
    test->cancel = true;
    g_test_add_data_func(path, test, test_file);
}

/* A host without io_uring; a process that has seen one does not forget it. */
static void test_no_ring(gconstpointer opaque)
{
    const FileTest *test = opaque;

    if (g_test_subprocess()) {
        test_file(test);
        if (test->op == OP_WRITE && test->by_pool) {
            test_fua(test);
        }
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

static void add_no_ring(const char *aio, FileOp op, bool device)
{
    FileTest *test = g_new0(FileTest, 1);
    g_autofree char *name = NULL;

    *test = (FileTest) {
        .aio = aio, .op = op, .device = device, .cancel = true,
    };
    if (g_str_equal(aio, "native")) {
        test->ways = expected_ways(test) & (BY_AIO | BY_AIO_NOWAIT);
    }
    test->by_pool = !test->ways;
    name = g_strdup_printf("/blk-cancel-file/no-ring/%s/%s/%s", aio,
                           device ? "device" : "file", op_names[op]);
    g_test_add_data_func(name, test, test_no_ring);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "threads", "native", "io_uring" };
    static const FileTest fua_test = { "threads", OP_WRITE, .cancel = true };

    g_test_init(&argc, &argv, NULL);
    no_ring = g_test_subprocess(); /* see test_no_ring() */
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    aio_context_set_thread_pool_params(qemu_get_aio_context(), 0, 1,
                                       &error_abort);
#ifdef CONFIG_LINUX_IO_URING
    make_pipes();
    have_ring = has_ring();
#endif

    for (int i = 0; i < ARRAY_SIZE(modes) * OP__MAX * 4; i++) {
        FileOp op = i / 4 % OP__MAX;
        bool device = i & 2;

        /* A device is all data. */
        if (op != OP_BLOCK_STATUS || !device) {
            add_test(modes[i / 4 / OP__MAX], op, device, i & 1);
        }
    }
    /* The others have no system call of their own for it */
    g_test_add_data_func("/blk-cancel-file/threads/fua", &fua_test, test_fua);

    for (int i = 0; i < ARRAY_SIZE(refusals); i++) {
        add_refusal(refusals[i].name, &refusals[i].test, OP_READ);
        add_refusal(refusals[i].name, &refusals[i].test, OP_WRITE);
    }
    for (int i = 1; i < ARRAY_SIZE(modes); i++) {
#if QEMU_VERSION_MAJOR > 10 || QEMU_VERSION_MINOR >= 2
        if (g_str_equal(modes[i], "io_uring")) {
            continue; /* without it, such a file is not opened there */
        }
#endif
        for (FileOp op = OP_READ; op <= OP_FLUSH; op++) {
            add_no_ring(modes[i], op, false);
            add_no_ring(modes[i], op, true);
        }
    }
    return g_test_run();
}
