/*
 * The guest's memory, whose pages may be swapped under a request
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A page that is swapped is another one to whoever has it pinned or mapped it
 * by itself: what that writes then is lost to the guest, and what the guest
 * writes it does not see.  So memory is not swapped if it is
 * - shared=on, a file's, or on hugetlbfs: another process may have it, as
 *   vhost-user does, and huge pages are shared with other requests;
 * - not allocated by QEMU (a device's own), or not QEMU's to see (guest_memfd);
 * - pinned as a whole: VFIO, vDPA, SEV and other protected guests, libblkio and
 *   migration by RDMA.  All of them need that no RAM is discarded, as a balloon
 *   does, and say so; while a disk lends memory they are refused, or the disk
 *   is;
 * - given to a device that has the host's kernel write to pages which that has
 *   pinned, past file-posix.c, where what is lost is read again: pinning[];
 * - locked, or registered with a userfaultfd: the kernel refuses it.  Each
 *   block is tried when it comes.
 *
 * What reads the memory may do so later than a swap, as a network card's packet
 * that the host's kernel has not sent, or a page of a migration: both pages had
 * the same contents when they were swapped.
 *
 * Discarding memory (a balloon, free page reporting, virtio-mem, a reset) is no
 * danger, at any time: see page-swap.c.  Memory that is unplugged has no
 * request any more, since each has a reference to it.
 */

#include "qemu/osdep.h"
#include "qemu/page-swap.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"
#include "exec/ramlist.h"
#include "hw/qdev-core.h"
#include "system/dma.h"
#include "system/ram-swap.h"

static unsigned int users;      /* BQL */
static GHashTable *unfit;       /* by address of a block: why; BQL */
static unsigned int nr_unfit;   /* their number; BQL, read by all: atomic */
static const char *pinned_by;   /* a type of device, or NULL; BQL, the same */

static const char *const pinning[] = {
    "vhost-scsi",
    "scsi-block",
    "virtio-9p-device",         /* if a file is a FUSE server's, for one */
};

/*
 * Called under the BQL or RCU rules.
 *
 * Returns: NULL, or why memory at @host must not be swapped.
 */
static const char *why_not(void *host, size_t len)
{
    ram_addr_t offset;
    RAMBlock *rb = qemu_ram_block_from_host(host, false, &offset);

    if (!rb || len > qemu_ram_get_used_length(rb) - offset) {
        return "is not the guest's";
    }
    if (qemu_ram_is_shared(rb)) {
        return "is shared";
    }
    if (qemu_ram_get_fd(rb) >= 0) {
        return "is a file's";
    }
    if (qemu_ram_pagesize(rb) != qemu_real_host_page_size()) {
        return "has huge pages";
    }
    return NULL;
}

/* The same of a region that is complete */
static bool is_private(MemoryRegion *mr)
{
    return !memory_region_is_ram_device(mr) &&
           !memory_region_is_protected(mr) &&
           !memory_region_has_guest_memfd(mr);
}

/*
 * Whether a page of a block can be swapped now.  Its region does not know the
 * block yet.
 */
static const char *try_block(void *host)
{
    struct iovec iov = { host, qemu_real_host_page_size() };
    const char *why = why_not(host, 1);

    if (!why && page_swap(&iov, 1) < 0) {
        why = "is locked, or somebody else handles its faults";
    }
    return why;
}

static void block_added(RAMBlockNotifier *n, void *host, size_t size,
                        size_t max_size)
{
    const char *why = try_block(host);

    if (why) {
        g_hash_table_insert(unfit, host, (void *)why);
        qatomic_set(&nr_unfit, g_hash_table_size(unfit));
    }
}

static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    g_hash_table_remove(unfit, host);
    qatomic_set(&nr_unfit, g_hash_table_size(unfit));
}

static RAMBlockNotifier notifier = {
    .ram_block_added = block_added,
    .ram_block_removed = block_removed,
};

static int look_at_device(Object *obj, void *opaque)
{
    for (int i = 0; i < ARRAY_SIZE(pinning); i++) {
        if (object_dynamic_cast(obj, pinning[i])) {
            qatomic_set(&pinned_by, pinning[i]);
        }
    }
    return 0;
}

static void device_realized(DeviceListener *listener, DeviceState *dev)
{
    look_at_device(OBJECT(dev), NULL);
}

static DeviceListener device_listener = {
    .realize = device_realized,
};

static bool swap_is_possible(void)
{
    return !qatomic_read(&nr_unfit) && !qatomic_read(&pinned_by);
}

/* What is not in a block is no guest's memory: a bounce buffer. */
static bool swap_may_swap(const struct iovec *iov, int niov)
{
    RCU_READ_LOCK_GUARD();

    if (qatomic_read(&pinned_by)) {
        return false;
    }
    for (int i = 0; i < niov; i++) {
        ram_addr_t offset;

        if (why_not(iov[i].iov_base, iov[i].iov_len) ||
            !is_private(memory_region_from_host(iov[i].iov_base, &offset))) {
            return false;
        }
    }
    return true;
}

static void swap_written(const struct iovec *iov, int niov)
{
    RCU_READ_LOCK_GUARD();

    for (int i = 0; i < niov; i++) {
        ram_addr_t offset;
        MemoryRegion *mr = memory_region_from_host(iov[i].iov_base, &offset);

        memory_region_set_dirty(mr, offset, iov[i].iov_len);
    }
}

static const BlkCancelSwap ram_swap = {
    .is_possible = swap_is_possible,
    .may_swap = swap_may_swap,
    .written = swap_written,
};

/* Say why the first that is unfit is. */
static void explain(Error **errp)
{
    GHashTableIter iter;
    ram_addr_t offset;
    gpointer host, why;
    RAMBlock *rb;

    g_hash_table_iter_init(&iter, unfit);
    if (pinned_by) {
        error_setg(errp, "a device '%s' may have pinned memory", pinned_by);
    } else if (g_hash_table_iter_next(&iter, &host, &why)) {
        rb = qemu_ram_block_from_host(host, false, &offset);
        error_setg(errp, "memory '%s' %s", rb ? qemu_ram_get_idstr(rb) : "?",
                   (const char *)why);
    }
}

const BlkCancelSwap *ram_swap_get(const char *path, Error **errp)
{
    if (users++) {
        return &ram_swap;
    }
    if (!page_swap_init(path, errp)) {
        goto fail;
    }
    if (ram_block_discard_require(true) < 0) {
        error_setg(errp, "a device or an accelerator has pinned the memory");
        goto fail;
    }
    unfit = g_hash_table_new(NULL, NULL);
    ram_block_notifier_add(&notifier);
    device_listener_register(&device_listener);
    object_child_foreach_recursive(qdev_get_machine(), look_at_device, NULL);
    if (!swap_is_possible()) {
        explain(errp);
        ram_swap_put();
        return NULL;
    }
    return &ram_swap;

fail:
    users--;
    return NULL;
}

void ram_swap_put(void)
{
    if (--users) {
        return;
    }
    device_listener_unregister(&device_listener);
    ram_block_notifier_remove(&notifier);
    g_clear_pointer(&unfit, g_hash_table_destroy);
    qatomic_set(&nr_unfit, 0);
    qatomic_set(&pinned_by, NULL);
    ram_block_discard_require(false);
}
