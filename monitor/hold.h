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
 * hold_qmp_request:
 * @request: in band
 * @oob_enabled: whether @mon has not been suspended for it
 *
 * For a command that needs it, execute it while disks are held, and answer; all
 * that happens later.  Until then no other request of @mon is taken from its
 * queue; those of other monitors are.
 *
 * Context: the dispatcher's coroutine.
 * Returns: false if it does not need to; then nothing has been done.
 */
bool hold_qmp_request(MonitorQMP *mon, QObject *request, bool oob_enabled);

/*
 * hold_qmp_dispatch:
 *
 * As qmp_dispatch(), but for hold_qmp_request() disks are held; or the command
 * is refused.
 *
 * Context: as qmp_dispatch().
 */
QDict *coroutine_mixed_fn hold_qmp_dispatch(const QmpCommandList *cmds,
                                            QObject *request, bool allow_oob,
                                            Monitor *mon);

/* qmp.c */
void monitor_qmp_dispatch(MonitorQMP *mon, QObject *req);

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
