/*
 * The VM stops, and QEMU ends, while disks are held
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * After the main loop, when QEMU closes its images, nobody answers any more: so
 * waiting for storage that hangs must be over before.
 *
 * Hooks: runstate.c (the main loop's decisions), cpus.c (the VM starts),
 * qmp-cmds.c ("cont"), hmp-cmds.c ("quit"), watchdog.c ("poweroff"), vfio/pci.c
 * (it stops the VM), migration.c (it is too late for one).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-control.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-commands-block-hung.h"
#include "qapi/qapi-events-run-state.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/blk-hold.h"
#include "block/block-io.h"
#include "block/block-global-state.h"
#include "block/graph-lock.h"
#include "migration/misc.h"
#include "system/cpus.h"
#include "system/cpu-timers.h"
#include "system/hold-vm.h"
#include "system/runstate.h"

#define FLUSH_NS    (2 * NANOSECONDS_PER_SECOND)

/* Owned by the main loop, but for exit_waits: written there, under the BQL */
static struct {
    bool halted;            /* vCPUs stopped, and the devices do not know yet */
    bool waits;             /* to tell them, and flush */
    RunState state;         /* why */

    bool exit_waits;        /* and from then on */
    bool exits;
    bool forced;
} vm;

/*
 * Stopping
 */

/* The first half of a stop: it waits for no storage. */
static void hold_vm_halt(RunState state, bool send_stop)
{
    RunState old = runstate_get();

    /* The first reason counts */
    if (!runstate_is_live(old)) {
        return;
    }
    vm.state = state;
    vm.halted = true;
    vm_set_suspended(old == RUN_STATE_SUSPENDED);
    runstate_set(state);
    cpu_disable_ticks();
    if (old == RUN_STATE_RUNNING) {
        pause_all_vcpus();
    }
    if (send_stop) {
        qapi_event_send_stop();
    }
}

void hold_vm_tell_devices(void)
{
    if (vm.halted) {
        vm.halted = false;
        blk_hold_vm_stops();
        vm_state_notify(false, runstate_get());
    }
}

static void hold_vm_stop_cb(void *opaque)
{
    vm.waits = false;
    if (!runstate_is_live(runstate_get())) {
        vm_stop(runstate_get());
    } else {
        /* It goes on already: the devices begin again what has failed */
        vm_stop(vm.state);
        if (!runstate_needs_reset()) {
            vm_start();
        }
    }
}

void hold_vm_stop(RunState state)
{
    if (!blk_cancel_any()) {
        vm_stop(state);
        return;
    }
    hold_vm_halt(state, true);
    if (!vm.waits) {
        vm.waits = true;
        blk_hold_call("stop", BLK_HOLD_FLUSH, hold_vm_stop_cb, NULL);
    }
}

bool hold_vm_start(void)
{
    bool suspended = vm_get_suspended();

    if (vm.exit_waits) {
        return true;
    }
    if (!vm.halted) {
        return false;
    }
    vm.halted = false;
    vm_set_suspended(false);
    runstate_set(suspended ? RUN_STATE_SUSPENDED : RUN_STATE_RUNNING);
    qapi_event_send_resume();
    cpu_enable_ticks();
    if (!suspended) {
        resume_all_vcpus();
    }
    return true;
}

bool hold_vm_cont(Error **errp)
{
    if (vm.exit_waits) {
        error_setg(errp, "QEMU is about to quit");
    }
    return !vm.exit_waits;
}

/*
 * Leaving
 */

static void hold_vm_exit_cb(void *opaque)
{
    /* Nothing is held any more, because QEMU ends */
    hold_vm_tell_devices();
    blk_hold_vm_stops();
    vm.exits = true;
    qemu_notify_event();
}

bool hold_vm_quit(void)
{
    if (!blk_cancel_any()) {
        return false;
    }
    qmp_quit(NULL);
    return true;
}

bool hold_vm_may_exit(void)
{
    if (!blk_cancel_any() || vm.exits) {
        return true;
    }
    hold_vm_halt(RUN_STATE_SHUTDOWN, false);
    if (!vm.exit_waits) {
        vm.exit_waits = true;
        if (migration_is_running()) {
            /* Not to be completed should it be let in first */
            qmp_migrate_cancel(NULL);
        }
        blk_hold_call("quit", BLK_HOLD_FLUSH | BLK_HOLD_ASK | BLK_HOLD_SURE,
                      hold_vm_exit_cb, NULL);
    }
    return false;
}

bool hold_vm_leaves(void)
{
    return vm.exit_waits;
}

/*
 * Leaving by force
 */

typedef struct GateVmFlush {
    BlockDriverState *bs;
    unsigned int *pending;      /* atomic */
} GateVmFlush;

static void coroutine_fn hold_vm_flush_entry(void *opaque)
{
    GateVmFlush *f = opaque;

    WITH_GRAPH_RDLOCK_GUARD() {
        bdrv_co_flush(f->bs);
    }
    qatomic_dec(f->pending);
    g_free(f);
}

/*
 * Flush what can be flushed.  Nothing is freed, because what hangs still uses
 * it: the process ends.
 */
static void coroutine_fn hold_vm_flush(int64_t deadline)
{
    unsigned int *pending = g_new0(unsigned int, 1);
    BlockDriverState *bs;

    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        GateVmFlush *f = g_new(GateVmFlush, 1);

        *f = (GateVmFlush) { .bs = bs, .pending = pending };
        bdrv_ref(bs);
        qatomic_inc(pending);
        aio_co_schedule(bdrv_get_aio_context(bs),
                        qemu_coroutine_create(hold_vm_flush_entry, f));
    }
    while (qatomic_read(pending) && get_clock() < deadline) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, SCALE_MS);
    }
}

static void coroutine_fn hold_vm_force_entry(void *opaque)
{
    g_autofree char *why = blk_hold_describe();

    hold_vm_flush(get_clock() + FLUSH_NS);
    error_report("quitting by force, images not closed%s%s",
                 why ? "; a write that is still under way may land at any time:"
                 " " : "", why ?: "");
    /* What would run at exit() waits for threads that hang */
    _exit(EXIT_FAILURE);
}

void qmp_x_quit_force(Error **errp)
{
    if (!vm.forced) {
        vm.forced = true;
        hold_vm_halt(RUN_STATE_SHUTDOWN, false);
        aio_co_schedule(iohandler_get_aio_context(),
                        qemu_coroutine_create(hold_vm_force_entry, NULL));
    }
}

bool hold_vm_hmp_quit(Monitor *mon, bool force)
{
    g_autofree char *why = NULL;

    if (force) {
        qmp_x_quit_force(NULL);
        return true;
    }
    if (!blk_cancel_any()) {
        return false;
    }
    /* The monitor goes on meanwhile */
    if (!blk_hold_is_idle()) {
        why = blk_hold_describe();
        monitor_printf(mon, "waiting for the storage%s%s\n"
                       "Use \"quit -f\" to quit nevertheless; see its help.\n",
                       why ? ": " : "", why ?: "");
    }
    qmp_quit(NULL);
    return true;
}
