/*
 * What a request costs in the block layer, driven as a device drives it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Requests go out by blk_aio_*(), all that are free in one batch, as a device
 * takes them from its virtqueue after a kick; their data lies anywhere in the
 * guest's memory and on the disk.  qemu-img bench has a single buffer, which
 * stays in the CPU's cache and hides what a copy costs.
 *
 * For each newline on the standard input it runs for a while, and tells in one
 * line of JSON how many requests there were, and what time and CPU time they
 * took: that of all threads, io_uring's workers included.  So several of these,
 * with and without cancelling, can take turns.  It builds with QEMU as it is as
 * well, and then has no --cancel but off.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include "qemu/defer-call.h"
#include "qemu/error-report.h"
#include "qemu/keyval.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "block/block.h"
#include "block/qdict.h"
#include "system/block-backend.h"
#ifdef HAVE_BLK_CANCEL
#include "block/blk-cancel.h"
#endif

#define HUGE_PAGE   (2 * MiB)
#define WARM_UP     4096    /* requests, at most */

typedef enum Op {
    OP_READ,
    OP_WRITE,
    OP_DISCARD,
    OP__MAX,
} Op;

static const char *const op_names[] = { "read", "write", "discard" };

typedef struct Bench Bench;

typedef struct Request {
    Bench *b;
    QEMUIOVector qiov;
    QSLIST_ENTRY(Request) next;
} Request;

/* Everything is owned by the main thread. */
struct Bench {
    /* Set once */
    BlockBackend *blk;
    QEMUBH *kick_bh;
    Op op;
    uint64_t size;              /* bytes of a request */
    unsigned int depth;
    uint8_t *memory;            /* the guest's */
    uint64_t memory_size;
    uint64_t disk_places;       /* where a request can begin, in @size */
    uint64_t memory_places;
    Request *reqs;              /* @depth of them */

    uint64_t random;
    QSLIST_HEAD(, Request) idle;
    uint64_t to_submit;         /* requests that are to go out yet */
    unsigned int in_flight;
    uint64_t ended;
};

/* Any sequence will do, but it has to be the same in each run: xorshift64. */
static uint64_t bench_random(Bench *b, uint64_t below)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random % below;
}

static void bench_end(void *opaque, int ret)
{
    Request *req = opaque;
    Bench *b = req->b;

    if (ret < 0) {
        error_report("%s failed: %s", op_names[b->op], strerror(-ret));
        exit(EXIT_FAILURE);
    }
    b->in_flight--;
    b->ended++;
    QSLIST_INSERT_HEAD(&b->idle, req, next);
    if (b->to_submit) {
        qemu_bh_schedule(b->kick_bh);
    }
}

static void bench_submit(Bench *b, Request *req)
{
    int64_t offset = bench_random(b, b->disk_places) * b->size;
    uint8_t *data = b->memory + bench_random(b, b->memory_places) * b->size;

    qemu_iovec_init_buf(&req->qiov, data, b->size);
    b->to_submit--;
    b->in_flight++;
    switch (b->op) {
    case OP_READ:
        blk_aio_preadv(b->blk, offset, &req->qiov, 0, bench_end, req);
        break;
    case OP_WRITE:
        blk_aio_pwritev(b->blk, offset, &req->qiov, 0, bench_end, req);
        break;
    case OP_DISCARD:
        blk_aio_pdiscard(b->blk, offset, b->size, bench_end, req);
        break;
    default:
        g_assert_not_reached();
    }
}

/* The guest has made available what it could. */
static void bench_kick(void *opaque)
{
    Bench *b = opaque;

    defer_call_begin();
    while (b->to_submit && !QSLIST_EMPTY(&b->idle)) {
        Request *req = QSLIST_FIRST(&b->idle);

        QSLIST_REMOVE_HEAD(&b->idle, next);
        bench_submit(b, req);
    }
    defer_call_end();
}

/* Up to @requests, or as many as there is time for, and wait for them. */
static void bench_requests(Bench *b, uint64_t requests, int64_t ns)
{
    int64_t end_ns = get_clock() + ns;

    b->to_submit = requests;
    qemu_bh_schedule(b->kick_bh);
    do {
        aio_poll(qemu_get_aio_context(), true);
        if (ns && get_clock() >= end_ns) {
            b->to_submit = 0;
        }
    } while (b->to_submit || b->in_flight);
}

static bool parse_op(const char *name, Op *op)
{
    for (*op = 0; *op < OP__MAX; (*op)++) {
        if (!strcmp(name, op_names[*op])) {
            return true;
        }
    }
    return false;
}

static int64_t cpu_us(const struct rusage *usage)
{
    return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) *
           INT64_C(1000000) + usage->ru_utime.tv_usec + usage->ru_stime.tv_usec;
}

/* As bench_requests(), and tell what it took. */
static void bench_measure(Bench *b, uint64_t requests, int64_t ns)
{
    struct rusage before, after;
    uint64_t ended = b->ended;
    int64_t start_ns;

    getrusage(RUSAGE_SELF, &before);
    start_ns = get_clock();
    bench_requests(b, requests, ns);
    ns = get_clock() - start_ns;
    getrusage(RUSAGE_SELF, &after);
    printf("{\"requests\": %" PRIu64 ", \"ns\": %" PRId64 ", \"cpu_us\": %"
           PRId64 "}\n", b->ended - ended, ns,
           cpu_us(&after) - cpu_us(&before));
    fflush(stdout);
}

#ifdef HAVE_BLK_CANCEL
static bool bench_lends(void)
{
    return true;
}

