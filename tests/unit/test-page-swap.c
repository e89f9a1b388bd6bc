/*
 * Other pages with the same contents, at the same address
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Threads that play virtual CPUs count in every page of a guest's memory, and
 * notice each of their writes that is lost.  A pipe plays the storage that has
 * pinned pages: what it holds is not to change.
 *
 * PAGE_SWAPS=100000 makes it longer.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include "qemu/atomic.h"
#include "qemu/main-loop.h"
#include "qemu/page-swap.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "qapi/error.h"

#define RAM_SIZE    (4 * MiB)
#define PIPE_PAGES  64
#define MAX_RANGES  4
#define NR_VCPUS    2

static size_t page_size;
static unsigned int nr_pages;
static char *no_swap;           /* why pages cannot be swapped, or NULL */

/* What is in a page */
typedef struct Page {
    uint64_t marker;            /* the main thread's */
    uint64_t count[NR_VCPUS];   /* each virtual CPU's own */
} Page;

typedef struct Machine Machine;

typedef struct Vcpu {
    Machine *m;
    unsigned int index;
    QemuThread thread;
    uint64_t rounds;            /* atomic */
} Vcpu;

struct Machine {
    void *ram;
    size_t mapped;
    void *map;
    bool stop;                  /* atomic */
    Vcpu vcpu[NR_VCPUS];
};

static Page *page_of(Machine *m, unsigned int i)
{
    return m->ram + i * page_size;
}

static void *vcpu_run(void *opaque)
{
    Vcpu *v = opaque;
    g_autofree uint64_t *count = g_new0(uint64_t, nr_pages);

    while (!qatomic_read(&v->m->stop)) {
        for (unsigned int i = 0; i < nr_pages; i++) {
            uint64_t *p = &page_of(v->m, i)->count[v->index];

            g_assert_cmpuint(qatomic_read(p), ==, count[i]);
            qatomic_set(p, ++count[i]);
        }
        qatomic_set(&v->rounds, v->rounds + 1);
    }
    return NULL;
}

