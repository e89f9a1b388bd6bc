/*
 * virtio-scsi: resets that do not wait for the storage
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Before a reset the transport stops ioeventfd, which a stop of the VM does as
 * well; that still drains all disks.
 *
 * Hooks: virtio-scsi-dataplane.c.
 */

#include "qemu/osdep.h"
#include "hw/scsi/scsi-cancel.h"
#include "hw/virtio/virtio-scsi.h"

bool virtio_scsi_cancel_stop(VirtIOSCSI *s)
{
    bool ended;

    if (!VIRTIO_DEVICE(s)->vm_running) {
        return false;
    }

    /* The guest is told that a reset has cancelled its commands */
    qatomic_inc(&s->resetting);
    ended = scsi_cancel_stop(&s->bus);
    qatomic_dec(&s->resetting);
    return ended;
}
