/*
 * Migration and storage that hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * To stop the VM is to wait, with the big QEMU lock held, for all requests; and
 * a abandoned write that is still under way when the destination takes over the
 * image would land over what is written there.  So a migration whose turn has
 * come passes the gate first.  While the storage hangs it stays where it is,
 * with the VM running: it goes on sending what the guest changes, can be
 * cancelled, and switches over by itself when the storage is back.
 *
 * Hooks: migration.c.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "block/blk-cancel-quiesce.h"
#include "block/blk-gate.h"
#include "system/gate-vm.h"
#include "blk-gate.h"
#include "savevm.h"
#include "trace.h"

#define POLL_US     (100 * 1000)
#define PAUSE_POLLS 10

/* BQL */
static bool gate_entered;
static char *gate_why;      /* NULL: the switchover is not postponed */

bool migration_gate_may_begin(Error **errp)
{
    if (gate_vm_leaves()) {
        error_setg(errp, "QEMU is about to quit");
        return false;
    }
    return true;
}

static bool gate_is_active(MigrationState *s)
{
    return qatomic_read(&s->state) == MIGRATION_STATUS_ACTIVE;
}

static void gate_postpone(Error *err)
{
    /* Nothing if it has ended just now: then say what was in the way */
    char *why = blk_gate_describe() ?: g_strdup(error_get_pretty(err));

    if (!gate_why) {
        warn_report("migration: the switchover is postponed: %s", why);
    }
    trace_migration_switchover_postponed(why);
    g_free(gate_why);
    gate_why = why;
    error_free(err);
}

static bool gate_try(void)
{
    Error *err = NULL;

    BQL_LOCK_GUARD();
    if (!blk_gate_enter("migrate", true, &err)) {
        gate_postpone(err);
        return false;
    }
    gate_entered = true;
    return true;
}

/* The guest has changed memory while requests were waited for */
static bool gate_little_left(MigrationState *s, bool postcopy)
{
    uint64_t must_precopy, can_postcopy, left;

    qemu_savevm_state_pending_exact(&must_precopy, &can_postcopy);
    left = must_precopy + (postcopy ? 0 : can_postcopy);
    trace_migration_switchover_gate(left, s->threshold_size);
    return left <= s->threshold_size;
}

static bool gate_any(void)
{
    BQL_LOCK_GUARD();
    return blk_cancel_any();
}

static bool gate_check(void)
{
    BQL_LOCK_GUARD();
    return blk_gate_check("migrate", NULL);
}

static void gate_give_up(void)
{
    BQL_LOCK_GUARD();
    migration_gate_leave();
}

/* Wait a second, or until the storage seems to be back. */
static void gate_pause(MigrationState *s)
{
    for (unsigned int i = 0; i < PAUSE_POLLS && gate_is_active(s); i++) {
        g_usleep(POLL_US);
        if (gate_check()) {
            return;
        }
    }
}

bool migration_gate_enter(MigrationState *s, bool postcopy)
{
    if (!gate_any()) {
        return true;
    }
    if (!gate_try()) {
        gate_pause(s);
        return false;
    }
    if (gate_is_active(s) && gate_little_left(s, postcopy)) {
        return true;
    }

    gate_give_up();
    return false;
}

bool migration_gate_wait(MigrationState *s)
{
    while (gate_is_active(s)) {
        if (!gate_any() || gate_try()) {
            return true;
        }
        gate_pause(s);
    }
    return false;
}

void migration_gate_leave(void)
{
    if (gate_entered) {
        gate_entered = false;
        blk_gate_leave();
    }
    g_clear_pointer(&gate_why, g_free);
}

void migration_gate_fill_info(MigrationInfo *info)
{
    info->switchover_postponed = g_strdup(gate_why);
}
