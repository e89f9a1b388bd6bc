# SPDX-License-Identifier: GPL-2.0-or-later
"""The device in fake-blk.c: a disk in the guest that goes wrong on command."""

from contextlib import contextmanager, suppress

from . import process
from .guest import GuestGone

NAME = "fake"
PARAMETERS = "/sys/module/fake_blk/parameters"

# Seconds; the block layer adds up to 1.2, and the driver one more before it
# gives a request up.
IO_TIMEOUT = 1


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

    def submit(self, what):
        """Do to the disk what no program can; see fake-blk.c."""
        self.set(submit=f"'{what} /dev/{self._guest.disk(NAME)}'")

    def submitted(self):
        """What became of that: errno and sector; not yet known: nothing."""
        words = self._guest.run(f"cat {PARAMETERS}/submit").split()
        return [int(word) for word in words if word != "-"]

    def remove(self, timeout=60):
        """Take the device away, then the driver."""
        self._guest.run("rmmod fake_blk", timeout)
        self._guest.run("rmmod virtio_blk", timeout)


@contextmanager
def fake(guest, driver=None, **device):
    """The device with our driver; in the end both can be removed."""
    guest.run("cd /lib/modules/test; [ ! -e virtio_next.ko ] || "
              "[ -e /sys/module/virtio_next ] || insmod virtio_next.ko")
    guest.load_driver(**{"io_timeout": IO_TIMEOUT, **(driver or {})})
    disk = FakeDisk(guest, **device)
    try:
        yield disk
    except BaseException:
        # So that the next test has its chance
        with suppress(process.Timeout, RuntimeError, GuestGone):
            disk.set(hold="N", cancel="obey", mute="N", status=0, slow=0,
                     reset_ms=0)
            disk.remove()
        raise
    disk.remove()


class Messages:
    """What the driver says from now on."""

    def __init__(self, guest):
        self._guest = guest
        self._before = len(guest.kernel_log())

    def count(self, what):
        """In how many lines it has said this."""
        return sum(what in line
                   for line in self._guest.kernel_log()[self._before:])

    def wait(self, what, timeout=60):
        """Wait until it has said this."""
        process.wait_until(lambda: self.count(what), f"'{what}'", timeout)
