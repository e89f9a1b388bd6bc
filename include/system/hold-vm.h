/*
 * The VM stops, and QEMU ends, while disks are held
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A command can be refused while storage hangs; a guest that panics, a signal
 * and "quit" cannot.  They wait in the main loop until nothing hangs, with the
 * monitors alive.
 */

#ifndef SYSTEM_HOLD_VM_H
#define SYSTEM_HOLD_VM_H

#include "block/blk-hold.h"
#include "monitor/monitor.h"
#include "qapi/qapi-types-run-state.h"

/*
 * hold_vm_stop:
 *
 * As vm_stop(), for a reason inside QEMU or the guest: an I/O error, the
 * watchdog, a panic, a debugger.  The vCPUs stand still at once; what needs the
 * storage, to tell the devices and to flush, comes as soon as it can.  The
 * first reason given until then counts.
 *
 * Context: main loop.  Without cancelling the VM has stopped on return.
 */
void hold_vm_stop(RunState state);

/*
 * hold_vm_tell_devices:
 *
 * If the vCPUs stand still and the devices do not know, tell them now, and let
 * go what is held for them.  To be followed by blk_hold_vm_stopped().
 *
 * Context: main loop.
 */
void hold_vm_tell_devices(void);

/*
 * hold_vm_start:
 *
 * The VM is to run.  If the devices do not know yet that it has stopped the
 * vCPUs go on at once; then, when the storage answers, the devices stop and go
 * on, which is when they begin again what has failed.
 *
 * Context: main loop.
 * Returns: whether that was all, or QEMU is about to end.
 */
bool hold_vm_start(void);

/* Context: main loop.  Returns: false with @errp set if QEMU is to end. */
bool hold_vm_cont(Error **errp);

/*
 * hold_vm_quit:
 *
 * Let QEMU end as "quit" does, for who would have called exit().
 *
 * Context: BQL held.
 * Returns: false if that is as good, because there is nothing to wait for.
 */
bool hold_vm_quit(void);

/*
 * hold_vm_may_exit:
 *
 * Whether QEMU may leave its main loop, as it has been asked to.  While storage
 * hangs it may not: a write that is still under way would land after the
 * image's lock is gone, over what the next owner has written.  The vCPUs are
 * stopped at once, and a migration is cancelled.
 *
 * Context: main loop.
 */
bool hold_vm_may_exit(void);

/*
 * hold_vm_leaves:
 *
 * Whether it was not allowed to when it was asked.  From then on the VM does
 * not run any more, and the main loop does nothing else but wait.
 *
 * Context: BQL held.
 */
bool hold_vm_leaves(void);

/*
 * hold_vm_hmp_quit:
 *
 * The human monitor's part of "quit" that is not in stock QEMU.
 *
 * Returns: whether that was all.
 */
bool hold_vm_hmp_quit(Monitor *mon, bool force);

#endif /* SYSTEM_HOLD_VM_H */
