/*
 * Commands of the human monitor at the gate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * They are executed in the main loop, which must go on while one waits: so the
 * monitor is left suspended, as it is by "migrate", until the command is over.
 *
 * Hook: hmp.c (a line has been read).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "block/aio.h"
#include "block/blk-gate.h"
#include "monitor/hmp.h"
#include "gate-internal.h"

typedef struct GateHmp {
    MonitorHMP *mon;
    char *cmdline;
    const GatedCommand *cmd;
    Coroutine *co;
} GateHmp;

static void gate_hmp_bh(void *opaque)
{
    GateHmp *h = opaque;

    handle_hmp_command(h->mon, h->cmdline);
    aio_co_wake(h->co);
}

static void coroutine_fn gate_hmp_entry(void *opaque)
{
    GateHmp *h = opaque;
    Error *err = NULL;

    if (blk_gate_co_enter(h->cmd->name, h->cmd->flush, &err)) {
        /* Commands do not expect to be called in a coroutine */
        h->co = qemu_coroutine_self();
        aio_bh_schedule_oneshot(iohandler_get_aio_context(), gate_hmp_bh, h);
        qemu_coroutine_yield();
        blk_gate_leave();
    } else {
        monitor_printf(&h->mon->common, "Error: %s\n", error_get_pretty(err));
        error_free(err);
    }
    monitor_resume(&h->mon->common);
    g_free(h->cmdline);
    g_free(h);
}

bool gate_hmp_command(MonitorHMP *mon, const char *cmdline)
{
    const GatedCommand *cmd = NULL;
    GateHmp *h;

    if (blk_gate_is_needed()) {
        cmd = gate_find_hmp(cmdline);
    }
    if (!cmd) {
        return false;
    }
    h = g_new0(GateHmp, 1);
    h->mon = mon;
    h->cmdline = g_strdup(cmdline);
    h->cmd = cmd;
    aio_co_schedule(iohandler_get_aio_context(),
                    qemu_coroutine_create(gate_hmp_entry, h));
    return true;
}
