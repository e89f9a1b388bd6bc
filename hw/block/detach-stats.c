/*
 * The figures of a device with detach=on as a QOM property
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The same figures as query-block-detach's; see block/blk-detach-stats.c.  A
 * virtio proxy, such as virtio-blk-pci, has an alias for each property of its
 * device.
 *
 * Hooks: the class_init functions of virtio-blk, scsi-disk, nvme, nvme-ns.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-detach.h"
#include "block/blk-detach-qapi.h"
#include "hw/block/detach-stats.h"
#include "hw/qdev-core.h"
#include "system/block-backend.h"

static void detach_stats_get(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    BlockBackend *blk = blk_by_dev(DEVICE(obj));
    g_autoptr(BlockDetachStats) stats = blk ? blk_detach_get_stats(blk) : NULL;

    if (!stats) {
        error_setg(errp, "Property '%s' needs a device with detach=on", name);
        return;
    }
    visit_type_BlockDetachStats(v, name, &stats, errp);
}

void detach_stats_class_init(ObjectClass *klass)
{
    object_class_property_add(klass, "detach-stats", "BlockDetachStats",
                              detach_stats_get, NULL, NULL, NULL);
    object_class_property_set_description(klass, "detach-stats",
        "Requests taken back, detached and waiting (needs detach=on)");
}
