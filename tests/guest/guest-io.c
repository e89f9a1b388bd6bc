/*
 * Small helper that runs inside the test guest: direct I/O with timings, and
 * a heartbeat that notices when a vCPU stands still.
 *
 * Every result is one line of JSON on stdout, printed as it becomes known, so
 * that the host can react while other requests still hang.
 *
 *   guest-io io [-o OFFSET] [-l LENGTH] [-n COUNT] [-s SEED] [-k FILE] [-p]
 *            DEVICE read|write|fsync|discard|zeroes|mixed
 *   guest-io reset SCSI-DISK device|target|bus|host [STATE]
 *   guest-io heartbeat PIDFILE
 *   guest-io memory MEGABYTES FILE
 *   guest-io tsc
 *
 * Linked statically, because the guest has no libraries.  The last one is for
 * the host: how many ticks a millisecond its time stamp counter has, which an
 * emulated guest sees as its own; 0 if there is none.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <scsi/sg.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define MAX_JOBS    1024
#define MAX_CPUS    64
#define ALIGNMENT   4096
#define CANARY      0xc5
#define BEAT_NS     2000000     /* 2 ms */

/* Not in the C library's header */
#ifndef SG_SCSI_RESET_NO_ESCALATE
#define SG_SCSI_RESET_NO_ESCALATE 0x100
#endif

enum op { OP_READ, OP_WRITE, OP_FSYNC, OP_DISCARD, OP_ZEROES, OP_MAX };
static const char *const op_names[] = {
    "read", "write", "fsync", "discard", "zeroes"
};

/*
 * One request and the thread that issues it.  Set once before the threads
 * start, except for buf's content, which the job's thread owns until it is
 * joined.
 */
struct job {
    int fd;
    enum op op;
    off_t offset;
    size_t length;
    uint32_t seed;
    bool polled;
    unsigned char *buf;
    pthread_barrier_t *start;
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "guest-io: %s: %s\n", what, strerror(errno));
    exit(2);
}

/*
 * The pattern: each 64-bit word tells the seed it was written with and its own
 * place on the disk, so stale, torn and misplaced data all show.
 */
static uint64_t pattern_word(uint32_t seed, off_t offset)
{
    return (uint64_t)seed << 32 | (uint32_t)(offset / 8);
}

static void pattern_fill(const struct job *job)
{
    for (size_t i = 0; i < job->length; i += 8) {
        uint64_t word = pattern_word(job->seed, job->offset + i);
        memcpy(job->buf + i, &word, 8);
    }
}

/* Returns the seed of the pattern in the buffer, or -1 if there is none. */
static int64_t pattern_seed(const struct job *job)
{
    uint64_t first, word;

    memcpy(&first, job->buf, 8);
    for (size_t i = 0; i < job->length; i += 8) {
        memcpy(&word, job->buf + i, 8);
        if (word != pattern_word(first >> 32, job->offset + i)) {
            return -1;
        }
    }
    return first >> 32;
}

/*
 * Without interrupts: the task looks for the completion itself.  The kernel
 * does that for io_uring only.  Returns like pread().
 */
static ssize_t perform_polled(const struct job *job)
{
    struct io_uring_sqe *sqe;
    struct io_uring_cqe *cqe;
    struct io_uring ring;
    int ret;

    ret = io_uring_queue_init(1, &ring, IORING_SETUP_IOPOLL);
    if (ret < 0) {
        errno = -ret;
        return -1;
    }
    sqe = io_uring_get_sqe(&ring);
    if (job->op == OP_READ) {
        io_uring_prep_read(sqe, job->fd, job->buf, job->length, job->offset);
    } else {
        io_uring_prep_write(sqe, job->fd, job->buf, job->length, job->offset);
    }
    ret = io_uring_submit(&ring);
    if (ret >= 0) {
        ret = io_uring_wait_cqe(&ring, &cqe);
    }
    if (ret >= 0) {
        ret = cqe->res;
    }
    io_uring_queue_exit(&ring);
    if (ret < 0) {
        errno = -ret;
        return -1;
    }
    return ret;
}

static ssize_t perform(const struct job *job)
{
    uint64_t range[] = { job->offset, job->length };

    if (job->polled) {
        return perform_polled(job);
    }
    switch (job->op) {
    case OP_READ:
        return pread(job->fd, job->buf, job->length, job->offset);
    case OP_WRITE:
        return pwrite(job->fd, job->buf, job->length, job->offset);
    case OP_DISCARD:
        return ioctl(job->fd, BLKDISCARD, range);
    case OP_ZEROES:
        return ioctl(job->fd, BLKZEROOUT, range);
    default:
        return fsync(job->fd);
    }
}

