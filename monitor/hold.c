/*
 * QMP commands that need I/O to be over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QMP executes one command after the other, of all monitors.  One that waits
 * for disks does so in a coroutine of its own, so that only its own monitor
 * waits with it.
 *
 * Hooks: qmp.c (dispatch), monitor-internal.h (a monitor's state).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-features.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "block/block_int.h"
#include "block/export.h"
#include "system/block-backend.h"
#include "hold.h"

#define HOLD_FEATURES (BIT_ULL(QAPI_FEATURE_DRAIN) |        \
                       BIT_ULL(QAPI_FEATURE_DRAIN_FLUSH) |  \
                       BIT_ULL(QAPI_FEATURE_DRAIN_STOP) |   \
                       BIT_ULL(QAPI_FEATURE_DRAIN_DISK))

unsigned int (*hold_by_line)(const char *line);

/*
 * A disk that was added before, with -drive or drive_add, and has no device: to
 * give it one changes nothing in the graph.
 */
static bool hold_is_prepared(const char *drive)
{
    BlockBackend *blk = drive ? blk_by_name(drive) : NULL;

    return blk && blk_bs(blk) && !blk_get_attached_dev(blk);
}

static unsigned int hold_by_args(const QDict *args)
{
    const char *drive = qdict_get_try_str(args, "drive");
    const char *line = qdict_get_try_str(args, "command-line");
    const char *driver = qdict_get_try_str(args, "driver");
    const char *id = qdict_get_try_str(args, "id");
    BlockDriver *drv = driver ? bdrv_find_format(driver) : NULL;
    BlockExport *exp G_GNUC_UNUSED = id ? blk_exp_find(id) : NULL;

    if (line) {
        return hold_by_line ? hold_by_line(line) : 0;
    }
    /* A device with a disk, a device's disk, a node with others below it */
    if ((drive && !hold_is_prepared(drive)) || (drv && drv->bdrv_child_perm) ||
        !g_strcmp0(qdict_get_try_str(args, "property"), "drive")) {
        return HOLD_DRAIN;
    }
#ifdef CONFIG_VHOST_USER_BLK_SERVER
    /* Other exports only lose their connections, and end later */
    if (exp && exp->drv->type == BLOCK_EXPORT_TYPE_VHOST_USER_BLK) {
        return HOLD_DRAIN;
    }
#endif
    return 0;
}

static const QmpCommand *hold_find_command(const QmpCommandList *cmds,
                                           const QDict *req)
{
    const char *name = qdict_get_try_str(req, "execute");

    return name ? qmp_find_command(cmds, name) : NULL;
}

unsigned int hold_by_features(const QmpCommand *cmd, const QDict *args)
{
    if (cmd->features & BIT_ULL(QAPI_FEATURE_DRAIN_FLUSH)) {
        return HOLD_FLUSH;
    }
    if (cmd->features & BIT_ULL(QAPI_FEATURE_DRAIN)) {
        return HOLD_DRAIN;
    }
    if (cmd->features & BIT_ULL(QAPI_FEATURE_DRAIN_STOP)) {
        return HOLD_STOP;
    }
    if (cmd->features & BIT_ULL(QAPI_FEATURE_DRAIN_DISK)) {
        return args ? hold_by_args(args) : 0;
    }
    return 0;
}

static void coroutine_fn hold_co_ask_name(const char *name)
{
    if (strchr(name, '/')) {
        blk_hold_co_ask_file(name);
    }
}

