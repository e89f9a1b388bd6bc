/*
 * Other pages with the same contents, at the same address
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_PAGE_SWAP_H
#define QEMU_PAGE_SWAP_H

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

#endif /* QEMU_PAGE_SWAP_H */
