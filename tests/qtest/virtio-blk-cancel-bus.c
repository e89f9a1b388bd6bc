/*
 * Two more transports for the tests of virtio-blk's CANCEL request
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * libqos drives PCI devices by their modern interface if they have one, and
 * MMIO devices by their legacy interface.  This does the opposite.
 */

#include "qemu/osdep.h"
#include "standard-headers/linux/virtio_mmio.h"
#include "standard-headers/linux/virtio_pci.h"
#include "standard-headers/linux/virtio_ring.h"
#include "virtio-blk-cancel-lib.h"

/* The legacy interface of a PCI device: I/O ports, without MSI-X */

static QVirtioPCIDevice *to_pci(QVirtioDevice *d)
{
    return container_of(d, QVirtioPCIDevice, vdev);
}

static uint64_t legacy_get_features(QVirtioDevice *d)
{
    return qpci_io_readl(to_pci(d)->pdev, to_pci(d)->bar,
                         VIRTIO_PCI_HOST_FEATURES);
}

static void legacy_set_features(QVirtioDevice *d, uint64_t features)
{
    qpci_io_writel(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_GUEST_FEATURES,
                   features);
}

static uint64_t legacy_get_guest_features(QVirtioDevice *d)
{
    return qpci_io_readl(to_pci(d)->pdev, to_pci(d)->bar,
                         VIRTIO_PCI_GUEST_FEATURES);
}

static uint8_t legacy_get_status(QVirtioDevice *d)
{
    return qpci_io_readb(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_STATUS);
}

static void legacy_set_status(QVirtioDevice *d, uint8_t status)
{
    qpci_io_writeb(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_STATUS, status);
}

static bool legacy_get_isr(QVirtioDevice *d, QVirtQueue *vq)
{
    return qpci_io_readb(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_ISR) & 1;
}

static void legacy_select(QVirtioDevice *d, uint16_t index)
{
    qpci_io_writew(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_QUEUE_SEL,
                   index);
}

static uint16_t legacy_queue_size(QVirtioDevice *d)
{
    return qpci_io_readw(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_QUEUE_NUM);
}

static void legacy_set_queue_address(QVirtioDevice *d, QVirtQueue *vq)
{
    qpci_io_writel(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_QUEUE_PFN,
                   vq->desc / VIRTIO_PCI_VRING_ALIGN);
}

static void legacy_kick(QVirtioDevice *d, QVirtQueue *vq)
{
    qpci_io_writew(to_pci(d)->pdev, to_pci(d)->bar, VIRTIO_PCI_QUEUE_NOTIFY,
                   vq->index);
}

static const QVirtioBus legacy_bus = {
    .get_features = legacy_get_features,
    .set_features = legacy_set_features,
    .get_guest_features = legacy_get_guest_features,
    .get_status = legacy_get_status,
    .set_status = legacy_set_status,
    .get_queue_isr_status = legacy_get_isr,
    .queue_select = legacy_select,
    .get_queue_size = legacy_queue_size,
    .set_queue_address = legacy_set_queue_address,
    .virtqueue_setup = qvirtio_pci_virtqueue_setup_common,
    .virtqueue_cleanup = qvirtio_pci_virtqueue_cleanup_common,
    .virtqueue_kick = legacy_kick,
};

void vbc_bus_make_legacy(QVirtioPCIDevice *pci)
{
    pci->bar_idx = 0;
    pci->vdev.bus = &legacy_bus;
}

/* The modern interface of an MMIO device */

#define MICROVM_MMIO    0xfeb00000
#define MICROVM_STRIDE  512
#define MICROVM_COUNT   24

static void mmio_write(QVirtioDevice *d, uint64_t reg, uint32_t value)
{
    QVirtioMMIODevice *mmio = container_of(d, QVirtioMMIODevice, vdev);

    qtest_writel(mmio->qts, mmio->addr + reg, value);
}

static uint32_t mmio_read(QVirtioDevice *d, uint64_t reg)
{
    QVirtioMMIODevice *mmio = container_of(d, QVirtioMMIODevice, vdev);

    return qtest_readl(mmio->qts, mmio->addr + reg);
}

static void mmio_select(QVirtioDevice *d, uint16_t index)
{
    mmio_write(d, VIRTIO_MMIO_QUEUE_SEL, index);
    g_assert_cmpuint(mmio_read(d, VIRTIO_MMIO_QUEUE_READY), ==, 0);
}

static QVirtQueue *mmio_setup(QVirtioDevice *d, QGuestAllocator *alloc,
                              uint16_t index)
{
    QVirtioMMIODevice *mmio = container_of(d, QVirtioMMIODevice, vdev);
    QVirtQueue *vq = g_new0(QVirtQueue, 1);
    uint64_t parts[3];

    mmio_select(d, index);
    vq->vdev = d;
    vq->index = index;
    vq->size = mmio_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX);
    vq->num_free = vq->size;
    vq->align = mmio->page_size;
    g_assert_cmpuint(vq->size, >, 0);
    mmio_write(d, VIRTIO_MMIO_QUEUE_NUM, vq->size);

    qvring_init(mmio->qts, alloc, vq,
                guest_alloc(alloc, qvring_size(vq->size, vq->align)));
    parts[0] = vq->desc;
    parts[1] = vq->avail;
    parts[2] = vq->used;
    for (unsigned int i = 0; i < ARRAY_SIZE(parts); i++) {
        uint64_t reg = VIRTIO_MMIO_QUEUE_DESC_LOW + 0x10 * i;

        mmio_write(d, reg, parts[i]);
        mmio_write(d, reg + 4, parts[i] >> 32);
    }
    mmio_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
    return vq;
}

QVirtioMMIODevice *vbc_bus_find_mmio(QTestState *qts)
{
    static QVirtioBus modern;
    QVirtioMMIODevice *mmio = g_new0(QVirtioMMIODevice, 1);

    for (unsigned int i = 0; i < MICROVM_COUNT; i++) {
        uint64_t addr = MICROVM_MMIO + i * MICROVM_STRIDE;

        if (qtest_readl(qts, addr + VIRTIO_MMIO_DEVICE_ID)) {
            qvirtio_mmio_init_device(mmio, qts, addr, 4096);
            break;
        }
    }
    g_assert_cmpuint(mmio->vdev.device_type, ==, VIRTIO_ID_BLOCK);
    if (mmio->version == 2) {
        modern = qvirtio_mmio;
        modern.queue_select = mmio_select;
        modern.virtqueue_setup = mmio_setup;
        mmio->vdev.bus = &modern;
    }
    return mmio;
}
