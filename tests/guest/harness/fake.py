# SPDX-License-Identifier: GPL-2.0-or-later
"""The device in fake-blk.c: a disk in the guest that goes wrong on command."""

from . import process

NAME = "fake"
PARAMETERS = "/sys/module/fake_blk/parameters"


class FakeDisk:
    """The device with a driver on it; both are in the guest's kernel.

    Its own parameters, which fake-blk.c explains, are read and set here.
    """

    def __init__(self, guest, **device):
        self._guest = guest
        words = " ".join(f"{k}={v}" for k, v in device.items())
        guest.run(f"insmod /lib/modules/test/fake_blk.ko {words}")
        guest.forget_disks()
        guest.disk(NAME)                # asking is a request, so now
        # Those that it took to bind the driver
        self.resets = self.get("resets")

    def set(self, **parameters):
        """Have the device go wrong, or stop doing so, in this order."""
        self._guest.run("; ".join(f"echo {value} > {PARAMETERS}/{name}"
                                  for name, value in parameters.items()))

    def get(self, name):
        """One of the device's counters."""
        return int(self._guest.run(f"cat {PARAMETERS}/{name}"))

    def wait(self, name, count, timeout=60):
        """Wait until a counter has reached this."""
        process.wait_until(lambda: self.get(name) >= count,
                           f"{name} to reach {count}", timeout, interval=0.1)

    def io(self, op, offset=0, **options):
        """Issue requests; see Guest.io()."""
        return self._guest.io(NAME, op, offset, **options)

    def sysfs(self, path, value=None):
        """Read or write a file of the disk in sysfs."""
        path = f"/sys/block/{self._guest.disk(NAME)}/{path}"
        if value is None:
            return self._guest.run(f"cat {path}")
        return self._guest.run(f"echo {value} > {path}")

    def remove(self, timeout=60):
        """Take the device away, then the driver."""
        self._guest.run("rmmod fake_blk", timeout)
        self._guest.run("rmmod virtio_blk", timeout)
