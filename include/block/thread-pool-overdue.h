/*
 * Thread pool: threads that are stuck do not count against its size
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hook: util/thread-pool.c.
 */

#ifndef BLOCK_THREAD_POOL_OVERDUE_H
#define BLOCK_THREAD_POOL_OVERDUE_H

/*
 * thread_pool_overdue_enable:
 *
 * For as long as it is on, the pools of all AioContexts make up for threads
 * that have been working on a request for a quarter of a second or more, and
 * none of them ends QEMU if the host allows no further thread.  Calls nest:
 * each "on" needs its "off".  A pool that made up for some goes back to its
 * size as they return, also after the last "off".
 *
 * Context: any thread.
 */
void thread_pool_overdue_enable(bool enable);

/* thread_pool_overdue_is_on: Whether it is.  Context: any thread. */
bool thread_pool_overdue_is_on(void);

/*
 * thread_pool_host_share:
 *
 * A third of the threads that the control groups of this process allowed when
 * cancelling was first switched on.  All thread pools together take so many,
 * and the kernel's threads for all event loops' io_uring.  The rest is for
 * threads that QEMU cannot do without.
 *
 * Context: any thread.
 */
unsigned int thread_pool_host_share(void);

/*
 * thread_pool_try_thread:
 *
 * Create a detached thread that takes no signals, like qemu_thread_create() but
 * for one thing: where the host allows no further thread QEMU goes on.
 *
 * Context: any thread.
 * Returns: whether it was created.
 */
bool thread_pool_try_thread(const char *name, GThreadFunc func, void *opaque);

#endif /* BLOCK_THREAD_POOL_OVERDUE_H */
