/*
 * Migration and storage that hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * To stop the VM is to wait, with the big QEMU lock held, for all requests; and
 * an abandoned write that is still under way when the destination takes over
 * the image would land over what is written there.  So a migration whose turn
 * has come holds the disks first.  While the storage hangs it stays where it
 * is, with the VM running: it goes on sending what the guest changes, can be
 * cancelled, and switches over by itself when the storage is back.
 *
 * Hooks: migration.c.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "block/blk-cancel-hold.h"
#include "block/blk-hold.h"
#include "system/hold-vm.h"
#include "hold.h"
#include "savevm.h"
#include "trace/trace-block_cancel.h"

#define POLL_US     (100 * 1000)
#define PAUSE_POLLS 10

/* BQL */
static bool hold_is_on;
static char *hold_why;      /* NULL: the switchover is not postponed */

bool migration_hold_may_begin(Error **errp)
{
    if (hold_vm_leaves()) {
        error_setg(errp, "QEMU is about to quit");
        return false;
    }
    return true;
}

static bool hold_is_active(MigrationState *s)
{
    return qatomic_read(&s->state) == MIGRATION_STATUS_ACTIVE;
}

static void hold_postpone(Error *err)
{
    /* Nothing if it has ended just now: then say what was in the way */
    char *why = blk_hold_describe() ?: g_strdup(error_get_pretty(err));

    if (!hold_why) {
        warn_report("migration: the switchover is postponed: %s", why);
    }
    trace_migration_switchover_postponed(why);
    g_free(hold_why);
    hold_why = why;
    error_free(err);
}

/* @leaves: the images are handed over, and their locks */
static bool hold_try(bool leaves)
{
    unsigned int flags = BLK_HOLD_FLUSH |
                         (leaves ? BLK_HOLD_ASK | BLK_HOLD_SURE : 0);
    Error *err = NULL;

    BQL_LOCK_GUARD();
    if (!blk_hold_begin("migrate", flags, &err)) {
        hold_postpone(err);
        return false;
    }
    hold_is_on = true;
    return true;
}

/* The guest has changed memory while requests were waited for */
static bool hold_little_left(MigrationState *s, bool postcopy)
{
    uint64_t must_precopy, can_postcopy, left;

    qemu_savevm_state_pending_exact(&must_precopy, &can_postcopy);
    left = must_precopy + (postcopy ? 0 : can_postcopy);
    trace_migration_switchover_hold(left, s->threshold_size);
    return left <= s->threshold_size;
}

static bool hold_check(void)
{
    BQL_LOCK_GUARD();
    return blk_hold_check("migrate", NULL);
}

static void hold_give_up(void)
{
    BQL_LOCK_GUARD();
    migration_hold_leave(false);
}

/* Wait a second, or until the storage seems to be back. */
static void hold_pause(MigrationState *s)
{
    for (unsigned int i = 0; i < PAUSE_POLLS && hold_is_active(s); i++) {
        g_usleep(POLL_US);
        if (hold_check()) {
            break;
        }
    }
    /* It says nothing about the bandwidth */
    update_iteration_initial_status(s);
}

bool migration_hold_enter(MigrationState *s, bool postcopy)
{
    if (!blk_cancel_any()) {
        return true;
    }
    if (!hold_try(true)) {
        hold_pause(s);
        return false;
    }
    if (hold_is_active(s) && hold_little_left(s, postcopy)) {
        return true;
    }

    hold_give_up();
    update_iteration_initial_status(s);
    return false;
}

bool migration_hold_wait(MigrationState *s)
{
    while (hold_is_active(s)) {
        if (!blk_cancel_any() || hold_try(false)) {
            return true;
        }
        hold_pause(s);
    }
    return false;
}

void migration_hold_leave(bool failed)
{
    if (hold_is_on) {
        hold_is_on = false;
        blk_hold_end(failed);
    }
    g_clear_pointer(&hold_why, g_free);
}

void migration_hold_fill_info(MigrationInfo *info)
{
    info->switchover_postponed = g_strdup(hold_why);
}
