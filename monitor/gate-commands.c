/*
 * Which commands pass the gate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Those that drain disks or change the block graph, because these wait for
 * every request of every disk.  A command that only takes the graph's read lock
 * waits for nobody, and is not here; nor is one that must always work, like
 * "cont", or that serves to look at what hangs.
 *
 * "quit" is not here, because it cannot be refused: see system/gate-vm.c.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "block/blk-detach-quiesce.h"
#include "system/block-backend.h"
#include "gate-internal.h"

static const GatedCommand gated_qmp[] = {
    /* Nodes come, go, or get another place: the graph's write lock */
    { "blockdev-add" },
    { "blockdev-create" },
    { "blockdev-del", true },
    { "blockdev-reopen", true },
    { "blockdev-set-active", true },
    { "blockdev-snapshot", true },
    { "blockdev-snapshot-sync", true },
    { "change-backing-file", true },
    { "device_add" },
    { "x-blockdev-change", true },

    /* Whole disks are drained to be moved to another thread */
    { "x-blockdev-set-iothread" },

    /* The disk is drained and flushed, and its image's metadata written */
    { "block_resize", true },
    { "blockdev-snapshot-delete-internal-sync", true },
    { "blockdev-snapshot-internal-sync", true },
    { "x-blockdev-amend", true },

    /* A persistent bitmap is in the image, and read or written at once */
    { "block-dirty-bitmap-add" },
    { "block-dirty-bitmap-remove" },

    /* Several of the above */
    { "transaction", true },

    /* A medium: its node is taken out of the BlockBackend, or put in */
    { "blockdev-change-medium", true },
    { "blockdev-close-tray" },
    { "blockdev-insert-medium" },
    { "blockdev-open-tray", true },
    { "blockdev-remove-medium", true },
    { "eject", true },

    /* The disk is drained before its limits change */
    { "block_set_io_throttle" },

    /* Jobs: their filters and BlockBackends come when they start ... */
    { "block-commit", true },
    { "block-stream" },
    { "blockdev-backup" },
    { "blockdev-mirror" },
    { "drive-backup" },
    { "drive-mirror" },

    /* ... and go when they end, which these may bring about at once */
    { "block-job-cancel" },
    { "block-job-complete" },
    { "block-job-dismiss" },
    { "block-job-finalize" },
    { "job-cancel" },
    { "job-complete" },
    { "job-dismiss" },
    { "job-finalize" },

    /* Exports have BlockBackends of their own */
    { "block-export-add" },
    { "block-export-del" },
    { "nbd-server-add" },
    { "nbd-server-remove" },
    { "nbd-server-stop" },

    /* All disks are drained and flushed, with the vCPUs standing still */
    { "dump-guest-memory", true },
    { "stop", true },
    { "xen-save-devices-state", true },
    { }
};

/* The same, by the names that the human monitor has for them */
static const GatedCommand gated_hmp[] = {
    { "block_job_cancel" },
    { "block_job_complete" },
    { "block_resize", true },
    { "block_set_io_throttle" },
    { "block_stream" },
    { "change", true },
    { "commit", true },
    { "delvm", true },
    { "device_add" },
    { "drive_add" },
    { "drive_backup" },
    { "drive_del", true },
    { "drive_mirror" },
    { "dump-guest-memory", true },
    { "eject", true },
    { "loadvm", true },
    { "nbd_server_add" },
    { "nbd_server_remove" },
    { "nbd_server_start" },
    { "nbd_server_stop" },
    { "savevm", true },
    { "snapshot_blkdev", true },
    { "snapshot_blkdev_internal", true },
    { "snapshot_delete_blkdev_internal", true },
    { "s", true },
    { "stop", true },
    { }
};

static const GatedCommand *gate_find(const GatedCommand *table,
                                     const char *name, size_t len)
{
    for (; table->name; table++) {
        if (strlen(table->name) == len && !strncmp(table->name, name, len)) {
            return table;
        }
    }
    return NULL;
}

/*
 * Disks that wait for their requests when they are unplugged are refused while
 * they would.  virtio-blk does not wait; there the part that has the disk has
 * no ID of its own.
 */
const GatedCommand *gate_find_device_del(const char *id)
{
    static const GatedCommand device_del = { "device_del" };
    BlkDetachLoad load = {};

    strstart(id, "/machine/peripheral/", &id);
    while (blk_detach_next_load(&load)) {
        g_autofree char *dev = blk_get_attached_dev_id(load.blk);

        if (*id && !strcmp(dev, id)) {
            return &device_del;
        }
    }
    return NULL;
}

const GatedCommand *gate_find_qmp(const char *name)
{
    return gate_find(gated_qmp, name, strlen(name));
}

const GatedCommand *gate_find_hmp(const char *cmdline)
{
    const char *id;

    cmdline += strspn(cmdline, " \t");
    if (strstart(cmdline, "device_del ", &id)) {
        g_autofree char *dev = g_strstrip(g_strdup(id));

        return gate_find_device_del(dev);
    }
    return gate_find(gated_hmp, cmdline, strcspn(cmdline, " \t/"));
}
