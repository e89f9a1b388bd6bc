/*
 * Devices with cancel=: their figures as a QOM property; what the others mean
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The same figures as query-block-hung's; see block/blk-cancel-stats.c.  A
 * virtio proxy, such as virtio-blk-pci, has an alias for each property of its
 * device.
 *
 * And properties of the machine: the budget that its disks share, and how long
 * a command may wait for them.
 *
 * Hooks: the class_init functions of virtio-blk, scsi-hd, scsi-cd, nvme and
 * nvme-ns.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-hung.h"
#include "block/blk-cancel-qapi.h"
#include "qapi/visitor.h"
#include "block/blk-cancel.h"
#include "block/blk-hold.h"
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

static void cancel_describe_properties(ObjectClass *klass)
{
    static const struct {
        const char *name;
        const char *description;
    } props[] = {
        { "cancel", "Aborts and resets do not wait for hung storage" },
        { "cancel-budget", "Bytes of memory for buffers of requests that can "
                           "be taken back" },
        { "cancel-after", "For how many ms the storage has a request before "
                          "the guest may cancel it" },
        { "cancel-zero-copy", "Requests run on the guest's memory, without a "
                              "copy, where its pages can be swapped" },
        { "cancel-userfaultfd", "A device of userfaultfd's that QEMU has been "
                                "given, for cancel-zero-copy" },
    };

    for (unsigned int i = 0; i < ARRAY_SIZE(props); i++) {
        ObjectProperty *p = object_class_property_find(klass, props[i].name);

        /* virtio-blk's "cancel" is of a type that describes itself */
        if (p && (!p->description || g_str_equal(p->type, "bool"))) {
            object_class_property_set_description(klass, props[i].name,
                                                  props[i].description);
        }
    }
}

void cancel_class_init(ObjectClass *klass)
{
    cancel_describe_properties(klass);
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
static void cancel_machine_init(void)
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
    object_class_property_add_uint32_ptr(oc, "hold-timeout",
                                         &blk_hold_timeout_ms,
                                         OBJ_PROP_FLAG_READWRITE);
    object_class_property_set_description(oc, "hold-timeout",
        "How many ms a command may wait for disks with cancel= to be idle");
}

block_init(cancel_machine_init);
