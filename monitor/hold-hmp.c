/*
 * Commands of the human monitor that need I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * They are executed in the main loop, which must go on while one waits: so the
 * monitor is left suspended, as it is by "migrate", until the command is over.
 *
 * Hook: hmp.c (a line has been read; what it says).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qobject/qdict.h"
#include "qobject/qstring.h"
#include "block/aio.h"
#include "monitor/hmp.h"
#include "hold.h"

/* The QMP command of the same name: "eject", "block_stream|..." */
static const QmpCommand *hold_hmp_find_qmp(const HMPCommand *cmd)
{
    g_autofree char *name = g_strndup(cmd->name, strcspn(cmd->name, "|"));
    const QmpCommand *qmp = qmp_find_command(&qmp_commands, name);

    return qmp ?: qmp_find_command(&qmp_commands, g_strdelimit(name, "_", '-'));
}

static unsigned int hold_hmp_line(const char *line)
{
    g_autoptr(QDict) args = NULL;
    MonitorHMP quiet = {};      /* what is wrong is said when it is executed */
    const HMPCommand *cmd;
    const QmpCommand *qmp;
    unsigned int need = 0;

    monitor_data_init(&quiet.common, false, true, false);
    cmd = monitor_parse_command(&quiet, line, &line, hmp_cmds);
    qmp = cmd ? hold_hmp_find_qmp(cmd) : NULL;
    if (qmp && qmp->features) {
        args = monitor_parse_arguments(&quiet.common, &line, cmd);
        need = hold_by_features(qmp, args);
    } else if (cmd && cmd->flags) {
        need = strchr(cmd->flags, 'f') ? HOLD_FLUSH :
               strchr(cmd->flags, 'd') ? HOLD_DRAIN : 0;
    }
    monitor_data_destroy(&quiet.common);
    return need;
}

static void hold_hmp_register(void)
{
    hold_by_line = hold_hmp_line;
}

block_init(hold_hmp_register);

typedef struct HoldHmp {
    MonitorHMP *mon;
    char *cmdline;
    unsigned int need;
    Coroutine *co;
} HoldHmp;

static void hold_hmp_bh(void *opaque)
{
    HoldHmp *h = opaque;

    handle_hmp_command(h->mon, h->cmdline);
    aio_co_wake(h->co);
}

static void coroutine_fn hold_hmp_entry(void *opaque)
{
    HoldHmp *h = opaque;
    g_autofree char *name = g_strndup(h->cmdline, strcspn(h->cmdline, " "));
    g_autoptr(QString) line = qstring_from_str(h->cmdline);
    Error *err = NULL;

    hold_co_ask_names(QOBJECT(line));
    if (blk_hold_co_begin(name, h->need, &err)) {
        /* Commands do not expect to be called in a coroutine */
        h->co = qemu_coroutine_self();
        aio_bh_schedule_oneshot(iohandler_get_aio_context(), hold_hmp_bh, h);
        qemu_coroutine_yield();
        blk_hold_end(false);
    } else {
        monitor_printf(&h->mon->common, "Error: %s\n", error_get_pretty(err));
        error_free(err);
    }
    monitor_resume(&h->mon->common);
    g_free(h->cmdline);
    g_free(h);
}

bool hold_hmp_command(MonitorHMP *mon, const char *cmdline)
{
    unsigned int need = blk_cancel_any() ? hold_hmp_line(cmdline) : 0;
    HoldHmp *h;

    if (!need) {
        return false;
    }
    h = g_new0(HoldHmp, 1);
    h->mon = mon;
    h->cmdline = g_strdup(cmdline);
    h->need = need;
    aio_co_schedule(iohandler_get_aio_context(),
                    qemu_coroutine_create(hold_hmp_entry, h));
    return true;
}