void coroutine_fn hold_co_ask_names(QObject *arg)
{
    const char *str = qobject_to(QString, arg)
                      ? qstring_get_str(qobject_to(QString, arg)) : NULL;
    g_auto(GStrv) parts = g_strsplit_set(str ?: "", " =,\"", -1);
    const QDictEntry *e;
    QListEntry *l;

    if (str) {
        hold_co_ask_name(str);
        for (unsigned int i = 0; parts[0] && parts[1] && parts[i]; i++) {
            hold_co_ask_name(parts[i]);
        }
    } else if (qobject_to(QDict, arg)) {
        for (e = qdict_first(qobject_to(QDict, arg)); e;
             e = qdict_next(qobject_to(QDict, arg), e)) {
            hold_co_ask_names(qdict_entry_value(e));
        }
    } else if (qobject_to(QList, arg)) {
        QLIST_FOREACH_ENTRY(qobject_to(QList, arg), l) {
            hold_co_ask_names(qlist_entry_obj(l));
        }
    }
}

/*
 * Commands are executed one at a time, as if none was ever held; and disks are
 * held for one at a time.  The main loop's coroutines.
 */
static CoMutex executing, holding;

static void __attribute__((constructor)) hold_qmp_init(void)
{
    qemu_co_mutex_init(&executing);
    qemu_co_mutex_init(&holding);
}

static QDict *coroutine_fn hold_qmp_co_execute(const QmpCommandList *cmds,
                                               QObject *request, bool allow_oob,
                                               Monitor *mon)
{
    QEMU_LOCK_GUARD(&executing);
    return qmp_dispatch(cmds, request, allow_oob, mon);
}

QDict *coroutine_mixed_fn hold_qmp_dispatch(const QmpCommandList *cmds,
                                            QObject *request, bool allow_oob,
                                            Monitor *mon)
{
    QDict *req = qobject_to(QDict, request);
    const QmpCommand *cmd;
    unsigned int need;
    Error *err = NULL;
    QDict *rsp;

    if (!qemu_in_coroutine()) {
        return qmp_dispatch(cmds, request, allow_oob, mon);
    }
    /* Another client may have come meanwhile, and not negotiated */
    cmd = container_of(mon, MonitorQMP, common)->held
          ? hold_find_command(cmds, req) : NULL;
    need = cmd ? hold_by_features(cmd, qdict_get_qdict(req, "arguments")) : 0;
    if (!need) {
        return hold_qmp_co_execute(cmds, request, allow_oob, mon);
    }

    QEMU_LOCK_GUARD(&holding);
    if (!blk_hold_co_begin(cmd->name, need, &err)) {
        rsp = qmp_error_response(err);
        if (qdict_haskey(req, "id")) {
            qdict_put_obj(rsp, "id", qobject_ref(qdict_get(req, "id")));
        }
        return rsp;
    }
    rsp = hold_qmp_co_execute(cmds, request, allow_oob, mon);
    blk_hold_end(rsp && qdict_haskey(rsp, "error"));
    return rsp;
}

typedef struct HoldQmp {
    MonitorQMP *mon;
    QObject *request;           /* a reference */
    bool resume;
} HoldQmp;

static void coroutine_fn hold_qmp_entry(void *opaque)
{
    g_autofree HoldQmp *h = opaque;

    hold_co_ask_names(qdict_get(qobject_to(QDict, h->request), "arguments"));
    monitor_qmp_dispatch(h->mon, h->request);
    qobject_unref(h->request);
    if (h->resume) {
        monitor_resume(&h->mon->common);
    }
    h->mon->held = false;
    if (qmp_dispatcher_co) {
        qmp_dispatcher_co_wake();
    }
}

bool hold_qmp_request(MonitorQMP *mon, QObject *request, bool oob_enabled)
{
    QDict *req = qobject_to(QDict, request);
    const QmpCommand *cmd = req ? hold_find_command(mon->commands, req) : NULL;
    HoldQmp *h;

    if (!cmd || !(cmd->features & HOLD_FEATURES) || !blk_cancel_any()) {
        return false;
    }
    h = g_new(HoldQmp, 1);
    *h = (HoldQmp) {
        .mon = mon,
        .request = qobject_ref(request),
        .resume = !oob_enabled,
    };
    mon->held = true;
    aio_co_schedule(iohandler_get_aio_context(),
                    qemu_coroutine_create(hold_qmp_entry, h));
    return true;
}
