/*
 * The gate: what must not meet storage that hangs passes here first
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whatever drains a disk or changes the block graph waits, with the big QEMU
 * lock held, for all requests of all disks.  If one of them hangs, vCPUs and
 * monitor stand still.  So a command passes the gate before it begins: the gate
 * knows which requests of BlockBackends with cancelling on hang or are
 * abandoned, and either refuses the command or sees to it that there is nothing
 * left to wait for.
 *
 * Without such a BlockBackend the gate is one test, and always open.
 */

#ifndef BLOCK_BLK_GATE_H
#define BLOCK_BLK_GATE_H

#include "qemu/coroutine.h"
#include "qemu/job.h"

/*
 * blk_gate_check:
 * @what: the command, for the error
 *
 * Whether nothing hangs now, as far as can be told at once: no request is
 * abandoned, and none has been with the storage for a second or more.
 *
 * Context: BQL held.
 * Returns: false with @errp set, which names the disk, the number of its
 * requests and the age of the oldest.
 */
bool blk_gate_check(const char *what, Error **errp);

/*
 * blk_gate_co_enter:
 * @what: the command, for the error
 * @flush: whether the command will flush disks
 *
 * Close the gate and wait, a second at most, until no BlockBackend with
 * cancelling on has a request in flight.  New requests wait at the gate until
 * blk_gate_leave(); they do not count as in flight, and can be cancelled.
 * With @flush each of the BlockBackends is flushed as well, which leaves the
 * command's own flush nothing to do.
 *
 * vCPUs, guest and monitors go on meanwhile, and after a failure everything is
 * as before.  A flush that hangs is abandoned.
 *
 * The gate opens by itself three seconds after it was last entered, so that
 * nobody waits for long who needs a request that waits there, and when the VM
 * stops: what waits there then is finished by the devices' own drain.
 *
 * Context: main loop, in a coroutine that nested event loops do not enter, or
 * that they may delay.
 * Returns: true, to be paired with blk_gate_leave(); or false with @errp set.
 */
bool coroutine_fn blk_gate_co_enter(const char *what, bool flush, Error **errp);

/*
 * blk_gate_enter:
 *
 * As blk_gate_co_enter(), for another thread than the main loop's.
 *
 * Context: BQL held; it is released while this waits.
 */
bool blk_gate_enter(const char *what, bool flush, Error **errp);

/* Open the gate again, unless somebody else has entered it. BQL held. */
void blk_gate_leave(void);

/*
 * blk_gate_allows:
 *
 * For what can neither wait nor return a message, and is called with the gate
 * entered or not: say so if it would wait for storage that hangs.
 *
 * Context: BQL held.
 */
bool blk_gate_allows(const char *what);

/* Whether somebody is between enter and leave.  BQL held. */
bool blk_gate_is_entered(void);

/*
 * blk_gate_is_needed:
 *
 * Whether there is a BlockBackend with cancelling on.  BQL held.
 */
bool blk_gate_is_needed(void);

/*
 * blk_gate_call:
 * @what: for messages
 * @flush: as for blk_gate_co_enter()
 * @cb: called once, between enter and leave, outside any coroutine and any
 * nested event loop
 *
 * Call @cb as soon as nothing hangs, however long that takes.  A warning and an
 * event say what this waits for, at once and then every 30 seconds.
 *
 * Context: main loop.  If there is no BlockBackend with cancelling on @cb runs
 * before this returns.
 */
void blk_gate_call(const char *what, bool flush, void (*cb)(void *opaque),
                   void *opaque);

/*
 * blk_gate_schedule:
 *
 * As blk_gate_call(), but always later, and also in a nested event loop of the
 * main loop: for what somebody may wait for with aio_poll().
 *
 * Context: any thread.
 */
void blk_gate_schedule(const char *what, void (*cb)(void *opaque),
                       void *opaque);

/*
 * blk_gate_describe:
 *
 * Returns: which disk hangs, as in the errors, or NULL; to be freed.
 *
 * Context: BQL held.
 */
char *blk_gate_describe(void);

/*
 * blk_gate_vm_stops:
 *
 * The VM is about to stop: let go on what waits at the gate, because the
 * devices wait for it next, and do not expect it later.  The gate stays open
 * until blk_gate_vm_stopped().
 *
 * Context: BQL held.
 */
void blk_gate_vm_stops(void);

/* The devices have got all their requests back.  Context: BQL held. */
void blk_gate_vm_stopped(void);

/*
 * blk_gate_co_before_end:
 *
 * @job has done its work.  Sleep until the gate lets it in, unless it is
 * cancelled, or something drains its nodes just now.  Without a BlockBackend
 * with cancelling on this does nothing.
 *
 * Context: @job's coroutine, in any thread.
 */
void coroutine_fn blk_gate_co_before_end(Job *job);

/*
 * blk_gate_co_before_drain:
 * @slept_ns: 0 at first; the caller keeps it
 *
 * @job is about to drain nodes.  The same as blk_gate_co_before_end(), but not
 * if that was less than a second ago: a caller that finds more to do after
 * the sleep, and comes here again, comes to an end.
 *
 * Returns: whether it has slept, and the caller has to look at everything anew.
 */
bool coroutine_fn blk_gate_co_before_drain(Job *job, int64_t *slept_ns);

/*
 * blk_gate_end_job:
 * @job_exit: takes @job; runs in the main loop
 *
 * Call @job_exit once the gate lets it in, if it changes the block graph.
 *
 * Context: any thread.
 */
void blk_gate_end_job(Job *job, QEMUBHFunc *job_exit);

/*
 * blk_gate_cancel_job_locked:
 *
 * The user cancels @job.  One that runs is only told to end, which may be what
 * ends a hang: so that is never refused, and never waits.  One that has done
 * its work, or not begun, would change the block graph at once: it is cancelled
 * later, when the gate lets it in.
 *
 * Context: main loop, with the job lock held.
 * Returns: whether it is cancelled later; otherwise nothing has been done.
 */
bool blk_gate_cancel_job_locked(Job *job, bool force);

/* Whether a drained section, or a graph change, has nothing to wait for now. */
bool blk_gate_is_idle(void);

#endif /* BLOCK_BLK_GATE_H */
