/*
 * The VM stops, and QEMU ends, behind the gate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A command can be refused while storage hangs; a guest that panics, a signal
 * and "quit" cannot.  They wait in the main loop until nothing hangs, with the
 * monitors alive.
 */

#ifndef SYSTEM_GATE_VM_H
#define SYSTEM_GATE_VM_H

#include "monitor/monitor.h"
#include "qapi/qapi-types-run-state.h"

/*
 * gate_vm_stop:
 *
 * As vm_stop(), for a reason inside QEMU or the guest: an I/O error, the
 * watchdog, a panic, a debugger.  While storage hangs the VM runs on, and stops
 * as soon as it can; the last reason given until then counts.
 *
 * Context: main loop.  Without cancelling the VM has stopped on return.
 */
void gate_vm_stop(RunState state);

/*
 * gate_vm_cont:
 *
 * The user wants the VM to run: when a stop that waits has come about, it goes
 * on at once.
 *
 * Context: main loop.
 * Returns: false with @errp set if QEMU is about to end.
 */
bool gate_vm_cont(Error **errp);

/*
 * gate_vm_quit:
 *
 * Let QEMU end as "quit" does, for who would have called exit().
 *
 * Context: BQL held.
 * Returns: false if that is as good, because there is nothing to wait for.
 */
bool gate_vm_quit(void);

/*
 * gate_vm_may_exit:
 *
 * Whether QEMU may leave its main loop, as it has been asked to.  While storage
 * hangs it may not: a write that is still under way would land after the
 * image's lock is gone, over what the next owner has written.  The vCPUs are
 * stopped at once, and a migration is cancelled.
 *
 * Context: main loop.
 */
bool gate_vm_may_exit(void);

/*
 * gate_vm_leaves:
 *
 * Whether it was not allowed to when it was asked.  From then on the VM does
 * not run any more, and the main loop does nothing else but wait.
 *
 * Context: BQL held.
 */
bool gate_vm_leaves(void);

/*
 * gate_vm_hmp_quit:
 *
 * The human monitor's part of "quit" that is not in stock QEMU.
 *
 * Returns: whether that was all.
 */
bool gate_vm_hmp_quit(Monitor *mon, bool force);

#endif /* SYSTEM_GATE_VM_H */
