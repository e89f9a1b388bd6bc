/*
 * io_uring: threads of the kernel's that submit what would block
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hooks: whoever has a ring for files: block/io_uring.c; since QEMU 10.2
 * include/block/aio.h and util/fdmon-io_uring.c.
 */

#ifndef BLOCK_LURING_WORKERS_H
#define BLOCK_LURING_WORKERS_H

struct io_uring;

/* Of one ring; only accessed from its AioContext. */
typedef struct LuringWorkers {
    enum {
        LURING_WORKERS_UNKNOWN,
        LURING_WORKERS_FEW,
        LURING_WORKERS_MANY,
    } state;
    bool sharing;       /* is counted */
    unsigned int rings; /* what the count was when they got their limit */
} LuringWorkers;

/*
 * luring_ring_has_workers:
 * @w: zero-initialised with @ring
 *
 * Whether requests of @ring may be marked with IOSQE_ASYNC, each to wait in a
 * thread of its own, and no other one for it.
 *
 * Context: the AioContext of @ring.  Makes system calls when it is called first
 * and when another ring has come or gone.
 */
bool luring_ring_has_workers(LuringWorkers *w, struct io_uring *ring);

/*
 * luring_end_workers:
 *
 * @w's ring is gone.
 *
 * Context: any thread.
 */
void luring_end_workers(LuringWorkers *w);

/*
 * luring_has_workers:
 *
 * Whether luring_co_submit() in the current AioContext may be given
 * BDRV_REQ_NO_WAIT: a worker submits the request, and the event loop does not
 * wait for storage that hangs.
 *
 * Context: any AioContext that has a ring.
 */
bool luring_has_workers(void);

#endif /* BLOCK_LURING_WORKERS_H */
