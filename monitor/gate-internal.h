/*
 * Monitors and the gate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MONITOR_GATE_INTERNAL_H
#define MONITOR_GATE_INTERNAL_H

#include "monitor-internal.h"
#include "qapi/qmp-registry.h"

/* A command that passes the gate */
typedef struct GatedCommand {
    const char *name;           /* or of the property that it sets */
    bool flush;                 /* it flushes a disk, or writes to an image */
} GatedCommand;

/*
 * gate_find_qmp, gate_find_hmp:
 *
 * Returns: what is known of the command, or NULL if it does not pass the gate.
 * For the human monitor a whole line is looked at.
 */
const GatedCommand *gate_find_qmp(const char *name, const QDict *args);
const GatedCommand *gate_find_hmp(const char *cmdline);

/*
 * gate_qmp_dispatch:
 *
 * As qmp_dispatch(), but commands that need it pass the gate first; with the
 * gate's error if they are refused.
 *
 * Context: as qmp_dispatch().  The dispatcher's coroutine waits at the gate, a
 * second at most; the main loop, and out-of-band commands, go on.
 */
QDict *coroutine_mixed_fn gate_qmp_dispatch(const QmpCommandList *cmds,
                                            QObject *request, bool allow_oob,
                                            Monitor *mon);

/*
 * gate_hmp_command:
 * @mon: has been suspended for the command
 *
 * Let a command that needs it pass the gate, and then execute it and resume the
 * monitor; both happen later.
 *
 * Context: main loop.
 * Returns: false if it does not need to; then nothing has been done.
 */
bool gate_hmp_command(MonitorHMP *mon, const char *cmdline);

#endif
