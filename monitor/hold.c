/*
 * QMP commands that need I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A command that drains disks or changes the block graph, and is not listed
 * here, freezes the machine while storage hangs; blk-hold-schema.c asks of each
 * command that is new which it is.
 *
 * Hook: qmp.c (dispatch).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "block/blk-hold.h"
#include "block/export.h"
#include "block/block_int.h"
#include "hold.h"

HoldNeed (*hold_by_line)(const char *line);

/* They always drain, or change the graph */
static const char *const hold_drain[] = {
    "block-dirty-bitmap-add", "block-dirty-bitmap-remove", "block-export-add",
    "block-job-complete", "block-job-dismiss", "block-job-finalize",
    "block-stream", "block_set_io_throttle", "blockdev-backup",
    "blockdev-close-tray", "blockdev-create", "blockdev-insert-medium",
    "blockdev-mirror", "drive-backup", "drive-mirror", "job-complete",
    "job-dismiss", "job-finalize", "nbd-server-add", "nbd-server-stop",
    "x-blockdev-set-iothread", "x-colo-lost-heartbeat",
    "xen-colo-do-checkpoint", "xen-set-replication",
    /* Of the human monitor only */
    "block_job_complete", "block_stream", "drive_add", "drive_backup",
    "drive_mirror", "nbd_server_add", "nbd_server_start", "nbd_server_stop",
    NULL
};

/* The same, and they flush */
static const char *const hold_flush[] = {
    "block-commit", "block_resize", "blockdev-change-medium", "blockdev-del",
    "blockdev-open-tray", "blockdev-remove-medium", "blockdev-reopen",
    "blockdev-set-active", "blockdev-snapshot",
    "blockdev-snapshot-delete-internal-sync",
    "blockdev-snapshot-internal-sync", "blockdev-snapshot-sync",
    "change-backing-file", "dump-guest-memory", "eject", "stop", "transaction",
    "x-blockdev-amend", "x-blockdev-change", "xen-save-devices-state",
    /* Of the human monitor only */
    "change", "commit", "delvm", "drive_del", "loadvm", "savevm",
    "snapshot_blkdev", "snapshot_blkdev_internal",
    "snapshot_delete_blkdev_internal",
    NULL
};

/* It depends on their arguments */
static const char *const hold_depends[] = {
    "block-export-del", "blockdev-add", "device_add", "human-monitor-command",
    "qom-set",
    NULL
};

static HoldNeed hold_by_args(const QDict *args)
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

bool hold_needs_args(const char *name)
{
    return g_strv_contains(hold_depends, name);
}

HoldNeed hold_by_command(const char *name, const QDict *args)
{
    if (g_strv_contains(hold_flush, name)) {
        return HOLD_FLUSH;
    }
    if (g_strv_contains(hold_drain, name)) {
        return HOLD_DRAIN;
    }
    return args && hold_needs_args(name) ? hold_by_args(args) : HOLD_NOT;
}

static HoldNeed hold_by_request(const QmpCommandList *cmds, const QDict *req)
{
    const char *name = qdict_get_try_str(req, "execute");
    const QDict *args = qobject_to(QDict, qdict_get(req, "arguments"));

    return name && qmp_find_command(cmds, name) ? hold_by_command(name, args)
                                                : HOLD_NOT;
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
