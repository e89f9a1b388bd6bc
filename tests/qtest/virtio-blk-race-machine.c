/*
 * The race tests of virtio-blk's CANCEL request: QEMU and the device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Starts QEMU with memory that the guest's half of the test maps too, and
 * brings the device up, again and again.  The rings move with each reset, so
 * that the old ones tell whether the device has let go of them.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "qobject/qdict.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_pci.h"
#include "virtio-blk-cancel-lib.h"
#include "gate-patience.h"
#include "virtio-blk-race.h"

/* The device */

static void set_common(Guest *g, size_t offset, uint16_t value)
{
    qpci_io_writew(g->pci->pdev, g->pci->bar,
                   g->pci->common_cfg_offset + offset, value);
}

static void enable_queue(Guest *g, unsigned int index)
{
    GuestQueue *q = &g->queue[index];
    QVirtQueue vq;
    uint16_t notify;

    guest_init_queue(g, index);
    vq = (QVirtQueue) { .desc = q->desc, .avail = q->avail, .used = q->used };
    g->dev->bus->queue_select(g->dev, index);
    g_assert_cmpuint(g->dev->bus->get_queue_size(g->dev), >=,
                     GUEST_QUEUE_SIZE);
    set_common(g, offsetof(struct virtio_pci_common_cfg, queue_size),
               GUEST_QUEUE_SIZE);
    g->dev->bus->set_queue_address(g->dev, &vq);
    notify = qpci_io_readw(g->pci->pdev, g->pci->bar,
                           g->pci->common_cfg_offset +
                           offsetof(struct virtio_pci_common_cfg,
                                    queue_notify_off));
    q->notify = g->pci->notify_cfg_offset +
                notify * g->pci->notify_off_multiplier;
    set_common(g, offsetof(struct virtio_pci_common_cfg, queue_enable), 1);
}

static void start_device(Guest *g)
{
    uint64_t wanted = VBC_F(VIRTIO_F_VERSION_1) | VBC_F(VBC_F_CANCEL) |
                      VBC_F(VIRTIO_BLK_F_FLUSH) |
                      VBC_F(VIRTIO_BLK_F_DISCARD) |
                      VBC_F(VIRTIO_BLK_F_WRITE_ZEROES) |
                      VBC_F(VIRTIO_RING_F_INDIRECT_DESC);

    if (g->opts.packed) {
        wanted |= VBC_F(VIRTIO_F_RING_PACKED);
    }
    if (g->opts.queues > 1) {
        wanted |= VBC_F(VIRTIO_BLK_F_MQ);
    }
    g->dev->features_negotiated = false;
    qvirtio_start_device(g->dev);
    g_assert_cmphex(qvirtio_get_features(g->dev) & wanted, ==, wanted);
    qvirtio_set_features(g->dev, wanted);
    for (unsigned int i = 0; i < g->opts.queues; i++) {
        enable_queue(g, i);
    }
    qvirtio_set_driver_ok(g->dev);
}

/* The rings of before the last reset are as they were then. */
static void check_old_rings(Guest *g)
{
    for (unsigned int i = 0; i < g->opts.queues; i++) {
        GuestQueue *q = &g->queue[i];
        uint8_t *now = g->ram + q->area + !q->half * GUEST_RING_SIZE;

        if (q->old && memcmp(q->old, now, GUEST_RING_SIZE)) {
            race_fail("queue %u was used after a reset", i);
        }
        g_clear_pointer(&q->old, g_free);
    }
}

void guest_reset(Guest *g)
{
    g->stats.resets++;
    qvirtio_reset(g->dev);

    /* What the device has done, it has done by now */
    guest_reap(g);
    guest_drop_all(g);
    check_old_rings(g);
    for (unsigned int i = 0; i < g->opts.queues; i++) {
        GuestQueue *q = &g->queue[i];

        q->old = g_memdup2(g->ram + q->desc, GUEST_RING_SIZE);
        q->half = !q->half;
    }
    start_device(g);
}

void guest_stop_cont(Guest *g)
{
    g->stats.drains++;
    gate_patient_qmp(g->qts, "{\"execute\": \"stop\"}", NULL);
    qtest_qmp_eventwait(g->qts, "STOP");
    if (g->store && store_pending(g->store)) {
        race_fail("the VM is stopped, and requests are with the storage");
    }
    guest_reap(g);
    if (g->model) {
        model_check_disk(g->model, g->store);
    }
    qtest_qmp_assert_success(g->qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(g->qts, "RESUME");
}

/* QEMU */

static char *device_json(Guest *g)
{
    GString *s = g_string_new("{'driver': 'virtio-blk-pci', 'id': 'vblk',"
                              " 'drive': 'drv', 'cancel': 'on'");

    g_string_append_printf(s, ", 'addr': '%x.0', 'num-queues': %u, "
                           "'queue-size': %u", VBC_SLOT, g->opts.queues,
                           GUEST_QUEUE_SIZE);
    if (g->opts.packed) {
        g_string_append(s, ", 'packed': true");
    }
    if (g->opts.iothreads) {
        g_string_append(s, ", 'iothread-vq-mapping': [");
        for (unsigned int i = 0; i < g->opts.iothreads; i++) {
            g_string_append_printf(s, "%s{'iothread': 'io%u'}",
                                   i ? ", " : "", i);
        }
        g_string_append(s, "]");
    }
    g_string_append_printf(s, "%s%s}", g->opts.device ? ", " : "",
                           g->opts.device ?: "");
    g_strdelimit(s->str, "'", '"');
    return g_string_free(s, false);
}

static void map_ram(Guest *g)
{
    int fd = g_file_open_tmp("qtest-race-ram.XXXXXX", &g->ram_file, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, GUEST_RAM_SIZE), ==, 0);
    g->ram = mmap(NULL, GUEST_RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                  fd, 0);
    g_assert_true(g->ram != MAP_FAILED);
    close(fd);
}

