/*
 * Commands that need I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MONITOR_HOLD_H
#define MONITOR_HOLD_H

#include "monitor-internal.h"
#include "qapi/qmp-registry.h"

/* Declared by a feature in the QAPI schema, or a flag in hmp-commands.hx */
typedef enum HoldNeed {
    HOLD_NOT,
    HOLD_DRAIN,                 /* drain, 'd' */
    HOLD_FLUSH,                 /* drain-flush, 'f' */
} HoldNeed;

/* For drain-disk and 'k': what a command with these arguments needs. */
HoldNeed hold_by_args(const QDict *args);

/* Of a whole line of the human monitor; NULL if there is none. */
extern HoldNeed (*hold_by_line)(const char *line);

/*
 * hold_qmp_dispatch:
 *
 * As qmp_dispatch(), but for a command that needs it disks are held; or it is
 * refused.
 *
 * Context: as qmp_dispatch().  The dispatcher's coroutine waits; the main loop,
 * and out-of-band commands, go on.
 */
QDict *coroutine_mixed_fn hold_qmp_dispatch(const QmpCommandList *cmds,
                                            QObject *request, bool allow_oob,
                                            Monitor *mon);

/*
 * hold_hmp_command:
 * @mon: has been suspended for the command
 *
 * For a command that needs it, execute it while disks are held, and resume the
 * monitor; both happen later.
 *
 * Context: main loop.
 * Returns: false if it does not need to; then nothing has been done.
 */
bool hold_hmp_command(MonitorHMP *mon, const char *cmdline);

/* hmp.c */
const HMPCommand *monitor_parse_command(MonitorHMP *hmp_mon,
                                        const char *cmdp_start,
                                        const char **cmdp, HMPCommand *table);
QDict *monitor_parse_arguments(Monitor *mon, const char **endp,
                               const HMPCommand *cmd);

#endif