static void *run_job(void *opaque)
{
    struct job *job = opaque;
    int64_t seed = -1;
    double begin, end;
    ssize_t ret;
    int err;

    if (job->op == OP_WRITE) {
        pattern_fill(job);
    } else {
        memset(job->buf, CANARY, job->length);
    }
    pthread_barrier_wait(job->start);

    begin = now();
    ret = perform(job);
    err = ret < 0 ? errno : 0;
    end = now();

    if (job->op == OP_READ && ret == (ssize_t)job->length) {
        seed = pattern_seed(job);
    } else if (job->op == OP_WRITE) {
        seed = job->seed;
    }
    printf("{\"op\": \"%s\", \"offset\": %lld, \"result\": %zd, "
           "\"errno\": %d, \"seconds\": %.4f, \"seed\": %lld}\n",
           op_names[job->op], (long long)job->offset, ret, err,
           end - begin, (long long)seed);
    return NULL;
}

/*
 * Wait until @file exists, and report whether the buffers stayed untouched
 * meanwhile: nothing may arrive in the buffer of a read that has failed.
 */
static void watch_buffers(struct job *jobs, unsigned count, const char *file)
{
    unsigned long changed = 0;

    for (unsigned i = 0; i < count; i++) {
        memset(jobs[i].buf, CANARY, jobs[i].length);
    }
    printf("{\"watching\": %u}\n", count);

    while (access(file, F_OK) < 0) {
        usleep(20000);
    }
    for (unsigned i = 0; i < count; i++) {
        for (size_t j = 0; j < jobs[i].length; j++) {
            changed += jobs[i].buf[j] != CANARY;
        }
    }
    printf("{\"changed_bytes\": %lu}\n", changed);
}

static void run_jobs(struct job *jobs, unsigned count)
{
    static pthread_t threads[MAX_JOBS];
    pthread_barrier_t start;
    pthread_attr_t attr;

    /* Hundreds of threads in a guest of 512 MB: small stacks. */
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 128 * 1024);
    pthread_barrier_init(&start, NULL, count);

    for (unsigned i = 0; i < count; i++) {
        jobs[i].start = &start;
        errno = pthread_create(&threads[i], &attr, run_job, &jobs[i]);
        if (errno) {
            die("pthread_create");
        }
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&start);
}

static enum op parse_op(const char *name, unsigned index)
{
    if (!strcmp(name, "mixed")) {
        return index % 2 ? OP_WRITE : OP_READ;
    }
    for (unsigned op = OP_READ; op < OP_MAX; op++) {
        if (!strcmp(name, op_names[op])) {
            return op;
        }
    }
    errno = EINVAL;
    die(name);
    return OP_READ;
}

static unsigned long long parse_number(const char *text)
{
    unsigned long long value;

    if (sscanf(text, "%llu", &value) != 1) {
        errno = EINVAL;
        die(text);
    }
    return value;
}

static int main_io(int argc, char **argv)
{
    static struct job jobs[MAX_JOBS];
    const char *keep = NULL;
    size_t length = 4096;
    unsigned count = 1;
    uint32_t seed = 0;
    off_t offset = 0;
    bool polled = false;
    int opt, fd;

    while ((opt = getopt(argc, argv, "o:l:n:s:k:p")) != -1) {
        switch (opt) {
        case 'o':
            offset = parse_number(optarg);
            break;
        case 'l':
            length = parse_number(optarg);
            break;
        case 'n':
            count = parse_number(optarg);
            break;
        case 's':
            seed = parse_number(optarg);
            break;
        case 'k':
            keep = optarg;
            break;
        case 'p':
            polled = true;
            break;
        default:
            return 2;
        }
    }
    if (argc - optind != 2 || !count || count > MAX_JOBS || length % 8) {
        fprintf(stderr, "guest-io: wrong arguments\n");
        return 2;
    }
    fd = open(argv[optind], O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
        die(argv[optind]);
    }
    for (unsigned i = 0; i < count; i++) {
        jobs[i] = (struct job) {
            .fd = fd,
            .op = parse_op(argv[optind + 1], i),
            .offset = offset + (off_t)i * length,
            .length = length,
            .seed = seed,
            .polled = polled,
            .buf = aligned_alloc(ALIGNMENT, length),
        };
        if (!jobs[i].buf) {
            die("aligned_alloc");
        }
    }
    run_jobs(jobs, count);
    if (keep) {
        watch_buffers(jobs, count, keep);
    }
    return 0;
}

/*
 * What sg_reset does, without escalation.  First, the disk is taken offline
 * through its file STATE, if given; then it could not be opened any more.
 */
static int main_reset(const char *device, const char *kind, const char *state)
{
    static const char *const kinds[] = { "device", "bus", "host", "target" };
    double begin;
    int fd, ret, value = -1;

    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!strcmp(kind, kinds[i])) {
            value = SG_SCSI_RESET_NO_ESCALATE | (SG_SCSI_RESET_DEVICE + i);
        }
    }
    if (value < 0) {
        errno = EINVAL;
        die(kind);
    }
    fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        die(device);
    }
    if (state) {
        FILE *file = fopen(state, "w");

        if (!file || fprintf(file, "offline\n") < 0 || fclose(file)) {
            die(state);
        }
    }
    begin = now();
    ret = ioctl(fd, SG_SCSI_RESET, &value);
    printf("{\"errno\": %d, \"seconds\": %.4f}\n", ret < 0 ? errno : 0,
           now() - begin);
    return 0;
}