/*
 * After a failed assertion nothing may be left that waits for what hangs.  To
 * be added after libqtest's own handler, which waits for QEMU.
 */
static void kill_qemu(void *opaque)
{
    Guest *g = opaque;

    unlink(g->ram_file);
    if (g->store) {
        unlink(store_socket(g->store));
    }
    if (g->qts && qtest_pid(g->qts) > 0) {
        kill(qtest_pid(g->qts), SIGKILL);
    }
}

static char *file_options(Guest *g)
{
    return g->opts.file ? g_strdup(g->opts.file)
                        : g_strdup_printf("file.driver=nbd,"
                                          "file.server.type=unix,"
                                          "file.server.path=%s",
                                          store_socket(g->store));
}

static void start_qemu(Guest *g)
{
    g_autofree char *device = device_json(g);
    g_autofree char *file = file_options(g);
    g_autoptr(GString) threads = g_string_new("");

    for (unsigned int i = 0; i < g->opts.iothreads; i++) {
        g_string_append_printf(threads, "-object iothread,id=io%u ", i);
    }
    g->qts = qtest_initf("-machine pc,memory-backend=ram -nodefaults -m %uM "
                         "-object memory-backend-file,id=ram,size=%uM,"
                         "mem-path=%s,share=on %s %s "
                         "-drive if=none,id=drv,format=raw,discard=unmap,"
                         "%s%s -device '%s'",
                         GUEST_RAM_SIZE >> 20, GUEST_RAM_SIZE >> 20,
                         g->ram_file, threads->str, g->opts.args ?: "",
                         file, g->opts.drive ?: "", device);
}

static Guest *new_guest(const GuestOptions *opts, Store *store, Model *model)
{
    Guest *g = g_new0(Guest, 1);

    g->opts = *opts;
    g->store = store;
    g->model = model;
    g->next_tag = 1;
    g_queue_init(&g->free_pages);
    return g;
}

/* Find the device in @slot, and start it. */
static void find_device(Guest *g, unsigned int slot)
{
    QGuestAllocator *alloc = g->host ? &g->host->alloc : &g->alloc;
    QPCIAddress addr = { .devfn = QPCI_DEVFN(slot, 0) };

    guest_init_pages(g, alloc);
    for (unsigned int i = 0; i < g->opts.queues; i++) {
        g->queue[i].area = guest_alloc(alloc, 2 * GUEST_RING_SIZE);
    }
    g->pci = virtio_pci_new(g->bus, &addr);
    g_assert_nonnull(g->pci);
    g->dev = &g->pci->vdev;
    qvirtio_pci_device_enable(g->pci);
    start_device(g);
}

Guest *guest_start(const GuestOptions *opts, Store *store, Model *model)
{
    Guest *g = new_guest(opts, store, model);

    map_ram(g);
    start_qemu(g);
    qtest_add_abrt_handler(kill_qemu, g);
    pc_alloc_init(&g->alloc, g->qts, ALLOC_NO_FLAGS);
    g->bus = qpci_new_pc(g->qts, &g->alloc);
    find_device(g, VBC_SLOT);
    return g;
}

Guest *guest_attach(Guest *host, const GuestOptions *opts, unsigned int slot,
                    Store *store, Model *model)
{
    Guest *g = new_guest(opts, store, model);

    g->host = host;
    g->ram = host->ram;
    g->qts = host->qts;
    g->bus = host->bus;
    find_device(g, slot);
    return g;
}

char *guest_disk_args(unsigned int slot, Store *store)
{
    return g_strdup_printf("-object iothread,id=io-%u "
                           "-drive if=none,id=drv-%u,format=raw,discard=unmap,"
                           "file.driver=nbd,file.server.type=unix,"
                           "file.server.path=%s -device virtio-blk-pci,"
                           "drive=drv-%u,iothread=io-%u,addr=%x.0,cancel=on",
                           slot, slot, store_socket(store), slot, slot, slot);
}

bool race_reset_held(void)
{
    const char *held = getenv("RACE_RESET_HELD");

    return !held || !*held || strcmp(held, "0");
}

void guest_end(Guest *g)
{
    g_assert_cmpuint(guest_requests(g) + guest_cancels(g), ==, 0);
    g_assert_false(g->dev->bus->get_status(g->dev) &
                   VIRTIO_CONFIG_S_NEEDS_RESET);
    check_old_rings(g);
    guest_check_pages(g);
    g_queue_clear(&g->free_pages);
    qvirtio_pci_destructor(&g->pci->obj);
    g_free(g->pci);
    if (!g->host) {
        qpci_free_pc(g->bus);
        alloc_destroy(&g->alloc);
        qtest_quit(g_steal_pointer(&g->qts));
        qtest_remove_abrt_handler(g);
        munmap(g->ram, GUEST_RAM_SIZE);
        unlink(g->ram_file);
        g_free(g->ram_file);
    }
    g_free(g);
}
