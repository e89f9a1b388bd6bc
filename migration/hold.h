/*
 * Migration and storage that hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hooks: migration.c (begin, switchover, query-migrate, the end).
 */

#ifndef MIGRATION_HOLD_H
#define MIGRATION_HOLD_H

#include "migration.h"
#include "block/blk-hold.h"

/*
 * migration_hold_may_begin:
 *
 * Whether a migration makes sense: not when QEMU is about to end.
 *
 * Context: BQL held.
 * Returns: true, or false with @errp set.
 */
bool migration_hold_may_begin(Error **errp);

/*
 * migration_hold_enter:
 * @postcopy: what can be sent after the switchover does not count
 *
 * The VM could be stopped now.  Hold the disks (block/blk-hold.h), so that it
 * has no storage to wait for, and look again whether little is left to send.
 *
 * If the storage hangs this says so, in a warning and in query-migrate, and
 * waits for a second unless that changes; the migration goes on then, and tries
 * again.
 *
 * Context: migration thread, BQL not held.
 * Returns: true if the VM is to be stopped by migration_stop_vm(), which lets
 * them go; false if the switchover is postponed.
 */
bool migration_hold_enter(MigrationState *s, bool postcopy);

/*
 * migration_hold_wait:
 *
 * The same for a background snapshot, which stops the VM first: try until
 * the disks are held.
 *
 * Returns: false if the migration has ended instead.
 */
bool migration_hold_wait(MigrationState *s);

/*
 * migration_hold_leave:
 * @failed: the VM could not be stopped, which fails the migration
 *
 * The VM has been stopped, or the migration has ended in whatever way: let
 * the disks go if they were held.
 *
 * Context: BQL held.
 */
void migration_hold_leave(bool failed);

/* For query-migrate.  BQL held. */
void migration_hold_fill_info(MigrationInfo *info);

/* migration.c: bandwidth and rates are measured from now on */
void update_iteration_initial_status(MigrationState *s);

#endif /* MIGRATION_HOLD_H */
