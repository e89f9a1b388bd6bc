/*
 * Holding disks, so that a command that needs I/O to be over has none to wait
 * for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whatever drains a disk or changes the block graph waits, with the big QEMU
 * lock held, for all requests of all disks.  If one of them hangs, vCPUs and
 * monitor stand still.  So who needs that holds the disks first: new requests
 * of BlockBackends with cancelling on wait, those with the storage go on
 * ending, and vCPUs and monitors run.  Then there is nothing left to wait for;
 * or, if the storage hangs, the command is refused, and nothing has happened.
 *
 * Without such a BlockBackend all this is one test.
 */

#ifndef BLOCK_BLK_HOLD_H
#define BLOCK_BLK_HOLD_H

#include "qemu/coroutine.h"
#include "qemu/job.h"
#include "qemu/notify.h"
#include "block/blk-cancel-hold.h"

#define BLK_HOLD_DEFAULT_TIMEOUT_MS 20000

/*
 * How long a command may wait for disks to be idle, in ms.  A fourth of this
 * without any progress, and the storage is said to hang; healthy disks are held
 * for half of it.  The machine's property hold-timeout.  BQL.
 */
extern uint32_t blk_hold_timeout_ms;

/* What a command that has nothing to wait for does then */
typedef enum BlkHoldFlags {
    BLK_HOLD_FLUSH = 1,         /* it flushes disks: have it done */
    BLK_HOLD_ASK = 2,           /* it changes the graph, and with it locks */
    BLK_HOLD_SURE = 4,          /* it cannot go on if one does not answer */
} BlkHoldFlags;

/*
 * blk_hold_check:
 * @what: the command, for the error
 *
 * Whether nothing hangs now, as far as can be told at once: nothing that was
 * found to hang is there still, and nothing is abandoned or has been with the
 * storage for long.
 *
 * Context: BQL held.
 * Returns: false with @errp set, which names the node that does not answer, the
 * disk, the number of its requests and the age of the oldest.
 */
bool blk_hold_check(const char *what, Error **errp);

/*
 * blk_hold_co_begin:
 * @what: the command, for the error
 *
 * Wait until no BlockBackend with cancelling on has a request in flight, for
 * blk_hold_timeout_ms at most: first for those that seem to hang, which are
 * held alone; then for all.  What is held lets new requests wait until
 * blk_hold_end(); they do not count as in flight, and can be cancelled.  With
 * BLK_HOLD_FLUSH each of the BlockBackends is flushed as well, which leaves the
 * command's own flush nothing to do.  With BLK_HOLD_ASK those that are idle are
 * asked before whether they answer: whoever changes the permissions of one that
 * does not has no need to wait, and gets an error.
 *
 * vCPUs, guest and monitors go on meanwhile, and after a failure everything is
 * as before.  A flush that hangs is abandoned.  What has been found to hang is
 * known from then on: as long as it is there this fails at once, and holds
 * nothing.
 *
 * The disks are let go by themselves three seconds after this has returned, so
 * that nobody waits for long who needs a request that waits, and when the VM
 * stops: what waits then is taken back by its device, or finished by its drain.
 *
 * Context: main loop, in a coroutine that nested event loops do not enter, or
 * that they may delay.
 * Returns: true, to be paired with blk_hold_end(); or false with @errp set.
 */
bool coroutine_fn blk_hold_co_begin(const char *what, unsigned int flags,
                                    Error **errp);

/*
 * blk_hold_co_try:
 *
 * As blk_hold_co_begin().
 *
 * Returns: NULL, or what stands in the way, to be freed: nothing is held then.
 */
char *coroutine_fn blk_hold_co_try(unsigned int flags);

/*
 * blk_hold_co_run:
 *
 * Call @fn outside the caller's coroutine, in its AioContext, and wait until it
 * has returned.
 */
void coroutine_fn blk_hold_co_run(void (*fn)(void *opaque), void *opaque);

/*
 * blk_hold_begin:
 *
 * As blk_hold_co_begin(), for another thread than the main loop's.
 *
 * Context: BQL held; it is released while this waits.
 */
bool blk_hold_begin(const char *what, unsigned int flags, Error **errp);

/*
 * blk_hold_co_ask_file:
 *
 * Somebody may be about to open @filename: have it found out whether that
 * would hang.  If so it fails at once.
 *
 * Context: a coroutine in the main loop, BQL held.
 */
