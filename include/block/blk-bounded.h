/*
 * Blocking calls of a library, made with the BQL held, that need not return
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What opens and closes a connection to a server waits for the server.  While
 * cancelling is on for any disk of this QEMU, and afterwards, a thread does it,
 * and it is not waited for for long; or the library's own time-out is set.
 *
 * Hooks: rbd.c, ssh.c, and those who use the time-out: iscsi.c, nbd.c, nfs.c.
 */

#ifndef BLOCK_BLK_BOUNDED_H
#define BLOCK_BLK_BOUNDED_H

#include "block/thread-pool-overdue.h"

/* For what makes a command fail: a server that is slow is to answer in time. */
#define BLK_BOUNDED_ASK_MS      2000
/* For what is done in any case */
#define BLK_BOUNDED_CLOSE_MS    1000

/*
 * blk_bounded_is_on: Whether cancelling is, or has been, on for any disk.
 * Context: any thread.
 */
bool blk_bounded_is_on(void);

/* From now on it is.  Context: BQL held. */
void blk_bounded_switch_on(void);

/* Returns: @ms, or 0: wait for ever.  Context: any thread. */
static inline int blk_bounded_ms(int ms)
{
    return blk_bounded_is_on() ? ms : 0;
}

/*
 * blk_bounded_call:
 * @func: what may block; it must not need the BQL
 * @late: what ends @opaque when nobody waits for it any more; gets what @func
 * has returned; runs in its thread
 * @ms: the patience
 *
 * Call @func in a thread, if blk_bounded_is_on(), and wait for it for @ms.
 * Otherwise, or if the host allows no further thread, call it here, for as long
 * as it takes.
 *
 * Context: BQL held.
 * Returns: what @func has returned, and @opaque is the caller's still; or
 * -ETIMEDOUT with *@expired set: then @opaque is the thread's.
 */
int blk_bounded_call(int (*func)(void *opaque),
                     void (*late)(void *opaque, int ret), void *opaque, int ms,
                     bool *expired);

#endif /* BLOCK_BLK_BOUNDED_H */
