/*
 * QMP commands that need I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hook: qmp.c (dispatch).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-features.h"
#include "qobject/qdict.h"
#include "block/blk-hold.h"
#include "block/export.h"
#include "block/block_int.h"
#include "hold.h"

HoldNeed (*hold_by_line)(const char *line);

HoldNeed hold_by_args(const QDict *args)
{
    const char *line = qdict_get_try_str(args, "command-line");
    const char *driver = qdict_get_try_str(args, "driver");
    const char *id = qdict_get_try_str(args, "id");
    BlockDriver *drv = driver ? bdrv_find_format(driver) : NULL;
    BlockExport *exp = id ? blk_exp_find(id) : NULL;

    if (line) {
        return hold_by_line ? hold_by_line(line) : HOLD_NOT;
    }
    /* A device with a disk, a device's disk, a node with others below it */
    if (qdict_haskey(args, "drive") || (drv && drv->bdrv_child_perm) ||
        !g_strcmp0(qdict_get_try_str(args, "property"), "drive")) {
        return HOLD_DRAIN;
    }
    /* Other exports only lose their connections, and end later */
    return exp && exp->drv->type == BLOCK_EXPORT_TYPE_VHOST_USER_BLK
           ? HOLD_DRAIN : HOLD_NOT;
}

static HoldNeed hold_by_request(const QmpCommandList *cmds, const QDict *req)
{
    const char *name = qdict_get_try_str(req, "execute");
    const QmpCommand *cmd = name ? qmp_find_command(cmds, name) : NULL;
    const QDict *args = qobject_to(QDict, qdict_get(req, "arguments"));

    if (!cmd) {
        return HOLD_NOT;
    }
    if (cmd->features & BIT_ULL(QAPI_FEATURE_DRAIN_FLUSH)) {
        return HOLD_FLUSH;
    }
    if (cmd->features & BIT_ULL(QAPI_FEATURE_DRAIN)) {
        return HOLD_DRAIN;
    }
    return args && cmd->features & BIT_ULL(QAPI_FEATURE_DRAIN_DISK)
           ? hold_by_args(args) : HOLD_NOT;
}

QDict *coroutine_mixed_fn hold_qmp_dispatch(const QmpCommandList *cmds,
                                            QObject *request, bool allow_oob,
                                            Monitor *mon)
{
    QDict *req = qobject_to(QDict, request);
    HoldNeed need = HOLD_NOT;
    Error *err = NULL;
    QDict *rsp;

    /* Out-of-band commands come in no coroutine, and from another thread */
    if (req && qemu_in_coroutine() && blk_cancel_any()) {
        need = hold_by_request(cmds, req);
    }
    if (need == HOLD_NOT) {
        return qmp_dispatch(cmds, request, allow_oob, mon);
    }

    if (!blk_hold_co_begin(qdict_get_str(req, "execute"), need == HOLD_FLUSH,
                           &err)) {
        rsp = qmp_error_response(err);
        if (qdict_haskey(req, "id")) {
            qdict_put_obj(rsp, "id", qobject_ref(qdict_get(req, "id")));
        }
        return rsp;
    }
    rsp = qmp_dispatch(cmds, request, allow_oob, mon);
    blk_hold_end(rsp && qdict_haskey(rsp, "error"));
    return rsp;
}
