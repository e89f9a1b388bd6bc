/*
 * Commands that need I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MONITOR_HOLD_H
#define MONITOR_HOLD_H

#include "monitor-internal.h"
#include "qapi/qmp-registry.h"

typedef enum HoldNeed {
    HOLD_NOT,
    HOLD_DRAIN,                 /* drains, or changes the graph */
    HOLD_FLUSH,                 /* and flushes */
} HoldNeed;

/*
 * What a command of QMP or of the human monitor needs.  @args may be NULL if
 * not hold_needs_args().
 */
HoldNeed hold_by_command(const char *name, const QDict *args);
bool hold_needs_args(const char *name);

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
