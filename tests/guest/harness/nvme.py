# SPDX-License-Identifier: GPL-2.0-or-later
"""An NVMe disk, and the guest's own driver, which is built into its kernel."""

import json
import re
from dataclasses import dataclass, field

from . import process

DEVICE = "/dev/nvme0n1"
PCI = "/sys/class/nvme/nvme0/device"
PARAMETERS = "/sys/module/nvme_core/parameters"

# What the guest's kernel says
ABORTS = re.compile(r"nvme nvme0: I/O tag .*timeout, aborting")
ABORTED = re.compile(r"nvme nvme0: Abort status: 0x0$")
RESETS = re.compile(r"nvme nvme0: .*reset controller|resetting controller")

# Lines of QEMU's trace log
TRACES = "pci_nvme_cancel*"
TAKEN_BACK = r"pci_nvme_cancel_abort .*: aborted$"
LEFT = r"pci_nvme_cancel_abort .*: (?!aborted$)"
DROPPED = r"pci_nvme_cancel_drop .*: (\d+) dropped"
DISABLED = r"pci_nvme_cancel_drop sqid 0: .*"


# Aborts that its driver can have under way: the tags of its admin queue
ADMIN_TAGS = 30


@dataclass
class NvmeDisk:
    """A controller with one namespace."""

    blockdev: dict
    cancel: bool = True
    properties: dict = field(default_factory=dict)

    def arguments(self):
        """QEMU's command line for it."""
        device = {"driver": "nvme", "serial": "nvme", "drive": "node-nvme",
                  "cancel": self.cancel, **self.properties}
        return ["-blockdev",
                json.dumps({**self.blockdev, "node-name": "node-nvme"}),
                "-device", json.dumps(device), "-trace", TRACES]


class NvmeGuest:
    """What a guest does with the disk."""

    def __init__(self, guest, io_timeout, max_retries=None):
        self._guest = guest
        process.wait_until(lambda: "there" in guest.run(
            f"[ -b {DEVICE} ] && echo there || :"), DEVICE)
        guest.run("echo %d > /sys/block/nvme0n1/queue/io_timeout"
                  % (io_timeout * 1000))
        if max_retries is not None:
            guest.run(f"echo {max_retries} > {PARAMETERS}/max_retries")

    def io(self, op, offset=0, **options):
        """Issue requests; see Guest.io()."""
        return self._guest.io_on(DEVICE, op, offset, **options)

    def said(self, pattern):
        """Lines of the guest's kernel."""
        return [line for line in self._guest.kernel_log()
                if pattern.search(line)]