static void machine_start(Machine *m, int advice)
{
    const size_t align = 2 * MiB;

    m->mapped = RAM_SIZE + align;
    m->map = mmap(NULL, m->mapped, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert(m->map != MAP_FAILED);
    m->ram = (void *)ROUND_UP((uintptr_t)m->map, align);
    madvise(m->ram, RAM_SIZE, advice);
    m->stop = false;
    for (int i = 0; i < NR_VCPUS; i++) {
        m->vcpu[i] = (Vcpu) { .m = m, .index = i };
        qemu_thread_create(&m->vcpu[i].thread, "vcpu", vcpu_run, &m->vcpu[i],
                           QEMU_THREAD_JOINABLE);
    }
}

static void machine_stop(Machine *m)
{
    qatomic_set(&m->stop, true);
    for (int i = 0; i < NR_VCPUS; i++) {
        qemu_thread_join(&m->vcpu[i].thread);
    }
    munmap(m->map, m->mapped);
}

/* All virtual CPUs have written to all pages since this was called. */
static void machine_wait_written(Machine *m)
{
    uint64_t rounds[NR_VCPUS];

    for (int i = 0; i < NR_VCPUS; i++) {
        rounds[i] = qatomic_read(&m->vcpu[i].rounds);
    }
    for (int i = 0; i < NR_VCPUS; i++) {
        /* One round may have begun before */
        while (qatomic_read(&m->vcpu[i].rounds) < rounds[i] + 2) {
            sched_yield();
        }
    }
}

/* A few ranges; they may overlap. */
static int random_ranges(Machine *m, struct iovec *iov)
{
    int n = g_test_rand_int_range(1, MAX_RANGES + 1);

    for (int i = 0; i < n; i++) {
        int pages = g_test_rand_int_range(1, PIPE_PAGES / MAX_RANGES + 1);
        int first = g_test_rand_int_range(0, nr_pages - pages);

        iov[i].iov_base = page_of(m, first);
        iov[i].iov_len = pages * page_size;
    }
    return n;
}

static void set_markers(const struct iovec *iov, int n, uint64_t marker)
{
    for (int i = 0; i < n; i++) {
        for (size_t at = 0; at < iov[i].iov_len; at += page_size) {
            qatomic_set(&((Page *)(iov[i].iov_base + at))->marker, marker);
        }
    }
}

/* The storage reads what it has pinned, late. */
static void check_pinned(int fd, unsigned int pages, uint64_t marker)
{
    g_autofree void *buf = g_malloc(page_size);

    for (unsigned int i = 0; i < pages; i++) {
        Page *page = buf;
        size_t done = 0;

        while (done < page_size) {
            ssize_t n = read(fd, buf + done, page_size - done);

            g_assert_cmpint(n, >, 0);
            done += n;
        }
        g_assert_cmpuint(page->marker, ==, marker);
    }
}

static void swap_once(Machine *m, int pipe_fds[2], uint64_t round)
{
    struct iovec iov[MAX_RANGES], sorted[MAX_RANGES];
    int n = random_ranges(m, iov);
    unsigned int pages = 0;

    set_markers(iov, n, 2 * round);
    for (int i = 0; i < n; i++) {
        g_assert_cmpint(vmsplice(pipe_fds[1], &iov[i], 1, 0), ==,
                        iov[i].iov_len);
        pages += iov[i].iov_len / page_size;
    }

    memcpy(sorted, iov, sizeof(iov));
    g_assert_cmpint(page_swap(sorted, n), ==, 0);
    set_markers(iov, n, 2 * round + 1);
    if (round % 256 == 0) {
        machine_wait_written(m);
    }
    check_pinned(pipe_fds[0], pages, 2 * round);
}

static bool can_swap(void)
{
    if (no_swap) {
        g_test_skip(no_swap);
    }
    return !no_swap;
}

static void run_vcpus(int advice, unsigned int n)
{
    Machine m;
    int fds[2];

    if (!can_swap()) {
        return;
    }
    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    if (fcntl(fds[1], F_SETPIPE_SZ, PIPE_PAGES * page_size) < 0) {
        g_test_skip("no pipe as large to be had");
        close(fds[0]);
        close(fds[1]);
        return;
    }
    machine_start(&m, advice);
    machine_wait_written(&m);
    for (unsigned int i = 0; i < n; i++) {
        swap_once(&m, fds, i);
    }
    machine_wait_written(&m);
    machine_stop(&m);
    close(fds[0]);
    close(fds[1]);
}

static unsigned int nr_swaps(void)
{
    const char *swaps = g_getenv("PAGE_SWAPS");

    return swaps ? atoi(swaps) : 10000;
}

static void test_vcpus(gconstpointer opaque)
{
    run_vcpus(GPOINTER_TO_INT(opaque), nr_swaps() / 2); /* of each size */
}

/* From now on this thread, and no other, gets no memory to fill pages with. */
static bool forbid_copy(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 offsetof(struct seccomp_data, args[1]) +
                 (HOST_BIG_ENDIAN ? sizeof(uint32_t) : 0)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)UFFDIO_COPY, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { ARRAY_SIZE(filter), filter };

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void *without_memory(void *opaque)
{
    if (!forbid_copy()) {
        g_test_skip("no system call can be made to fail");
        return NULL;
    }
    run_vcpus(MADV_NOHUGEPAGE, nr_swaps() / 20);
    return NULL;
}

/* Old pages have gone when the host has no memory for new ones. */
static void test_no_memory(void)
{
    QemuThread thread;

    qemu_thread_create(&thread, "swap", without_memory, NULL,
                       QEMU_THREAD_JOINABLE);
    qemu_thread_join(&thread);
}

static void *map_pages(unsigned int n)
{
    void *p = mmap(NULL, n * page_size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert(p != MAP_FAILED);
    return p;
}

static int swap_pages(void *p, unsigned int n)
{
    struct iovec iov = { p, n * page_size };

    return page_swap(&iov, 1);
}

static bool has_hit(unsigned long since, void *p, size_t len)
{
    struct iovec iov = { p, len };

    return page_swap_has_hit(since, &iov, 1);
}

/* Who reads learns of a swap of its pages, and of no other. */
static void test_hit(void)
{
    unsigned long since;
    void *p;

    if (!can_swap()) {
        return;
    }
    p = map_pages(3);
    since = page_swap_now();
    g_assert_false(has_hit(since, p, 3 * page_size));
    g_assert_cmpint(swap_pages(p + page_size, 1), ==, 0);
    g_assert_false(has_hit(since, p, page_size));
    g_assert_true(has_hit(since, p + 2 * page_size - 512, 512));
    g_assert_true(has_hit(since, p, 3 * page_size));
    g_assert_false(has_hit(since, p + 2 * page_size, page_size));

    since = page_swap_now();
    g_assert_false(has_hit(since, p, 3 * page_size));

    /* It is not told from one that is known no more. */
    for (int i = 0; i < 2000; i++) {
        g_assert_cmpint(swap_pages(p, 1), ==, 0);
    }
    g_assert_true(has_hit(since, p + page_size, page_size));
    munmap(p, 3 * page_size);
}

/*
 * A disk reads to a page that it has pinned, while that is swapped, and again
 * if it was.
 */
#define NR_BLOCKS   16
#define NR_READS    1000

typedef struct Reader {
    int fd;                     /* set once */
    Page *page;                 /* set once */
    unsigned int again;         /* its thread's */
    bool done;                  /* atomic */
} Reader;

static void *reader_run(void *opaque)
{
    Reader *r = opaque;

    for (int i = 0; i < NR_READS; i++) {
        off_t offset = i % NR_BLOCKS * page_size;
        unsigned long since = page_swap_now();

        g_assert_cmpint(pread(r->fd, r->page, page_size, offset), ==,
                        page_size);
        while (has_hit(since, r->page, page_size)) {
            r->again++;
            since = page_swap_now();
            g_assert_cmpint(pread(r->fd, r->page, page_size, offset), ==,
                            page_size);
        }
        g_assert_cmpuint(qatomic_read(&r->page->marker), ==, i % NR_BLOCKS);
    }
    qatomic_set(&r->done, true);
    return NULL;
}

static int open_blocks(const char *path, Page *page)
{
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);

    unlink(path);
    for (int i = 0; fd >= 0 && i < NR_BLOCKS; i++) {
        page->marker = i;
        g_assert_cmpint(pwrite(fd, page, page_size, i * page_size), ==,
                        page_size);
    }
    return fd;
}

static void test_reads(void)
{
    QemuThread thread;
    Reader r = {};

    if (!can_swap()) {
        return;
    }
    r.page = map_pages(1);
    r.fd = open_blocks("test-page-swap.tmp", r.page);
    if (r.fd < 0) {
        g_test_skip("no O_DIRECT here");
        munmap(r.page, page_size);
        return;
    }
    qemu_thread_create(&thread, "disk", reader_run, &r, QEMU_THREAD_JOINABLE);
    while (!qatomic_read(&r.done)) {
        g_assert_cmpint(swap_pages(r.page, 1), ==, 0);
        g_usleep(g_test_rand_int_range(1, 500));
    }
    qemu_thread_join(&thread);
    g_test_message("%u of %u reads again", r.again, NR_READS);
    g_assert_cmpuint(r.again, >, 0);
    close(r.fd);
    munmap(r.page, page_size);
}

/* What nobody has written to is zero, and stays so. */
static void test_missing(void)
{
    uint8_t *p;

    if (!can_swap()) {
        return;
    }
    p = map_pages(3);
    p[page_size] = 1;
    g_assert_cmpint(swap_pages(p, 3), ==, 0);
    g_assert_cmpint(p[0], ==, 0);
    g_assert_cmpint(p[page_size], ==, 1);
    g_assert_cmpint(p[2 * page_size], ==, 0);
    p[0] = p[2 * page_size] = 2;
    munmap(p, 3 * page_size);
}

/* Nothing has changed after an error, and nobody waits. */
static void check_refused(uint8_t *p, int error)
{
    p[0] = 1;
    p[page_size] = 2;
    g_assert_cmpint(swap_pages(p, 2), ==, -error);
    g_assert_cmpint(p[0], ==, 1);
    g_assert_cmpint(p[page_size], ==, 2);
    p[0] = p[page_size] = 3;
}

static void test_locked(void)
{
    uint8_t *p;

    if (!can_swap()) {
        return;
    }
    p = map_pages(2);
    /* Sanitizers have an mlock() of their own, which does nothing */
    if (mlock2(p, 2 * page_size, 0) < 0) {
        g_test_skip("no memory may be locked");
    } else {
        check_refused(p, EINVAL);
    }
    munmap(p, 2 * page_size);
}

/* A file's: another process may have it as well. */
static void test_shared(void)
{
    uint8_t *p;
    int fd;

    if (!can_swap()) {
        return;
    }
    fd = memfd_create("test-page-swap", MFD_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, page_size), ==, 0);
    p = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    g_assert(p != MAP_FAILED);
    g_assert_cmpint(swap_pages(p, 1), <, 0);
    munmap(p, page_size);
    close(fd);
}

