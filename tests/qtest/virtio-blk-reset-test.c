/*
 * virtio-blk: resets that do not wait for storage that hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A write hangs in blkdebug until this lets it go.  The device, or the
 * virtqueue, is reset before that: if the reset waits, so does the test.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "libqos/libqos-malloc.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "qobject/qdict.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_pci.h"

#define DISK_SIZE   (1024 * 1024)
#define LEN         512
#define PATIENCE_US (30 * G_USEC_PER_SEC)
#define UNUSED      0xff    /* the status byte until the device has written */

typedef struct Machine {
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *pci;
    QVirtQueue *vq;
    char *image;
} Machine;

typedef struct Request {
    uint64_t addr;              /* header, data, status */
    uint32_t head;
} Request;

static void start_device(Machine *m)
{
    QVirtioDevice *dev = &m->pci->vdev;

    qvirtio_start_device(dev);
    qvirtio_set_features(dev, qvirtio_get_features(dev) &
                         (1ull << VIRTIO_F_VERSION_1 |
                          1ull << VIRTIO_F_RING_RESET));
    m->vq = qvirtqueue_setup(dev, &m->alloc, 0);
    qvirtio_set_driver_ok(dev);
}

static void start(Machine *m, const char *args, const char *device)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(4, 0) };
    int fd = g_file_open_tmp("qtest.XXXXXX", &m->image, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, DISK_SIZE), ==, 0);
    close(fd);
    m->qts = qtest_initf("-machine pc -nodefaults %s -drive if=none,id=disk,"
                         "format=raw,file.driver=blkdebug,"
                         "file.image.filename=%s "
                         "-device virtio-blk-pci,id=dut,addr=4.0,drive=disk,"
                         "cancel=reset%s", args, m->image, device);
    pc_alloc_init(&m->alloc, m->qts, ALLOC_NO_FLAGS);
    m->bus = qpci_new_pc(m->qts, &m->alloc);
    m->pci = virtio_pci_new(m->bus, &addr);
    qvirtio_pci_device_enable(m->pci);
    start_device(m);
}

static void stop(Machine *m)
{
    qvirtqueue_cleanup(m->pci->vdev.bus, m->vq, &m->alloc);
    qvirtio_pci_destructor(&m->pci->obj);
    g_free(m->pci);
    qpci_free_pc(m->bus);
    alloc_destroy(&m->alloc);
    qtest_quit(m->qts);
    unlink(m->image);
    g_free(m->image);
}

static void qemu_io(Machine *m, const char *command)
{
    g_autofree char *out = qtest_hmp(m->qts, "qemu-io disk \"%s\"", command);

    g_assert_cmpstr(out, ==, "");
}

/* The device has taken a request off the ring. */
static bool has_taken(Machine *m)
{
    QDict *ret = qtest_qmp_assert_success_ref(
        m->qts, "{'execute': 'x-query-virtio-queue-status', 'arguments': {"
        " 'path': '/machine/peripheral/dut/virtio-backend', 'queue': 0}}");
    int64_t index = qdict_get_int(ret, "last-avail-idx");

    qobject_unref(ret);
    return index > 0;
}

static Request submit_write(Machine *m, uint64_t sector, uint8_t fill)
{
    const struct virtio_blk_outhdr hdr = {
        .type = cpu_to_le32(VIRTIO_BLK_T_OUT),
        .sector = cpu_to_le64(sector),
    };
    Request r = {
        .addr = guest_alloc(&m->alloc, sizeof(hdr) + LEN + 1),
    };
    uint64_t data = r.addr + sizeof(hdr);

    qtest_memwrite(m->qts, r.addr, &hdr, sizeof(hdr));
    qtest_memset(m->qts, data, fill, LEN);
    qtest_writeb(m->qts, data + LEN, UNUSED);
    r.head = qvirtqueue_add(m->qts, m->vq, r.addr, sizeof(hdr), false, true);
    qvirtqueue_add(m->qts, m->vq, data, LEN, false, true);
    qvirtqueue_add(m->qts, m->vq, data + LEN, 1, true, false);
    qvirtqueue_kick(m->qts, &m->pci->vdev, m->vq, r.head);
    return r;
}

