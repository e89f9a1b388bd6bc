# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a disk while requests that were cancelled still linger.

Stopping is refused, and quitting waits for the storage; afterwards all must be
as ever.
"""

import contextlib
import threading
from dataclasses import dataclass

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_timed_out, load,
                    seeds, store)
from harness.guest import SHUTDOWN, WAITS, Disk
from harness.patterns import BLOCK
from harness.process import wait_until
from harness.qmp import QMPError
from harness.rig import MAX_SILENCE

# What a command says that would wait.
HANGS = "would wait for storage that hangs"
WAITS_FOR_STORAGE = "waits for storage that hangs"

# Tell the host of a panic, by the only register of a PCI device
PANIC = ("cd $(dirname $(grep -l 0x0011 /sys/bus/pci/devices/*/device)); "
         "echo 1 > enable; devmem $(head -n 1 resource | cut -d ' ' -f 1) 8 1")


@dataclass
class PanicDisk(Disk):
    """A disk in a machine that knows of the guest's panic."""

    def arguments(self):
        return ["-device", "pvpanic-pci"] + super().arguments()


def boot_and_cancel(rig, iothread, kind=Disk):
    """A guest whose disk hangs, with a cancelled read and write."""
    server = rig.nbdkit("disk")
    guest = rig.boot(
        kind("disk", server.blockdev("disk"), iothread=iothread),
        io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1, count=8)
    server.pause()
    batch = guest.io("disk", "mixed", seed=2, count=8)
    assert_timed_out(batch.results(LATEST))
    return server, guest


def in_background(guest, command):
    """Give the monitor a command whose answer will take a while."""
    def execute():
        with contextlib.suppress(QMPError):     # "quit" ends the monitor
            guest.qmp.command(command)
    thread = threading.Thread(target=execute, daemon=True)
    thread.start()
    return thread


def not_refused(guest, command):
    """Execute a command; whether it has not been refused."""
    try:
        guest.qmp.command(command)
    except QMPError as error:
        assert HANGS in str(error)
        return False
    return True


def assert_works(server, guest):
    """The disk does what a disk does."""
    assert load(guest, "disk") == 1
    store(guest, "disk", seed=3, count=8)
    assert seeds(server.images["disk"], count=8) == {3}


@pytest.mark.parametrize("iothread", [False, True],
                         ids=["main-loop", "iothread"])
class TestLifecycle:
    """Each operation starts while the storage hangs."""

    def test_stop(self, rig, iothread):
        """The VM cannot be stopped now, and runs on; afterwards it can."""
        server, guest = boot_and_cancel(rig, iothread)
        with rig.alive():
            with pytest.raises(QMPError, match=HANGS):
                guest.qmp.command("stop")
            # A node that has nothing to do with the disk that hangs
            guest.qmp.command("blockdev-add", driver="null-co",
                              **{"node-name": "other"})
            guest.qmp.command("cont")
        server.resume()
        wait_until(lambda: not_refused(guest, "stop"), "the VM to stop")
        guest.qmp.command("cont")
        assert_works(server, guest)

    def test_reset(self, rig, iothread):
        """The driver is unloaded, which resets the device, and loaded."""
        server, guest = boot_and_cancel(rig, iothread)
        resets = guest.resets()
        with rig.alive():
            guest.run("rmmod virtio_blk", LATEST)
            assert guest.resets() > resets
            # What the driver reads first waits behind the cancelled write,
            # and is cancelled as well.
            guest.load_driver(io_timeout=IO_TIMEOUT)
            assert guest.has_cancel("disk")
        server.resume()
        assert_works(server, guest)

    def test_panic(self, rig, iothread):
        """The VM stops at once, and is free when the storage is back."""
        server, guest = boot_and_cancel(rig, iothread, PanicDisk)
        guest.allow_reboot()
        guest.qmp.command("set-action", panic="pause")
        guest.monitor.longest_stall()
        guest.start(PANIC)
        wait_until(lambda: f"'stop' {WAITS_FOR_STORAGE}" in guest.said(),
                   "QEMU to say that it waits")
        assert guest.status() == "guest-panicked"
        stall = guest.monitor.longest_stall()
        assert stall < MAX_SILENCE, f"the monitor stood still for {stall} s"
        server.resume()
        guest.qmp.command("system_reset")
        guest.qmp.command("cont")
        guest.wait_rebooted()
        guest.load_driver(io_timeout=IO_TIMEOUT)
        assert_works(server, guest)

    def test_quit(self, rig, iothread):
        """QEMU ends, with a request waiting behind a cancelled write."""
        server, guest = boot_and_cancel(rig, iothread)
        waits = len(guest.traces(WAITS))
        guest.io("disk", "write", offset=BLOCK, seed=4)
        guest.wait_for_trace(WAITS, waits)
        in_background(guest, "quit")
        guest.wait_for_trace(SHUTDOWN, 0)
        server.resume()
        assert guest.wait_exit(LATEST) == 0
        assert seeds(server.images["disk"], BLOCK) <= {1, 2, 4}
