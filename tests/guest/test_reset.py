# SPDX-License-Identifier: GPL-2.0-or-later
"""Resets while the storage hangs; it is resumed only when they are over.

With cancel=reset they do not wait, whether the guest can cancel or not.
"""

from dataclasses import dataclass

import pytest

from checks import IO_TIMEOUT, assert_fine, load, seeds, store
from harness.guest import Disk
from harness.rig import MAX_SILENCE

COUNT = 16          # half of them reads, half writes
REQUESTS = r"virtio_blk_handle_(?:read|write) .*"
DRAINS = r"virtio_blk_cancel_drain .*"


@dataclass
class PortDisk(Disk):
    """A disk that can reset its function, which needs a PCIe port."""

    def arguments(self):
        return ["-device", "pcie-root-port,id=above"] + super().arguments()


@dataclass
class BridgeDisk(Disk):
    """A disk below a bridge that can reset its bus."""

    def arguments(self):
        return ["-device", "pci-bridge,id=above,chassis_nr=1"] + \
            super().arguments()


def boot(rig, kind=Disk, stock=False, iothread=False, **properties):
    """A guest and its disk: the distribution's driver, or ours."""
    server = rig.nbdkit("disk")
    if stock:
        properties["cancel"] = "reset"
    disk = kind("disk", server.blockdev("disk"), cancel=not stock,
                iothread=iothread, properties=properties)
    guest = rig.launch(disk).wait_booted()
    guest.allow_reboot()
    load_driver(guest, stock)
    store(guest, "disk", seed=1, count=COUNT)
    return server, guest


def load_driver(guest, stock):
    """Ours gives up in time what a hung disk does not answer."""
    if stock:
        guest.load_driver(stock=True)
    else:
        guest.load_driver(io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk") != stock


def hang(server, guest):
    """Reads and writes that the storage holds."""
    seen = len(guest.traces(REQUESTS))
    server.pause()
    guest.io("disk", "mixed", seed=2, count=COUNT)
    guest.wait_for_trace(REQUESTS, seen + COUNT - 1)


def assert_works(server, guest):
    """The abandoned writes are on the disk or not, and then nothing is late."""
    assert load(guest, "disk") in (1, 2)
    assert_fine(guest.io("disk", "read", count=COUNT).results())
    assert seeds(server.images["disk"], count=COUNT) <= {1, 2}
    store(guest, "disk", seed=3, count=COUNT)
    assert_fine(guest.io("disk", "read", count=COUNT).results(), seed=3)
    assert seeds(server.images["disk"], count=COUNT) == {3}


@pytest.mark.parametrize("method, kind, iothread",
                         [("flr", PortDisk, False), ("bus", BridgeDisk, True)],
                         ids=["function", "bus"])
def test_pci_reset(rig, build, method, kind, iothread):
    """Through the function, and through the bus above it."""
    if not build.stock_module.exists():
        pytest.skip(f"{build.stock_module} is missing")
    server, guest = boot(rig, kind, stock=True, iothread=iothread, bus="above")
    device = f"/sys/block/{guest.disk('disk')}/device/.."
    guest.run(f"echo {method} > {device}/reset_method")
    hang(server, guest)
    resets = guest.resets()
    with rig.alive():
        guest.run(f"echo 1 > {device}/reset")
        assert guest.resets() > resets
    assert not guest.traces(DRAINS)

    # This driver does not notice; the next one finds a device as ever.
    guest.qmp.command("system_reset")
    guest.wait_rebooted()
    server.resume()
    load_driver(guest, stock=True)
    assert_works(server, guest)


def assert_reboots(server, guest, reset, stock):
    """The guest boots again, and finds its disk, while the storage hangs."""
    hang(server, guest)
    guest.monitor.longest_stall()
    reset()
    guest.wait_rebooted()
    stall = guest.monitor.longest_stall()
    assert stall < MAX_SILENCE, f"the monitor stood still for {stall} s"
    assert not guest.traces(DRAINS)
    if not stock:                   # a driver that waits would wait here
        load_driver(guest, stock)
        assert guest.in_flight("disk") == 0
    server.resume()
    if stock:
        load_driver(guest, stock)
    assert_works(server, guest)


@pytest.mark.parametrize("stock, iothread", [(True, False), (False, True)],
                         ids=["stock-driver", "iothread"])
def test_system_reset(rig, build, stock, iothread):
    """From the monitor."""
    if stock and not build.stock_module.exists():
        pytest.skip(f"{build.stock_module} is missing")
    server, guest = boot(rig, stock=stock, iothread=iothread)
    assert_reboots(server, guest,
                   lambda: guest.qmp.command("system_reset"), stock)


def test_reboot(rig):
    """From the guest."""
    server, guest = boot(rig)
    assert_reboots(server, guest, lambda: guest.start("reboot -f"), False)