void coroutine_fn blk_hold_co_ask_file(const char *filename);

/*
 * blk_hold_end:
 * @failed: what was done has failed, and somebody has been told why
 *
 * Let the disks go, unless somebody else holds them.  If a flush that
 * blk_hold_co_begin() did has ended in an error, and nobody has been told, the
 * next one fails with it: the guest's, or another command's.
 *
 * Context: BQL held.
 */
void blk_hold_end(bool failed);

/*
 * blk_hold_allows:
 *
 * For what can neither wait nor return a message, and is called with disks held
 * or not: say so if it would wait for storage that hangs.
 *
 * Context: BQL held.
 */
bool blk_hold_allows(const char *what);

/* Whether somebody is between begin and end.  BQL held. */
bool blk_hold_is_on(void);

/*
 * blk_hold_call:
 * @what: for messages
 * @flags: as for blk_hold_co_begin()
 * @cb: called once, between begin and end, outside any coroutine and any
 * nested event loop
 *
 * Call @cb as soon as nothing hangs, however long that takes.  A warning and an
 * event say what this waits for, at once and then every 30 seconds.
 *
 * Context: main loop.  If there is no BlockBackend with cancelling on @cb runs
 * before this returns.
 */
void blk_hold_call(const char *what, unsigned int flags,
                   void (*cb)(void *opaque), void *opaque);

/*
 * blk_hold_schedule:
 *
 * As blk_hold_call(), but always later, and also in a nested event loop of the
 * main loop: for what somebody may wait for with aio_poll().
 *
 * Context: any thread.
 */
void blk_hold_schedule(const char *what, void (*cb)(void *opaque),
                       void *opaque);

/*
 * blk_hold_describe:
 *
 * Returns: which disk hangs, as in the errors, or NULL; to be freed.
 *
 * Context: BQL held.
 */
char *blk_hold_describe(void);

/*
 * blk_hold_add_stop_notifier:
 *
 * Have @notifier called when the VM is about to stop, vCPUs standing still,
 * with disks held: a device may take back what waits, and ask again when the VM
 * goes on.  Removed by notifier_remove().
 *
 * Context: BQL held.
 */
void blk_hold_add_stop_notifier(Notifier *notifier);

/*
 * blk_hold_vm_stops:
 *
 * The VM is about to stop: let go on what waits because its disk is held, and
 * was not taken back; the devices wait for it next, and do not expect it later.
 * Nothing is held until blk_hold_vm_stopped().
 *
 * Context: BQL held.
 */
void blk_hold_vm_stops(void);

/* The devices have got all their requests back.  Context: BQL held. */
void blk_hold_vm_stopped(void);

/*
 * blk_hold_co_job_ends:
 *
 * @job has done its work.  Sleep until disks are held for it, unless it is
 * cancelled, or something drains its nodes just now.  Without a BlockBackend
 * with cancelling on this does nothing.
 *
 * Context: @job's coroutine, in any thread.
 */
void coroutine_fn blk_hold_co_job_ends(Job *job);

/*
 * blk_hold_co_job_drains:
 * @slept_ns: 0 at first; the caller keeps it
 *
 * @job is about to drain nodes.  The same as blk_hold_co_job_ends(), but not
 * if that was less than a second ago: a caller that finds more to do after
 * the sleep, and comes here again, comes to an end.
 *
 * Returns: whether it has slept, and the caller has to look at everything anew.
 */
bool coroutine_fn blk_hold_co_job_drains(Job *job, int64_t *slept_ns);

/*
 * blk_hold_end_job:
 * @job_exit: takes @job; runs in the main loop
 *
 * Call @job_exit while disks are held, if it changes the block graph.
 *
 * Context: any thread.
 */
void blk_hold_end_job(Job *job, QEMUBHFunc *job_exit);

/*
 * blk_hold_cancel_job_locked:
 *
 * The user cancels @job.  One that runs is only told to end, which may be what
 * ends a hang: so that is never refused, and never waits.  One that has done
 * its work, or not begun, would change the block graph at once: it is cancelled
 * later, while disks are held.
 *
 * Context: main loop, with the job lock held.
 * Returns: whether it is cancelled later; otherwise nothing has been done.
 */
bool blk_hold_cancel_job_locked(Job *job, bool force);

/* Whether a drained section, or a graph change, has nothing to wait for now. */
bool blk_hold_is_idle(void);

#endif /* BLOCK_BLK_HOLD_H */
