# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the fuzz targets of devices with cancel= need, for a short build:
# ./configure --without-default-devices --with-devices-x86_64=cancel-fuzz

CONFIG_Q35=y
CONFIG_PCIE_PORT=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_SCSI=y
CONFIG_NVME_PCI=y
