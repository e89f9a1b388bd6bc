/*
 * QMP commands at the gate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hook: qmp.c (dispatch).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "block/blk-gate.h"
#include "gate-internal.h"

/* The human monitor's commands are looked up as such. */
static const GatedCommand *gate_find_request(const QDict *req)
{
    const char *name = req ? qdict_get_try_str(req, "execute") : NULL;
    const QDict *args;
    const char *line;

    if (!name) {
        return NULL;
    }
    args = qobject_to(QDict, qdict_get(req, "arguments"));
    if (strcmp(name, "human-monitor-command")) {
        return gate_find_qmp(name, args);
    }
    line = args ? qdict_get_try_str(args, "command-line") : NULL;
    return line ? gate_find_hmp(line) : NULL;
}

static QDict *gate_error_response(const QDict *req, Error *err)
{
    QDict *rsp = qmp_error_response(err);
    QObject *id = qdict_get(req, "id");

    if (id) {
        qdict_put_obj(rsp, "id", qobject_ref(id));
    }
    return rsp;
}

QDict *coroutine_mixed_fn gate_qmp_dispatch(const QmpCommandList *cmds,
                                            QObject *request, bool allow_oob,
                                            Monitor *mon)
{
    QDict *req = qobject_to(QDict, request);
    const GatedCommand *cmd = NULL;
    Error *err = NULL;
    QDict *rsp;

    /* Out-of-band commands come in no coroutine, and from another thread */
    if (qemu_in_coroutine() && cmds != &qmp_cap_negotiation_commands &&
        blk_gate_is_needed()) {
        cmd = gate_find_request(req);
    }
    if (!cmd) {
        return qmp_dispatch(cmds, request, allow_oob, mon);
    }

    if (!blk_gate_co_enter(cmd->name, cmd->flush, &err)) {
        return gate_error_response(req, err);
    }
    rsp = qmp_dispatch(cmds, request, allow_oob, mon);
    blk_gate_leave();
    return rsp;
}
