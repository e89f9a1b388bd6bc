/*
 * virtio-blk: the figures of a device with detach=on as a QOM property
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The same figures as query-block-detach's; see block/blk-detach-stats.c.  A
 * proxy, such as virtio-blk-pci, has an alias for each property of the device.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-detach.h"
#include "block/blk-detach-qapi.h"
#include "hw/virtio/virtio-blk.h"
#include "hw/virtio/virtio-blk-cancel.h"
#include "virtio-blk-cancel-core.h"

#define PROP_STATS "detach-stats"

static void cancel_get_stats(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    VirtIOBlock *s = VIRTIO_BLK(obj);
    g_autoptr(BlockDetachStats) stats = NULL;

    if (s->cancel) {
        stats = blk_detach_get_stats(s->blk);
    }
    if (!stats) {
        error_setg(errp, "Property '%s' needs a device with detach=on", name);
        return;
    }
    visit_type_BlockDetachStats(v, name, &stats, errp);
}

void virtio_blk_cancel_stats_class_init(ObjectClass *klass)
{
    object_class_property_add(klass, PROP_STATS, "BlockDetachStats",
                              cancel_get_stats, NULL, NULL, NULL);
    object_class_property_set_description(klass, PROP_STATS,
        "Requests taken back, detached and waiting (needs detach=on)");
}