/* One per vCPU; the beating thread and the reporting main thread share it. */
struct pulse {
    unsigned cpu;                   /* set once */
    _Atomic uint64_t last_ns;       /* written by the beating thread */
    _Atomic uint64_t longest_ns;    /* reset by the main thread */
    _Atomic uint64_t beats;         /* reset by the main thread */
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static void raise_longest(struct pulse *pulse, uint64_t gap)
{
    uint64_t longest = atomic_load(&pulse->longest_ns);

    do {
        if (gap <= longest) {
            return;
        }
    } while (!atomic_compare_exchange_weak(&pulse->longest_ns, &longest, gap));
}

static void *beat(void *opaque)
{
    struct pulse *pulse = opaque;
    struct sched_param prio = { .sched_priority = 1 };
    struct timespec pause = { .tv_nsec = BEAT_NS };
    cpu_set_t set;

    /* Pinned and real-time: a gap is then the vCPU's, not the scheduler's. */
    CPU_ZERO(&set);
    CPU_SET(pulse->cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0 ||
        sched_setscheduler(0, SCHED_FIFO, &prio) < 0) {
        die("heartbeat");
    }
    for (;;) {
        uint64_t now = now_ns();

        raise_longest(pulse, now - atomic_exchange(&pulse->last_ns, now));
        atomic_fetch_add(&pulse->beats, 1);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void report_pulse(struct pulse *pulse, const char *separator)
{
    uint64_t last = atomic_load(&pulse->last_ns), now = now_ns();

    /* A gap that has not ended yet counts as well. */
    raise_longest(pulse, now > last ? now - last : 0);
    printf("%s{\"cpu\": %u, \"longest_gap\": %.4f, \"beats\": %llu}", separator,
           pulse->cpu, atomic_exchange(&pulse->longest_ns, 0) / 1e9,
           (unsigned long long)atomic_exchange(&pulse->beats, 0));
}

/* Each SIGUSR1 prints the longest gaps since the one before. */
static int main_heartbeat(const char *pidfile)
{
    static struct pulse pulses[MAX_CPUS];
    unsigned cpus = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t thread;
    sigset_t set;
    FILE *file;
    int sig;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);

    for (unsigned i = 0; i < cpus && i < MAX_CPUS; i++) {
        pulses[i].cpu = i;
        atomic_store(&pulses[i].last_ns, now_ns());
        errno = pthread_create(&thread, NULL, beat, &pulses[i]);
        if (errno) {
            die("pthread_create");
        }
    }
    file = fopen(pidfile, "w");
    if (!file || fprintf(file, "%d\n", getpid()) < 0 || fclose(file)) {
        die(pidfile);
    }
    printf("{\"cpus\": %u}\n", cpus);

    while (sigwait(&set, &sig) == 0) {
        for (unsigned i = 0; i < cpus && i < MAX_CPUS; i++) {
            report_pulse(&pulses[i], i ? ", " : "[");
        }
        printf("]\n");
    }
    return 1;
}

/* Memory that is filled, and needed again once @file exists. */
static int main_memory(size_t size, const char *file)
{
    uint64_t *memory = malloc(size);
    size_t wrong = 0;

    if (!memory) {
        die("malloc");
    }
    for (size_t i = 0; i < size / 8; i++) {
        memory[i] = pattern_word(1, i * 8);
    }
    printf("{\"filled\": %zu}\n", size);

    while (access(file, F_OK) < 0) {
        usleep(20000);
    }
    for (size_t i = 0; i < size / 8; i++) {
        wrong += memory[i] != pattern_word(1, i * 8);
    }
    printf("{\"wrong_words\": %zu}\n", wrong);
    return 0;
}

static uint64_t ticks(void)
{
#ifdef __x86_64__
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

static int main_tsc(void)
{
    uint64_t begin = now_ns(), first = ticks(), end, last;

    do {
        end = now_ns();
        last = ticks();
    } while (end - begin < 100000000);
    printf("%llu\n", (unsigned long long)
           ((last - first) * 1e6 / (end - begin)));
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 64 * 1024);
    if (argc > 2 && !strcmp(argv[1], "io")) {
        return main_io(argc - 1, argv + 1);
    }
    if (argc >= 4 && !strcmp(argv[1], "reset")) {
        return main_reset(argv[2], argv[3], argv[4]);
    }
    if (argc == 3 && !strcmp(argv[1], "heartbeat")) {
        return main_heartbeat(argv[2]);
    }
    if (argc == 4 && !strcmp(argv[1], "memory")) {
        return main_memory(parse_number(argv[2]) << 20, argv[3]);
    }
    if (argc == 2 && !strcmp(argv[1], "tsc")) {
        return main_tsc();
    }
    fprintf(stderr, "usage: guest-io io|reset|heartbeat|memory|tsc ...\n");
    return 2;
}