/* Nothing is taken back here */
static const BlkCancelSwap bench_swap = { .is_possible = bench_lends };
#endif

static void bench_set_cancel(Bench *b, const char *how)
{
    if (!strcmp(how, "off")) {
        return;
    }
#ifdef HAVE_BLK_CANCEL
    if (!strcmp(how, "on") || !strcmp(how, "0") || !strcmp(how, "lent")) {
        BlkCancelOptions opts = BLK_CANCEL_OPTIONS(
            strcmp(how, "0") ? BLK_CANCEL_DEFAULT_BUDGET : 0);

        opts.swap = strcmp(how, "lent") ? NULL : &bench_swap;
        blk_set_cancel(b->blk, &opts, &error_fatal);
        return;
    }
#endif
    error_report("--cancel=%s: there is no such thing", how);
    exit(EXIT_FAILURE);
}

/* The guest's memory, with all its pages in place. */
static void bench_init_memory(Bench *b, uint64_t size, bool huge)
{
    size_t all = size + HUGE_PAGE;
    void *p = mmap(NULL, all, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        error_report("no memory: %s", strerror(errno));
        exit(EXIT_FAILURE);
    }
    b->memory = QEMU_ALIGN_PTR_UP(p, HUGE_PAGE);
    b->memory_size = size;
    if (madvise(b->memory, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0) {
        warn_report("the kernel has no transparent huge pages");
    }
    memset(b->memory, 0x5a, size);
}

static BlockBackend *bench_open(const char *options, Op op)
{
    int flags = (op == OP_READ ? 0 : BDRV_O_RDWR) | BDRV_O_UNMAP;
    QDict *dict = keyval_parse(options, NULL, NULL, &error_fatal);

    qdict_flatten(dict);
    return blk_new_open(NULL, NULL, dict, flags, &error_fatal);
}

static void bench_init(Bench *b, const char *options)
{
    int64_t length;

    b->blk = bench_open(options, b->op);
    length = blk_getlength(b->blk);
    if (length < 0) {
        error_report("no length: %s", strerror(-length));
        exit(EXIT_FAILURE);
    }
    b->disk_places = length / b->size;
    b->memory_places = b->memory_size / b->size;
    if (!b->disk_places || !b->memory_places) {
        error_report("a request is larger than the disk or the memory");
        exit(EXIT_FAILURE);
    }
    b->random = UINT64_C(88172645463325252);
    b->kick_bh = qemu_bh_new(bench_kick, b);
    b->reqs = g_new0(Request, b->depth);
    for (unsigned int i = 0; i < b->depth; i++) {
        b->reqs[i].b = b;
        QSLIST_INSERT_HEAD(&b->idle, &b->reqs[i], next);
    }
}

static void bench_cleanup(Bench *b)
{
    blk_unref(b->blk);
    qemu_bh_delete(b->kick_bh);
    g_free(b->reqs);
}

int main(int argc, char **argv)
{
    g_autofree char *op = NULL;
    g_autofree char *cancel = NULL;
    int depth = 32, size_kib = 4, memory_mib = 256, requests = 0, ms = 50;
    int64_t ns;
    gboolean huge = false;
    const GOptionEntry entries[] = {
        { "op", 0, 0, G_OPTION_ARG_STRING, &op,
          "What is done: read (default), write, discard", "OP" },
        { "size", 0, 0, G_OPTION_ARG_INT, &size_kib,
          "Of a request (4)", "KIB" },
        { "depth", 0, 0, G_OPTION_ARG_INT, &depth,
          "Requests at a time (32)", "N" },
        { "ms", 0, 0, G_OPTION_ARG_INT, &ms,
          "How long to run each time (50)", "MS" },
        { "requests", 0, 0, G_OPTION_ARG_INT, &requests,
          "Run N requests instead, once, without a warm-up", "N" },
        { "memory", 0, 0, G_OPTION_ARG_INT, &memory_mib,
          "Of the guest (256)", "MIB" },
        { "huge", 0, 0, G_OPTION_ARG_NONE, &huge,
          "The guest's memory has huge pages", NULL },
        { "cancel", 0, 0, G_OPTION_ARG_STRING, &cancel,
          "off (default), on, lent: without a copy where that is possible, 0: "
          "never a copy", "HOW" },
        { }
    };
    g_autoptr(GOptionContext) context =
        g_option_context_new("BLOCKDEV - what a request costs");
    g_autoptr(GError) error = NULL;
    Bench bench = { };

    error_init(argv[0]);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        error_report("%s", error->message);
        return EXIT_FAILURE;
    }
    if (argc != 2 || depth < 1 || size_kib < 1 || memory_mib < 1 ||
        requests < 0 || ms < 1 || !parse_op(op ?: "read", &bench.op)) {
        error_report("wrong arguments: see --help");
        return EXIT_FAILURE;
    }
    bench.size = size_kib * KiB;
    bench.depth = depth;
    ns = ms * INT64_C(1000000);

    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_init_main_loop(&error_fatal);
    bench_init_memory(&bench, memory_mib * MiB, huge);
    bench_init(&bench, argv[1]);
    bench_set_cancel(&bench, cancel ?: "off");

    if (requests) {
        bench_measure(&bench, requests, 0);
    } else {
        bench_requests(&bench, WARM_UP, ns);
        while (getchar() == '\n') {
            bench_measure(&bench, UINT64_MAX, ns);
        }
    }
    bench_cleanup(&bench);
    return EXIT_SUCCESS;
}
