/*
 * Commands that need I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MONITOR_HOLD_H
#define MONITOR_HOLD_H

#include "monitor-internal.h"
#include "block/blk-hold.h"
#include "qapi/qmp-registry.h"

/*
 * Declared by a feature in the QAPI schema; a command of the human monitor has
 * that of the QMP command of its name, or a flag in hmp-commands.hx
 */
#define HOLD_DRAIN  BLK_HOLD_ASK                    /* drain, 'd' */
#define HOLD_STOP   BLK_HOLD_FLUSH                  /* drain-stop */
#define HOLD_FLUSH  (BLK_HOLD_ASK | BLK_HOLD_FLUSH) /* drain-flush, 'f' */

/*
 * hold_by_features:
 * @args: its arguments, or NULL; asked for drain-disk
 *
 * Returns: what @cmd needs, or 0
 */
unsigned int hold_by_features(const QmpCommand *cmd, const QDict *args);

/* Of a whole line of the human monitor; NULL if there is none. */
extern unsigned int (*hold_by_line)(const char *line);

/*
 * hold_co_ask_names:
 * @arg: of a command that may open files
 *
 * Have it found out whether that would hang, for all that looks like a name.
 */
void coroutine_fn hold_co_ask_names(QObject *arg);

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
