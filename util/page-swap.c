/*
 * Other pages with the same contents, at the same address
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Storage that hangs has pinned the pages of a request, and may write to them
 * or read them at any time.  So the caller gets other ones.  For a step of at
 * most 64 KiB:
 *
 *   protect    who writes there waits from now on; reading goes on
 *   copy       into fresh pages of our own
 *   drop       the old pages; who reads there waits as well
 *   fill       the same address with copies of ours, and wake who waits
 *
 * Nothing is lost: until the old pages are dropped, any failure is undone.
 * What fills needs memory, when there is no way back.  If the host has none,
 * our own pages are moved there, with UFFDIO_MOVE of Linux 6.8, which allocates
 * nothing.  That is not done always because each page that is moved has to be
 * flushed from the TLBs of all CPUs.
 *
 * Somebody else may have the old pages pinned to write there: a read of another
 * disk's.  What it brings after the copy is lost, so it has to be done again.
 * Who reads finds out by itself, without anybody knowing of it, because each
 * step has a number: if one has begun that had not ended when the read began,
 * it looks whether that was of its pages.
 *
 * A thread that waits may hold any lock: the big QEMU lock, RCU, malloc()'s.
 * So between the first and the last of these this makes system calls and
 * copies, and nothing else: no lock, no allocation, no trace, no log.  None of
 * the calls waits for a thread that waits for us, which has let go of the
 * kernel's lock of the address space.
 *
 * Missing pages are asked for only after the copy.  Had somebody discarded one
 * meanwhile - a balloon - the copy itself would wait, for ever; so it reads
 * zeroes, as the guest would.
 *
 * What is no danger:
 * - fork(): a guest's memory is not inherited, nor are the fresh pages, which
 *   must not be shared with anybody to be moved;
 * - KSM, migration of pages, compaction, huge pages: the kernel splits and
 *   unshares as for any other write, and does not collapse what is registered;
 * - swap: a page that is swapped out is read back by the copy;
 * - KVM and kernel threads of vhost's: they fault like a thread of ours.  A
 *   fault that KVM must not wait for is repeated by a helper of its own;
 * - a NUMA policy: the new pages are allocated by that of this thread, and
 *   moved by whoever moves pages that are misplaced;
 * - a background snapshot or postcopy: a range has one userfaultfd, so that
 *   this is refused, before anything was done.  (One that begins just in these
 *   microseconds is refused, with an error.)
 * - locked memory: the kernel does not drop it.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/page-swap.h"
#include "qemu/units.h"

#ifdef CONFIG_LINUX
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/userfaultfd.h>
#endif

#ifdef UFFDIO_MOVE

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Who writes there waits for the copy: 20 us, and the calls take as long. */
#define STEP (64 * KiB)

#define FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | \
                  UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_MOVE)

static int uffd = -1;   /* written once, with the BQL held, before any swap */
static void *fresh;     /* the same: STEP bytes; contents under the lock */
static QemuMutex lock;  /* the same */

PageSwapSteps page_swap_steps;

/* Protected by the lock: what step n was of is at n % NR_RECENT */
#define NR_RECENT 1024
static struct iovec recent[NR_RECENT];

static int open_uffd(const char *path, Error **errp)
{
    const int flags = O_CLOEXEC | O_NONBLOCK;
    int fd, device = -1;

    if (!path) {
        fd = syscall(SYS_userfaultfd, flags);
        if (fd >= 0) {
            return fd;
        }
    }
    device = qemu_open(path ?: "/dev/userfaultfd", O_RDWR, errp);
    if (device < 0) {
        return -1;
    }
    fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
    if (fd < 0) {
        error_setg_errno(errp, errno, "no userfaultfd from '%s'",
                         path ?: "/dev/userfaultfd");
    }
    qemu_close(device);
    return fd;
}

static void *map_fresh(Error **errp)
{
    void *p = mmap(NULL, STEP, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        error_setg_errno(errp, errno, "no memory to swap pages");
        return NULL;
    }
    /* Where the kernel has no huge pages it says so; nothing needs them */
    madvise(p, STEP, MADV_NOHUGEPAGE);
    madvise(p, STEP, MADV_DONTDUMP);
    if (madvise(p, STEP, MADV_DONTFORK) < 0) {
        error_setg_errno(errp, errno, "cannot keep memory from a fork");
        munmap(p, STEP);
        return NULL;
    }
    return p;
}

bool page_swap_init(const char *path, Error **errp)
{
    struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
    void *p;
    int fd;

    if (uffd >= 0) {
        return true;
    }
    fd = open_uffd(path, errp);
    if (fd < 0) {
        return false;
    }
    if (ioctl(fd, UFFDIO_API, &api) < 0) {
        error_setg_errno(errp, errno,
                         "the kernel cannot move pages (it needs Linux 6.8)");
        close(fd);
        return false;
    }
    p = map_fresh(errp);
    if (!p) {
        close(fd);
        return false;
    }
    qemu_mutex_init(&lock);
    fresh = p;
    uffd = fd;
    return true;
}

static int set_registered(void *p, size_t len, uint64_t mode)
{
    struct uffdio_register r = {
        .range = { .start = (uintptr_t)p, .len = len },
        .mode = mode,
    };

    return ioctl(uffd, UFFDIO_REGISTER, &r) < 0 ? -errno : 0;
}

/* What was protected is not any more, and who waits goes on. */
static void unregister(void *p, size_t len)
{
    struct uffdio_range range = { .start = (uintptr_t)p, .len = len };

    ioctl(uffd, UFFDIO_UNREGISTER, &range);
}

