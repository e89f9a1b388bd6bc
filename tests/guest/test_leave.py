# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest whose disk is unplugged, or that moves, while requests hang."""

from dataclasses import dataclass

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load,
                    seeds, store)
from harness.guest import Disk, Guest
from harness.process import wait_until
from harness.qmp import QMPError
from harness.rig import TRACES

COUNT = 16
UNPLUGGED = "(unplugged"


@dataclass
class PortDisk(Disk):
    """A disk that can be unplugged."""

    def arguments(self):
        return ["-device", "pcie-root-port,id=above"] + super().arguments()


class Destination(Guest):
    """Where a guest goes on: what it was told there is answered here."""

    def __init__(self, source, *args):
        self._source = source
        super().__init__(*args)

    def _command(self, *args):
        return super()._command(*args) + ["-incoming", "defer"]

    # pylint: disable=protected-access
    def arrive(self, uri):
        """The source is done: the agent's answers come from here now."""
        wait_until(lambda: self.qmp.command("query-migrate")
                   .get("status") == "completed", "the guest to arrive")
        self._next_id = self._source._next_id
        self._names = self._source._names


def hang(server, guest, seed, **options):
    """Reads and writes that the storage holds."""
    server.pause()
    io = guest.io("disk", "mixed", seed=seed, count=COUNT, **options)
    wait_until(lambda: guest.in_flight("disk") == COUNT, "requests to hang")
    return io


def has_device(guest):
    """Whether the disk is plugged in."""
    return any(child["name"] == "disk" for child in guest.qmp.command(
        "qom-list", path="/machine/peripheral"))


def has_orphan(guest):
    """Whether QEMU shows a disk without its device."""
    return any(UNPLUGGED in disk.get("qdev", "")
               for disk in guest.qmp.command("query-block"))


def test_unplug(rig):
    """The disk goes at once; its image when the storage is back."""
    server = rig.nbdkit("disk")
    disk = PortDisk("disk", server.blockdev("disk"), iothread=True,
                    properties={"bus": "above"})
    guest = rig.boot(disk, io_timeout=IO_TIMEOUT)
    store(guest, "disk", seed=1, count=COUNT)
    io = hang(server, guest, seed=2)
    with rig.alive():
        guest.qmp.command("device_del", id="disk")
        assert_timed_out(io.results(LATEST))
        wait_until(lambda: not has_device(guest), "the disk to go")
        wait_until(lambda: has_orphan(guest), "what is left of it")
        with pytest.raises(QMPError):
            guest.qmp.command("blockdev-del", **{"node-name": "node-disk"})
        assert guest.run("ls /sys/block | grep ^vd || :") == ""
    server.resume()
    wait_until(lambda: not has_orphan(guest), "QEMU to let the image go")
    guest.qmp.command("blockdev-del", **{"node-name": "node-disk"})
    assert seeds(server.images["disk"], count=COUNT) <= {1, 2}
    guest.forget_disks()

    # The image has a new owner: the same guest again
    guest.qmp.command("blockdev-add", **server.blockdev("disk"),
                      **{"node-name": "node-disk"})
    guest.qmp.command("device_add", driver="virtio-blk-pci", id="disk",
                      drive="node-disk", serial="disk", bus="above",
                      cancel="on")
    wait_until(lambda: guest.run("ls /sys/block | grep ^vd || :"),
               "the disk to be back")
    store(guest, "disk", seed=3, count=COUNT)
    assert load(guest, "disk") == 3
    assert seeds(server.images["disk"], count=COUNT) == {3}


def test_migrate(rig):
    """A guest moves whose requests hang when it should, and hang there."""
    server = rig.nbdkit("disk")
    disk = Disk("disk", server.blockdev("disk"))
    guest = rig.boot(disk, io_timeout=IO_TIMEOUT)
    store(guest, "disk", seed=1, count=COUNT)
    there, logs = rig.directory / "there", rig.logs / "there"
    there.mkdir()
    logs.mkdir()
    uri = f"unix:{there / 'migrate'}"
    to = Destination(guest, rig.build, [disk], there, logs, TRACES)
    try:
        to.qmp.command("migrate-incoming", uri=uri)
        io = hang(server, guest, seed=2, watch=True)
        with rig.alive():
            guest.qmp.command("migrate", uri=uri)
            wait_until(lambda: guest.qmp.command("query-migrate")
                       .get("switchover-postponed"), "the source to wait")
            # Cancelled here, while the migration waits
            assert_timed_out(io.results(LATEST))
            assert guest.qmp.command("query-migrate")["status"] == "active"
        assert io.changed_bytes() == 0

        server.resume()
        wait_until(lambda: guest.qmp.command("query-migrate")
                   ["status"] == "completed", "the guest to leave")
        to.arrive(uri)
        rig.guest, source = to, guest
        source.close()
        assert to.has_cancel("disk")
        assert load(to, "disk") in (1, 2)

        # Cancelled there
        io = hang(server, to, seed=3, watch=True)
        with rig.alive():
            assert_timed_out(io.results(LATEST))
        server.resume()
        assert io.changed_bytes() == 0
        store(to, "disk", seed=4, count=COUNT)
        assert_fine(to.io("disk", "read", count=COUNT).results(), seed=4)
        assert seeds(server.images["disk"], count=COUNT) == {4}
    finally:
        server.release()
        to.close()
        guest.close()
