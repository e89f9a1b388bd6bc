/*
 * The figures of a device with cancel= as a QOM property
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The same figures as query-block-hung's; see block/blk-cancel-stats.c.  A
 * virtio proxy, such as virtio-blk-pci, has an alias for each property of its
 * device.
 *
 * And the budget that the disks of a machine share, as a property of the
 * machine.
 *
 * Hooks: the class_init functions of virtio-blk, scsi-disk, nvme, nvme-ns.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-hung.h"
#include "block/blk-cancel-qapi.h"
#include "qapi/visitor.h"
#include "block/blk-cancel.h"
#include "hw/block/cancel-stats.h"
#include "hw/boards.h"
#include "hw/qdev-core.h"
#include "system/block-backend.h"

static void cancel_stats_get(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    BlockBackend *blk = blk_by_dev(DEVICE(obj));
    g_autoptr(BlockHungStats) stats = blk ? blk_cancel_get_stats(blk) : NULL;

    if (!stats) {
        error_setg(errp, "Property '%s' needs a device with cancel=", name);
        return;
    }
    visit_type_BlockHungStats(v, name, &stats, errp);
}

void cancel_stats_class_init(ObjectClass *klass)
{
    object_class_property_add(klass, "cancel-stats", "BlockHungStats",
                              cancel_stats_get, NULL, NULL, NULL);
    object_class_property_set_description(klass, "cancel-stats",
        "Requests taken back, abandoned and waiting (needs cancel=)");
}

static void cancel_budget_get(Object *obj, Visitor *v, const char *name,
                              void *opaque, Error **errp)
{
    uint64_t bytes = blk_cancel_machine_budget();

    visit_type_size(v, name, &bytes, errp);
}

static void cancel_budget_set(Object *obj, Visitor *v, const char *name,
                              void *opaque, Error **errp)
{
    uint64_t bytes;

    if (visit_type_size(v, name, &bytes, errp)) {
        blk_cancel_set_machine_budget(bytes);
    }
}

/* Called when all classes are known, and before there is a machine */
static void cancel_budget_init(void)
{
    ObjectClass *oc = object_class_by_name(TYPE_MACHINE);

    if (!oc) {
        return;
    }
    object_class_property_add(oc, "cancel-budget", "size", cancel_budget_get,
                              cancel_budget_set, NULL, NULL);
    object_class_property_set_description(oc, "cancel-budget",
        "Memory for data of requests that can be cancelled, of all disks with "
        "cancel= together; each gets an equal share, and 4 MiB at least");
}

block_init(cancel_budget_init);