static int protect(void *p, size_t len)
{
    struct uffdio_writeprotect w = {
        .range = { .start = (uintptr_t)p, .len = len },
        .mode = UFFDIO_WRITEPROTECT_MODE_WP,
    };
    int ret;

    /* Again if the layout of the address space changes under it */
    do {
        ret = ioctl(uffd, UFFDIO_WRITEPROTECT, &w) < 0 ? -errno : 0;
    } while (ret == -EAGAIN);
    return ret;
}

/*
 * Whether the kernel will move pages to there: while others are in the way it
 * looks at everything else first, and moves nothing.  If one has been discarded
 * meanwhile it has a fresh one now, which is as good, but what follows has to
 * be begun again.
 */
static int try_move(void *p, size_t len)
{
    struct uffdio_move m = {
        .dst = (uintptr_t)p, .src = (uintptr_t)fresh, .len = len,
    };

    if (ioctl(uffd, UFFDIO_MOVE, &m) == 0 || m.move > 0) {
        return -EAGAIN;
    }
    return errno == EEXIST ? 0 : -errno;
}

/*
 * Whatever keeps the kernel from moving one - somebody who looks at it, a page
 * being migrated - passes.
 */
static void move_fresh(void *p, size_t len, size_t done)
{
    while (done < len) {
        struct uffdio_move m = {
            .dst = (uintptr_t)p + done,
            .src = (uintptr_t)fresh + done,
            .len = len - done,
        };

        if (ioctl(uffd, UFFDIO_MOVE, &m) == 0) {
            return;
        }
        if (m.move > 0) {
            done += m.move;
        } else if (errno != EAGAIN && errno != EBUSY && errno != EINTR &&
                   errno != ENOMEM) {
            /* The guest must not go on with zeroes in its memory. */
            error_report("cannot give back memory: %s", strerror(errno));
            abort();
        }
    }
}

/* The old pages have gone. */
static void fill(void *p, size_t len)
{
    struct uffdio_copy c = {
        .dst = (uintptr_t)p, .src = (uintptr_t)fresh, .len = len,
    };

    if (ioctl(uffd, UFFDIO_COPY, &c) < 0) {
        move_fresh(p, len, MAX(c.copy, 0));
    }
}

/* Called with the lock held, before @p is copied. */
static void begin_step_locked(void *p, size_t len)
{
    unsigned long n = page_swap_steps.begun + 1;

    recent[n % NR_RECENT] = (struct iovec) { p, len };
    qatomic_set(&page_swap_steps.begun, n);
    smp_mb();   /* pairs with page_swap_has_hit() */
}

static void end_step_locked(void)
{
    qatomic_store_release(&page_swap_steps.ended, page_swap_steps.begun);
}

bool page_swap_look(unsigned long since, const struct iovec *iov, int niov)
{
    QEMU_LOCK_GUARD(&lock);

    if (page_swap_steps.begun - since > NR_RECENT) {
        return true;    /* nobody knows any more */
    }
    for (unsigned long n = since; n != page_swap_steps.begun; n++) {
        const struct iovec *step = &recent[(n + 1) % NR_RECENT];

        for (int i = 0; i < niov; i++) {
            if (step->iov_base < iov[i].iov_base + iov[i].iov_len &&
                iov[i].iov_base < step->iov_base + step->iov_len) {
                return true;
            }
        }
    }
    return false;
}

/* Called with the lock held.  Returns: 0, or -errno with nothing lost. */
static int swap_step_locked(void *p, size_t len)
{
    int ret;

    /* They are there, unless they have been moved, or swapped out */
    if (madvise(fresh, len, MADV_POPULATE_WRITE) < 0) {
        return -errno;
    }
    ret = set_registered(p, len, UFFDIO_REGISTER_MODE_WP);
    if (ret < 0) {
        return ret;
    }
    ret = protect(p, len);
    if (ret < 0) {
        goto out;
    }
    begin_step_locked(p, len);
    memcpy(fresh, p, len);
    ret = set_registered(p, len, UFFDIO_REGISTER_MODE_WP |
                                 UFFDIO_REGISTER_MODE_MISSING);
    if (ret < 0) {
        goto out;
    }
    ret = try_move(p, len);
    if (ret < 0) {
        goto out;
    }
    if (madvise(p, len, MADV_DONTNEED) < 0) {
        ret = -errno;
        goto out;
    }
    fill(p, len);
out:
    unregister(p, len);
    end_step_locked();
    return ret;
}

static int swap_range(void *p, size_t len)
{
    int ret = 0;

    for (size_t done = 0; done < len && ret == 0; done += STEP) {
        QEMU_LOCK_GUARD(&lock);
        ret = swap_step_locked(p + done, MIN(len - done, STEP));
    }
    return ret;
}

static int compare_base(const void *a, const void *b)
{
    const struct iovec *x = a, *y = b;

    return x->iov_base < y->iov_base ? -1 : x->iov_base > y->iov_base;
}

int page_swap(struct iovec *iov, int niov)
{
    void *start, *end;
    int ret, i = 0;

    assert(uffd >= 0);
    qsort(iov, niov, sizeof(*iov), compare_base);
    while (i < niov) {
        start = iov[i].iov_base;
        end = start + iov[i].iov_len;
        /* What follows, or is there already */
        while (++i < niov && iov[i].iov_base <= end) {
            end = MAX(end, iov[i].iov_base + iov[i].iov_len);
        }
        ret = swap_range(start, end - start);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

#else /* !UFFDIO_MOVE */

PageSwapSteps page_swap_steps;

bool page_swap_look(unsigned long since, const struct iovec *iov, int niov)
{
    g_assert_not_reached();
}

bool page_swap_init(const char *path, Error **errp)
{
    error_setg(errp, "pages cannot be swapped on this host");
    return false;
}

int page_swap(struct iovec *iov, int niov)
{
    g_assert_not_reached();
}

#endif
