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
 * that have been working on a request for a quarter of a second or more.  Calls
 * nest: each "on" needs its "off".  A pool that made up for some goes back to
 * its size as they return, also after the last "off".
 *
 * Context: any thread.
 */
void thread_pool_overdue_enable(bool enable);

#endif /* BLOCK_THREAD_POOL_OVERDUE_H */
