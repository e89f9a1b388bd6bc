/*
 * io_uring: threads of the kernel's that submit what would block
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernel tries each request inside io_uring_enter() first.  A block device
 * that was opened with O_DIRECT never blocks there; what would wait for a tag
 * goes to a worker thread of the kernel's.  On a file it can block: FUSE does
 * so as soon as its queue is full, ext4 and XFS when the device below has no
 * tags, or their journal waits.  IOSQE_ASYNC sends the request to a worker at
 * once, which may block instead.
 *
 * Such a request's file is looked up by the worker if the kernel has
 * IORING_FEAT_LINKED_FILE.  Then io_uring does not know that it is a write to a
 * regular file, and does not make it wait for all other writes to the same one;
 * on kernels that do, files are left to the thread pool.
 *
 * The kernel has two kinds of workers.  There are only a few "bounded" ones,
 * and fsync on every other disk of the same event loop needs one as well;
 * "unbounded" ones are as many as the user may have processes.  Which kind
 * serves a request that was marked with IOSQE_ASYNC depends on the kernel
 * (6.18: unbounded), so both get the same limit.  The kernel starts one more
 * only when those that work are blocked, and ends them when they have had
 * nothing to do for some seconds.
 */

#include "qemu/osdep.h"
#include <liburing.h>
#include "qemu/atomic.h"
#include "block/luring-workers.h"
#include "block/thread-pool-overdue.h"
#include "trace.h"

/*
 * Workers of one kind, for all event loops together; but each has at least as
 * many as its thread pool has threads, unless the host allows fewer.
 */
#define MAX_WORKERS  1024
#define MIN_WORKERS  64

/* Rings that have workers; atomic */
static unsigned int nr_rings;

#ifdef HAVE_IO_URING_PREP_WRITEV2
/* It came with liburing 2.2, this call with 2.1 and Linux 5.15. */
static bool limit_workers(struct io_uring *ring, unsigned int rings)
{
    unsigned int n = MAX(MAX_WORKERS / rings, MIN_WORKERS);
    unsigned int limits[2];
    int ret;

    n = MAX(MIN(n, thread_pool_host_share() / 2 / rings), 1);
    limits[0] = limits[1] = n;
    ret = io_uring_register_iowq_max_workers(ring, limits);
    trace_luring_workers(ring, n, ret);
    return ret >= 0;
}

static void try_workers(LuringWorkers *w, struct io_uring *ring)
{
    unsigned int rings;

    if (!w->sharing && (ring->features & IORING_FEAT_LINKED_FILE)) {
        qatomic_inc(&nr_rings);
        w->sharing = true;
    }
    rings = qatomic_read(&nr_rings);
    w->state = LURING_WORKERS_FEW;
    w->rings = rings;
    if (w->sharing && limit_workers(ring, rings)) {
        w->state = LURING_WORKERS_MANY;
    }
}
#endif

bool luring_ring_has_workers(LuringWorkers *w, struct io_uring *ring)
{
#ifdef HAVE_IO_URING_PREP_WRITEV2
    /* Other event loops come and go, and each has its share. */
    if (w->state == LURING_WORKERS_UNKNOWN ||
        (w->state == LURING_WORKERS_MANY &&
         w->rings != qatomic_read(&nr_rings))) {
        try_workers(w, ring);
    }
#endif
    return w->state == LURING_WORKERS_MANY;
}

void luring_end_workers(LuringWorkers *w)
{
    if (w->sharing) {
        qatomic_dec(&nr_rings);
    }
}
