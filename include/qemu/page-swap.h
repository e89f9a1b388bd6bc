/*
 * Other pages with the same contents, at the same address
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_PAGE_SWAP_H
#define QEMU_PAGE_SWAP_H

#include "qemu/atomic.h"

/*
 * page_swap_init:
 * @path: of userfaultfd's device, "/dev/fdset/N" of one that was handed in, or
 *        NULL for whatever the host lets this process have
 *
 * Ask the host for what page_swap() needs: Linux 6.8, and the right to handle
 * faults of the kernel's as well.  Nothing is done if it is there already.
 *
 * Context: BQL held.
 * Returns: false with @errp set if it is not to be had.
 */
bool page_swap_init(const char *path, Error **errp);

/*
 * page_swap:
 * @iov: whole pages of the host's, of private anonymous memory that is neither
 *       locked nor registered with another userfaultfd.  A page may come twice.
 *       The array is sorted and overwritten.
 *
 * Put new pages in place of those in @iov, with the same contents.  Whoever has
 * pinned the old ones - the kernel, for direct I/O - goes on with them, and
 * whatever it does to them is not seen any more.  To all other threads nothing
 * happens, but that they wait while they write to memory that is being copied.
 * The memory that the old ones take is in use until they are unpinned.
 *
 * Context: any thread, after page_swap_init() has succeeded.  Makes system
 * calls, up to a few hundred us for 64 KiB; waits for other swaps.
 * Returns: 0, or -errno if the host refused; then some pages may be new ones.
 */
int page_swap(struct iovec *iov, int niov);

/* Steps of swaps, ever, of one at a time; atomic */
typedef struct PageSwapSteps {
    unsigned long begun, ended;
} PageSwapSteps;

extern PageSwapSteps page_swap_steps;

/*
 * page_swap_now:
 *
 * Returns: what page_swap_has_hit() wants to know of when a read began.
 *
 * Context: any thread, before a read is submitted.
 */
static inline unsigned long page_swap_now(void)
{
    return qatomic_load_acquire(&page_swap_steps.ended);
}

bool page_swap_look(unsigned long since, const struct iovec *iov, int niov);

/*
 * page_swap_has_hit:
 * @since: of page_swap_now(), before the read
 * @iov: the memory that it was to
 *
 * Returns: whether pages of that have been swapped meanwhile, for another
 * request's sake, or may have been; what was read is lost then, if the kernel
 * had pinned them, and must be read again.
 *
 * Context: any thread, after a read has ended.
 */
static inline bool page_swap_has_hit(unsigned long since,
                                     const struct iovec *iov, int niov)
{
    smp_rmb();  /* the data was there before; pairs with begin_step_locked() */
    return unlikely(qatomic_read(&page_swap_steps.begun) != since) &&
           page_swap_look(since, iov, niov);
}

#endif /* QEMU_PAGE_SWAP_H */
