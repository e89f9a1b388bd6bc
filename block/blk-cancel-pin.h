/*
 * Requests on memory that is lent: what the engine and host files share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A request may run on the caller's own memory, and still be taken back, if the
 * kernel has pinned all of that: then the caller gets other pages, see
 * qemu/page-swap.h.  Only who talks to the kernel can tell.  The engine offers
 * a BlkPin before it issues the request; a file that can tell takes it, and
 * knows it by the vector.  If something on the way has another vector in its
 * place, or splits the request, nobody takes it, and it cannot be taken back.
 *
 * A file that has taken it submits the request once, so that the kernel either
 * accepts and pins all of it at once, or does nothing.  What it does not accept
 * the engine does again, through a buffer.  No layer may ever write to memory
 * of a request whose pages were swapped - no zeroes behind a short read, no
 * second try - so it returns an error, and its result another way, @ret.
 *
 * Hooks: block/io_uring.c and block/linux-aio.c
 */

#ifndef BLOCK_BLK_CANCEL_PIN_H
#define BLOCK_BLK_CANCEL_PIN_H

#include "qemu/iov.h"

/* Owned by the thread of the request's AioContext */
typedef struct BlkPin {
    QEMUIOVector *qiov;         /* all of the request's memory; set once */

    /*
     * Set by the file: whether the kernel has accepted the request, and not
     * refused it as far as anybody knows.  NULL: nobody has taken it.
     */
    bool (*is_accepted)(void *opaque);
    void *opaque;               /* valid until the request returns */

    bool swapped;               /* set by the engine: some pages are others */
    bool refused;               /* set by the file: as if nothing was done */
    int ret;                    /* the same, when it has returned */
} BlkPin;

/*
 * blk_pin_offer:
 *
 * What is issued next in this thread is the request of @pin.
 */
void blk_pin_offer(BlkPin *pin);

/* The request of @pin has returned. */
void blk_pin_withdraw(BlkPin *pin);

/*
 * blk_pin_find:
 *
 * Returns: the pin of the request whose memory @qiov is, or NULL if it is not
 * lent.
 *
 * Context: where the request is submitted, before it yields.
 */
BlkPin *blk_pin_find(const QEMUIOVector *qiov);

/*
 * raw_lends:
 *
 * Whether @bs can take a pin: a block device of the host's that is opened with
 * O_DIRECT, and whose requests go to the kernel without a thread between.  Such
 * a file pins the memory of a request that it accepts, or refuses it.
 */
#ifdef CONFIG_POSIX
bool raw_lends(BlockDriverState *bs);
#else
static inline bool raw_lends(BlockDriverState *bs)
{
    return false;
}
#endif

#endif /* BLOCK_BLK_CANCEL_PIN_H */
