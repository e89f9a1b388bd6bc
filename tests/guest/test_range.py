# SPDX-License-Identifier: GPL-2.0-or-later
"""One half of a disk hangs, with many requests at once; the other half answers as
it does without cancel=, on virtio-blk, SCSI and NVMe.

Each device is there twice in one guest, and the one with cancel=off is the
control.
"""

import json
import threading
from dataclasses import dataclass

import pytest

from checks import IO_TIMEOUT, LATEST, assert_fine
from harm import ALL, HALF, UPPER
from harness import sides
from harness.guest import Disk
from harness.nvme import PARAMETERS
from harness.patterns import BLOCK

HUNG = 60
AT_ONCE = 16
BATCHES = 2         # at least

pytestmark = pytest.mark.usefixtures("need_fuse")


@dataclass
class Bus:
    """One kind of device: how QEMU has it, and how the guest finds it."""

    hba: tuple
    device: dict
    serial: str             # the guest's files that have it
    cancel: object = True   # the property's value

    def arguments(self, name, blockdev, cancel):
        """QEMU's command line for a disk of it."""
        device = {**self.device, "drive": f"node-{name}", "serial": name,
                  "id": name}
        if cancel:
            device["cancel"] = self.cancel
        return ["-blockdev", json.dumps({**blockdev,
                                         "node-name": f"node-{name}"}),
                "-device", json.dumps(device)]

    def find(self, guest, name):
        """The guest's device for a disk."""
        found = guest.run(f"until grep -l {name} {self.serial}; "
                          "do sleep 0.1; done", 120).splitlines()[0]
        return "/dev/" + found.split("/")[3]


BUSES = {
    "virtio": Bus((), {"driver": "virtio-blk-pci"}, "/sys/block/vd*/serial",
                  "on"),
    "scsi": Bus(("-device", "virtio-scsi-pci,id=hba"),
                {"driver": "scsi-hd", "bus": "hba.0"},
                "/sys/block/sd*/device/vpd_pg80"),
    "nvme": Bus((), {"driver": "nvme"}, "/sys/block/nvme*/device/serial"),
}


class Everything(Disk):
    """All of the disks, for the command line."""

    def __init__(self, disks):
        super().__init__("all", {})
        self._disks = disks

    def arguments(self):
        return [argument for bus in BUSES.values() for argument in bus.hba] + [
            argument for disk in self._disks for argument in disk]


class Reader(threading.Thread):
    """Writes and reads the healthy half, again and again."""

    def __init__(self, guest, device):
        super().__init__(daemon=True)
        self._guest, self._device = guest, device
        self._stopping = threading.Event()
        self.slowest, self.batches, self.said = 0.0, 0, ""  # its thread's
        self.start()

    def run(self):
        try:
            while not (self._stopping.is_set() and self.batches >= BATCHES):
                for op in ("write", "read"):
                    results = self._guest.io_on(
                        self._device, op, count=AT_ONCE,
                        seed=1 + self.batches).results(3 * LATEST)
                    assert_fine(results, 1 + self.batches)
                    self.slowest = max(self.slowest,
                                       *(r.seconds for r in results))
                self.batches += 1
        except (AssertionError, RuntimeError, OSError) as error:
            self.said = str(error) or repr(error)

    def stop(self):
        """No more after the present batch."""
        self._stopping.set()
        self.join(6 * LATEST)


def storage(rig, kind, name):
    """What a disk is on, and what holds its upper half."""
    server = rig.hold_fs(name)
    if kind == "io_uring":
        # Otherwise the host's kernel holds what comes after a dozen
        server.allow_background(rig.directory / "fusectl", 4 * HUNG)
    if kind == "nbd":
        nbd = rig.nbdkit(name=f"nbd-{name}", serves=server.path.parent)
        return server, nbd.blockdev(server.path.name)
    return server, server.blockdev(kind)


def prepare(guest):
    """Load the drivers; virtio_blk gives requests up soon, where it can."""
    guest.load_driver(io_timeout=IO_TIMEOUT)
    for name in ("scsi_common", "scsi_mod", "sd_mod", "virtio_scsi"):
        guest.run(f"insmod /lib/modules/test/{name}.ko")
    # Without aborts that work the guest would reset the controller, and QEMU
    # would stand still for that: only the one gives up that has them
    guest.run(f"echo 0 > {PARAMETERS}/max_retries")


@pytest.mark.parametrize("kind", ["io_uring", "threads", "nbd"][:None if ALL
                                                                else 1])
def test_half(rig, kind):
    """It hangs for as long as the guest tries it, and tries again."""
    # Where all of a file's writes wait for one, only reads hang
    ops, op = ("rw", "mixed") if kind == "io_uring" else ("r", "read")
    servers, disks = [], []
    names = [(bus, way) for bus in BUSES for way in ("off", "on")]
    for bus, way in names:
        server, blockdev = storage(rig, kind, f"{bus}-{way}")
        servers.append(server)
        disks.append(BUSES[bus].arguments(f"{bus}-{way}", blockdev,
                                          way == "on"))
    guest = rig.launch(Everything(disks)).wait_booted()
    prepare(guest)
    device = {name: BUSES[name[0]].find(guest, "-".join(name))
              for name in names}
    guest.run("echo %d > /sys/block/%s/queue/io_timeout" % (
        IO_TIMEOUT * 1000, device["nvme", "on"].removeprefix("/dev/")))
    with rig.alive():
        for server in servers:
            server.rule(ops, *UPPER, "hold")
        hung = {name: guest.io_on(device[name], op, HALF, count=HUNG)
                for name in names}
        # Of the others' clients what hangs has all slots
        readers = {name: Reader(guest, device[name]) for name in names
                   if kind != "nbd" or name[1] == "on"}
        gives_up = [("virtio", "on"), ("nvme", "on")]
        for _ in range(2):
            for name in gives_up:
                assert all(r.errno for r in hung[name].results(LATEST))
                hung[name] = guest.io_on(device[name], op, HALF, count=HUNG)
        for reader in readers.values():
            reader.stop()
        for server in servers:
            assert server.held()
            server.resume()
    for name, reader in readers.items():
        print(*name, f"{reader.batches} batches, {reader.slowest:.2f} s",
              reader.said)
    for (bus, way), reader in readers.items():
        off = readers.get((bus, "off"))
        assert not reader.said, f"{bus}, {way}: {reader.said}"
        assert way == "off" or reader.slowest < (
            sides.FACTOR * (off.slowest if off else 0) + sides.SILENCE), bus
    for io in hung.values():
        io.results(2 * LATEST)