static uint8_t status(Machine *m, Request *r)
{
    return qtest_readb(m->qts, r->addr + sizeof(struct virtio_blk_outhdr) +
                               LEN);
}

static void wait_done(Machine *m, Request *r)
{
    qvirtio_wait_used_elem(m->qts, &m->pci->vdev, m->vq, r->head, NULL,
                           PATIENCE_US);
    g_assert_cmpuint(status(m, r), ==, VIRTIO_BLK_S_OK);
}

static void check_disk(Machine *m, uint64_t sector, uint8_t fill)
{
    g_autofree char *contents = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(m->image, &contents, &len, NULL));
    g_assert_cmpuint(len, ==, DISK_SIZE);
    for (int i = 0; i < LEN; i++) {
        g_assert_cmphex((uint8_t)contents[sector * LEN + i], ==, fill);
    }
}

static void reset_device(Machine *m)
{
    qvirtio_reset(&m->pci->vdev);
    qvirtqueue_cleanup(m->pci->vdev.bus, m->vq, &m->alloc);
    start_device(m);
}

static void reset_queue(Machine *m)
{
    QVirtioPCIDevice *pci = m->pci;
    uint64_t cfg = pci->common_cfg_offset;

    qpci_io_writew(pci->pdev, pci->bar, cfg + VIRTIO_PCI_COMMON_Q_SELECT, 0);
    qpci_io_writew(pci->pdev, pci->bar, cfg + VIRTIO_PCI_COMMON_Q_RESET, 1);
    g_assert_cmpuint(qpci_io_readw(pci->pdev, pci->bar,
                                   cfg + VIRTIO_PCI_COMMON_Q_RESET), ==, 0);
    qvirtqueue_cleanup(pci->vdev.bus, m->vq, &m->alloc);
    m->vq = qvirtqueue_setup(&pci->vdev, &m->alloc, 0);
}

static void test_reset(const char *args, const char *device,
                       void (*reset)(Machine *m))
{
    gint64 end = g_get_monotonic_time() + PATIENCE_US;
    Machine m;
    Request old, other, newer;

    start(&m, args, device);
    qemu_io(&m, "break write_aio hang");
    old = submit_write(&m, 0, 0x11);
    while (!has_taken(&m)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }

    reset(&m);

    /* Elsewhere the disk works; what overlaps waits for the old one */
    other = submit_write(&m, 8, 0x22);
    wait_done(&m, &other);
    newer = submit_write(&m, 0, 0x33);
    other = submit_write(&m, 16, 0x44);
    wait_done(&m, &other);
    g_assert_cmpuint(status(&m, &newer), ==, UNUSED);
    qemu_io(&m, "resume hang");
    wait_done(&m, &newer);
    check_disk(&m, 0, 0x33);

    /* Nothing has been written where the guest does not expect it any more */
    g_assert_cmpuint(status(&m, &old), ==, UNUSED);
    stop(&m);
}

static void test_device(void)
{
    test_reset("", "", reset_device);
}

static void test_device_iothread(void)
{
    test_reset("-object iothread,id=io", ",iothread=io", reset_device);
}

static void test_queue(void)
{
    test_reset("", "", reset_queue);
}

static void test_queue_iothread(void)
{
    test_reset("-object iothread,id=io", ",iothread=io", reset_queue);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/virtio-blk-reset/device", test_device);
    qtest_add_func("/virtio-blk-reset/device/iothread", test_device_iothread);
    qtest_add_func("/virtio-blk-reset/queue", test_queue);
    qtest_add_func("/virtio-blk-reset/queue/iothread", test_queue_iothread);
    return g_test_run();
}