/* As of a background snapshot. */
static void test_registered(void)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_WP };
    uint8_t *p;
    int fd;

    if (!can_swap()) {
        return;
    }
    fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        g_test_skip("no userfaultfd of the test's own");
        return;
    }
    p = map_pages(2);
    r.range.start = (uintptr_t)p;
    r.range.len = 2 * page_size;
    g_assert_cmpint(ioctl(fd, UFFDIO_API, &api), ==, 0);
    g_assert_cmpint(ioctl(fd, UFFDIO_REGISTER, &r), ==, 0);
    check_refused(p, EBUSY);
    close(fd);
    munmap(p, 2 * page_size);
}

int main(int argc, char **argv)
{
    Error *err = NULL;

    g_test_init(&argc, &argv, NULL);
    page_size = qemu_real_host_page_size();
    nr_pages = RAM_SIZE / page_size;

    g_assert_false(page_swap_init("/nonexistent", &err));
    error_free_or_abort(&err);
    if (!page_swap_init(NULL, &err)) {
        no_swap = g_strdup(error_get_pretty(err)); /* as long as the process */
        error_free(err);
    }

    g_test_add_data_func("/page-swap/vcpus/small",
                         GINT_TO_POINTER(MADV_NOHUGEPAGE), test_vcpus);
    g_test_add_data_func("/page-swap/vcpus/huge",
                         GINT_TO_POINTER(MADV_HUGEPAGE), test_vcpus);
    g_test_add_func("/page-swap/vcpus/no-memory", test_no_memory);
    g_test_add_func("/page-swap/hit", test_hit);
    g_test_add_func("/page-swap/reads", test_reads);
    g_test_add_func("/page-swap/missing", test_missing);
    g_test_add_func("/page-swap/refused/locked", test_locked);
    g_test_add_func("/page-swap/refused/file", test_shared);
    g_test_add_func("/page-swap/refused/registered", test_registered);
    return g_test_run();
}
