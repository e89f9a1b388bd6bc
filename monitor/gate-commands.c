/*
 * Which commands pass the gate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Those that drain disks or change the block graph, because these wait for
 * every request of every disk.  A command that only takes the graph's read lock
 * waits for nobody, and is not here; nor is one that must always work, like
 * "cont", that serves to look at what hangs, or that may end it: to cancel a
 * job lets go what waits for the job's target.
 *
 * "quit" is not here, because it cannot be refused: see system/gate-vm.c.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
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
    { "block-job-complete" },
    { "block-job-dismiss" },
    { "block-job-finalize" },
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

/* Properties that change the graph when "qom-set" sets them */
static const GatedCommand gated_properties[] = {
    { "drive", true },
    { }
};

static bool gate_is(const char *word, size_t len, const char *name)
{
    return strlen(name) == len && !strncmp(word, name, len);
}

static const GatedCommand *gate_find(const GatedCommand *table,
                                     const char *name, size_t len)
{
    for (; table->name; table++) {
        if (gate_is(name, len, table->name)) {
            return table;
        }
    }
    return NULL;
}

const GatedCommand *gate_find_qmp(const char *name, const QDict *args)
{
    if (g_str_equal(name, "qom-set")) {
        name = args ? qdict_get_try_str(args, "property") : NULL;
        return name ? gate_find(gated_properties, name, strlen(name)) : NULL;
    }
    return gate_find(gated_qmp, name, strlen(name));
}

#define SPACE " \t\n\v\f\r"

/* Returns: the word at *@line, of length *@len; *@line is set behind it */
static const char *gate_next_word(const char **line, size_t *len)
{
    const char *word = *line + strspn(*line, SPACE);

    *len = strcspn(word, SPACE);
    *line = word + *len;
    return word;
}

/* "qom-set [-j] path property value" */
static const GatedCommand *gate_find_hmp_qom_set(const char *args)
{
    const char *word;
    size_t len;

    do {
        word = gate_next_word(&args, &len);     /* path */
    } while (*word == '-');
    word = gate_next_word(&args, &len);
    return gate_find(gated_properties, word, len);
}

const GatedCommand *gate_find_hmp(const char *cmdline)
{
    size_t len;
    const char *name = gate_next_word(&cmdline, &len);

    if (gate_is(name, len, "qom-set")) {
        return gate_find_hmp_qom_set(cmdline);
    }
    /* "/" begins a format */
    return gate_find(gated_hmp, name, MIN(len, strcspn(name, "/")));
}
