/*
 * The VM stops, and QEMU ends, behind the gate
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
#include "qapi/qapi-commands-run-state.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "block/blk-gate.h"
#include "block/block-io.h"
#include "block/block-global-state.h"
#include "block/graph-lock.h"
#include "migration/misc.h"
#include "system/cpus.h"
#include "system/cpu-timers.h"
#include "system/gate-vm.h"
#include "system/runstate.h"

#define FLUSH_NS    (2 * NANOSECONDS_PER_SECOND)

/* Owned by the main loop, but for exit_waits: written there, under the BQL */
static struct {
    bool waits;             /* a stop of the VM, for @state */
    RunState state;
    bool cont;              /* and then it goes on */

    bool exit_waits;        /* and from then on */
    bool exits;
    bool halted;            /* vCPUs stopped, and the devices do not know yet */
    bool forced;
} vm;

/*
 * Stopping
 */

static void gate_vm_stop_cb(void *opaque)
{
    /* Somebody else may have stopped it meanwhile: a migration, the user */
    bool live = runstate_is_live(runstate_get());

    vm.waits = false;
    vm_stop(vm.state);
    if (vm.cont && live && !runstate_needs_reset()) {
        vm_start();
    }
}

void gate_vm_stop(RunState state)
{
    if (!blk_gate_is_needed()) {
        vm_stop(state);
        return;
    }
    vm.state = state;
    vm.cont = false;
    if (!vm.waits) {
        vm.waits = true;
        blk_gate_call("stop", true, gate_vm_stop_cb, NULL);
    }
}

bool gate_vm_cont(Error **errp)
{
    if (vm.exit_waits) {
        error_setg(errp, "QEMU is about to quit");
        return false;
    }
    vm.cont = vm.waits && runstate_is_live(runstate_get());
    return true;
}

/*
 * Leaving
 */

/* The first half of vm_shutdown(): it waits for no storage. */
static void gate_vm_halt(void)
{
    if (runstate_is_live(runstate_get())) {
        bool running = runstate_check(RUN_STATE_RUNNING);

        runstate_set(RUN_STATE_SHUTDOWN);
        cpu_disable_ticks();
        if (running) {
            pause_all_vcpus();
        }
        vm.halted = true;
    }
}

static void gate_vm_exit_cb(void *opaque)
{
    /* The second half; the gate stays open, because QEMU ends */
    blk_gate_vm_stops();
    if (vm.halted && runstate_check(RUN_STATE_SHUTDOWN)) {
        vm_state_notify(false, RUN_STATE_SHUTDOWN);
    }
    vm.exits = true;
    qemu_notify_event();
}

bool gate_vm_quit(void)
{
    if (!blk_gate_is_needed()) {
        return false;
    }
    qmp_quit(NULL);
    return true;
}

bool gate_vm_may_exit(void)
{
    if (!blk_gate_is_needed() || vm.exits) {
        return true;
    }
    gate_vm_halt();
    if (!vm.exit_waits) {
        vm.exit_waits = true;
        if (migration_is_running()) {
            /* Not to be completed should it be let in first */
            qmp_migrate_cancel(NULL);
        }
        blk_gate_call("quit", true, gate_vm_exit_cb, NULL);
    }
    return false;
}

bool gate_vm_leaves(void)
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

static void coroutine_fn gate_vm_flush_entry(void *opaque)
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
static void coroutine_fn gate_vm_flush(int64_t deadline)
{
    unsigned int *pending = g_new0(unsigned int, 1);
    BlockDriverState *bs;

    for (bs = bdrv_next_node(NULL); bs; bs = bdrv_next_node(bs)) {
        GateVmFlush *f = g_new(GateVmFlush, 1);

        *f = (GateVmFlush) { .bs = bs, .pending = pending };
        bdrv_ref(bs);
        qatomic_inc(pending);
        aio_co_schedule(bdrv_get_aio_context(bs),
                        qemu_coroutine_create(gate_vm_flush_entry, f));
    }
    while (qatomic_read(pending) && get_clock() < deadline) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, SCALE_MS);
    }
}

static void coroutine_fn gate_vm_force_entry(void *opaque)
{
    g_autofree char *why = blk_gate_describe();

    gate_vm_flush(get_clock() + FLUSH_NS);
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
        gate_vm_halt();
        aio_co_schedule(iohandler_get_aio_context(),
                        qemu_coroutine_create(gate_vm_force_entry, NULL));
    }
}

bool gate_vm_hmp_quit(Monitor *mon, bool force)
{
    g_autofree char *why = NULL;

    if (force) {
        qmp_x_quit_force(NULL);
        return true;
    }
    why = blk_gate_describe();
    if (!why) {
        return false;
    }
    /* The monitor goes on meanwhile */
    monitor_printf(mon, "waiting for storage that hangs: %s\n"
                   "Use \"quit -f\" to quit nevertheless; see its help.\n",
                   why);
    qmp_quit(NULL);
    return true;
}
