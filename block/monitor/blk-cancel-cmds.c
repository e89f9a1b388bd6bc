/*
 * QMP and HMP: the figures of devices with cancelling on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hooks: hmp-commands.hx and hmp-commands-info.hx.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-hung.h"
#include "qobject/qdict.h"
#include "block/blk-cancel.h"
#include "block/blk-cancel-qapi.h"
#include "block/block-hmp-cmds.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio-blk-cancel.h"
#include "hw/virtio/virtio-blk.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "system/block-backend.h"

/* Of other devices nothing has to be accepted. */
static void set_accepted(BlockHungInfo *info, BlockBackend *blk)
{
    Object *dev = OBJECT(blk_get_attached_dev(blk));
    VirtIODevice *vdev = (VirtIODevice *)
        object_dynamic_cast(dev, TYPE_VIRTIO_BLK);

    if (vdev && virtio_host_has_feature(vdev, VIRTIO_BLK_F_CANCEL)) {
        info->has_accepted = true;
        info->accepted = virtio_vdev_has_feature(vdev, VIRTIO_BLK_F_CANCEL);
    }
}

BlockHungInfoList *qmp_query_block_hung(Error **errp)
{
    BlockHungInfoList *list = NULL, **tail = &list;
    BlockBackend *blk = NULL;

    while ((blk = blk_all_next(blk))) {
        BlockHungInfo *info = blk_cancel_get_info(blk);

        if (info) {
            set_accepted(info, blk);
            QAPI_LIST_APPEND(tail, info);
        }
    }
    return list;
}

/* Whether @path is a device and contains the one at @qom_path */
static bool blk_cancel_is_part(const char *qom_path, const char *path)
{
    Object *obj = object_resolve_path(path, NULL);
    const char *rest;

    return obj && object_dynamic_cast(obj, TYPE_DEVICE) &&
           strstart(qom_path, path, &rest) && *rest == '/';
}

static bool blk_cancel_has_id(BlockBackend *blk, const char *id)
{
    g_autoptr(BlockHungInfo) info = blk_cancel_get_info(blk);

    return info && (!id || g_str_equal(info->qom_path, id) ||
                    !g_strcmp0(info->qdev_id, id) ||
                    blk_cancel_is_part(info->qom_path, id));
}

void qmp_block_hung_reset_stats(const char *id, Error **errp)
{
    BlockBackend *blk = NULL;
    bool found = false;

    while ((blk = blk_all_next(blk))) {
        if (blk_cancel_has_id(blk, id)) {
            found = blk_cancel_reset_stats(blk);
        }
    }
    if (id && !found) {
        error_set(errp, ERROR_CLASS_DEVICE_NOT_FOUND,
                  "No device '%s' with cancel=; query-block-hung shows "
                  "those that there are", id);
    }
}

static void print_cancels(Monitor *mon, BlockCancelStats *c)
{
    monitor_printf(mon, "    Cancels received: %" PRIu64 " (%" PRIu64
                   " canceled, %" PRIu64 " completed, %" PRIu64 " not found, %"
                   PRIu64 " refused, %" PRIu64 " invalid)\n", c->received,
                   c->canceled, c->completed, c->not_found, c->refused,
                   c->invalid);
}

static void print_requests(Monitor *mon, BlockHungStats *s)
{
    g_autofree char *now = size_to_str(s->abandoned_bytes);
    g_autofree char *budget = size_to_str(s->budget);
    g_autofree char *used = size_to_str(s->budget_used);

    monitor_printf(mon, "    Abandoned now:     %" PRIu32, s->abandoned);
    if (s->abandoned) {
        monitor_printf(mon, " (%s), the oldest for %.1f s", now,
                       s->oldest_age_ns / 1e9);
    }
    monitor_printf(mon, "\n    Abandoned in all:  %" PRIu64,
                   s->abandoned_total);
    if (s->max_age_ns) {
        monitor_printf(mon, ", highest age %.1f s", s->max_age_ns / 1e9);
    }
    monitor_printf(mon, "\n    Waiting:          %" PRIu32 " at the fence, %"
                   PRIu32 " for budget, %" PRIu32 " drained\n",
                   s->waiting_fence, s->waiting_budget, s->waiting_drained);
    if (s->failed) {
        monitor_printf(mon, "    Ended in error:   %" PRIu64 "\n",
                       s->failed);
    }
    monitor_printf(mon, "    Budget used:      %s of %s\n", used, budget);
}

static const char *state_of(BlockHungStats *s)
{
    if (s->abandoned) {
        return "storage hangs";
    }
    if (s->issued_age_ns >= NANOSECONDS_PER_SECOND) {
        return "nothing abandoned, but the storage does not answer";
    }
    return "nothing abandoned";
}

void hmp_info_block_hung(Monitor *mon, const QDict *qdict)
{
    g_autoptr(BlockHungInfoList) list = qmp_query_block_hung(NULL);
    BlockHungInfoList *l;

    if (!list) {
        monitor_printf(mon, "No device has cancel=\n");
    }
    for (l = list; l; l = l->next) {
        BlockHungInfo *info = l->value;

        monitor_printf(mon, "%s%s (%s): %s\n",
                       info->qdev_id ?: info->qom_path,
                       info->unplugged ? ", unplugged" : "",
                       info->node_name ?: "no medium", state_of(info->stats));
        if (info->has_accepted) {
            monitor_printf(mon, "    Guest's driver:   has %saccepted the "
                           "feature\n", info->accepted ? "" : "not ");
        }
        print_cancels(mon, info->stats->cancels);
        print_requests(mon, info->stats);
    }
}

void hmp_block_hung_reset_stats(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;

    qmp_block_hung_reset_stats(qdict_get_try_str(qdict, "id"), &err);
    hmp_handle_error(mon, err);
}
