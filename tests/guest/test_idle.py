# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands while the storage of a disk hangs that nobody uses.

Nothing of it is in flight, so QEMU finds out only when it asks the file: to open
it, to lock it, to close it.  No vCPU and no monitor waits for that: the storage
answers only at the end of each test.
"""

import threading
from dataclasses import dataclass

import pytest

from checks import IO_TIMEOUT, LATEST, assert_fine, load, store
from harness.guest import Disk
from harness.process import wait_until
from harness.qmp import QMPError
from harness.rig import MAX_SILENCE
from harness.servers import make_image

pytestmark = pytest.mark.usefixtures("need_fuse")

DRIVE = ["-blockdev", "driver=null-co,node-name=medium",
         "-device", "ide-cd,id=cd,drive=medium"]


@dataclass
class PortDisk(Disk):
    """A disk that can be unplugged, and a drive for media."""

    def arguments(self):
        return (["-device", "pcie-root-port,id=above"] + DRIVE +
                super().arguments())


def boot(rig):
    """A disk on a FUSE file that is idle."""
    server = rig.hold_fs()
    disk = PortDisk("disk", server.blockdev("threads"),
                    properties={"bus": "above"})
    guest = rig.boot(disk, io_timeout=IO_TIMEOUT)
    store(guest, "disk", seed=1)
    return server, guest


def add_node(server, guest):
    """Open the file once more, as a writer that does not share it."""
    guest.qmp.command("blockdev-add", **{
        **server.blockdev("threads"), "node-name": "again"})


def works(command):
    """Whether a command, if it is not refused, works."""
    try:
        command()
    except QMPError:
        return False
    return True


def refused(guest, name, **arguments):
    """A command fails, and says why."""
    with pytest.raises(QMPError, match="does not answer"):
        guest.qmp.command(name, **arguments)


def overlay(rig):
    """A snapshot's."""
    return {"snapshot-file": str(rig.directory / "overlay"),
            "snapshot-node-name": "overlay"}


def test_file(rig):
    """What needs the file is refused."""
    server, guest = boot(rig)
    node = {"node-name": "node-disk"}
    server.pause_all()
    with rig.alive():
        with pytest.raises(QMPError, match="does not answer"):
            add_node(server, guest)
        refused(guest, "block_resize", size=32 << 20, **node)
        refused(guest, "blockdev-snapshot-sync", format="qcow2",
                **overlay(rig), **node)
        refused(guest, "blockdev-change-medium", id="cd", format="raw",
                filename=str(server.path))
        guest.qmp.command("blockdev-add", driver="null-co", size=64 << 20,
                          **{"node-name": "null"})
        # What has been changed already when it fails is undone
        refused(guest, "blockdev-mirror", device="node-disk", target="null",
                sync="full", **{"job-id": "job"})
        guest.qmp.command("blockdev-del", **{"node-name": "null"})
        # Not more than one thread for each that hangs
        for _ in range(20):
            guest.qmp.command("query-named-block-nodes")
        server.resume()
        assert load(guest, "disk") == 1
        wait_until(lambda: works(lambda: add_node(server, guest)),
                   "the file to be opened")
        guest.qmp.command("blockdev-del", **{"node-name": "again"})
        assert_fine(guest.io("disk", "write", seed=2).results())


def test_others(rig):
    """What has nothing to do with the file works."""
    server, guest = boot(rig)
    command = guest.qmp.command
    image = make_image(rig.directory / "healthy", 1 << 20)
    healthy = {"node-name": "healthy"}
    server.pause_all()
    with rig.alive():
        for query in ("query-block", "query-named-block-nodes",
                      "query-blockstats"):
            command(query)
        command("stop")
        command("cont")
        command("blockdev-add", driver="file", filename=str(image), **healthy)
        command("block_resize", size=2 << 20, **healthy)
        command("blockdev-snapshot-sync", format="qcow2",
                **overlay(rig), **healthy)
        command("blockdev-del", **healthy)
        command("blockdev-change-medium", id="cd", format="raw",
                filename=str(image))
        command("eject", id="cd", force=True)
        server.resume()
    assert load(guest, "disk") == 1


def has_device(guest):
    """Whether the disk is plugged in."""
    return any(child["name"] == "disk" for child in guest.qmp.command(
        "qom-list", path="/machine/peripheral"))


def test_unplug(rig):
    """The disk and its node go; the file is closed when it answers."""
    server, guest = boot(rig)
    server.pause_all()
    with rig.alive():
        guest.qmp.command("device_del", id="disk")
        wait_until(lambda: not has_device(guest), "the disk to go", LATEST)
        wait_until(lambda: works(lambda: guest.qmp.command(
            "blockdev-del", **{"node-name": "node-disk"})), "the node to go")
        assert not any(node["node-name"] == "node-disk" for node
                       in guest.qmp.command("query-named-block-nodes"))
        server.resume()
    wait_until(lambda: works(lambda: add_node(server, guest)),
               "the file to be opened")


def migration(guest):
    """What is said about it."""
    return guest.qmp.command("query-migrate")


def test_migrate(rig):
    """The guest runs on until its disk's locks can be given up."""
    server, guest = boot(rig)
    uri = f"file:{rig.directory / 'state'}"
    server.pause_all()
    with rig.alive():
        guest.qmp.command("migrate", uri=uri)
        wait_until(lambda: "does not answer" in
                   migration(guest).get("switchover-postponed", ""),
                   "the source to wait", LATEST)
        assert guest.status() == "running"
        guest.qmp.command("migrate_cancel")
        wait_until(lambda: migration(guest)["status"] == "cancelled",
                   "the migration to end")
        guest.qmp.command("migrate", uri=uri)
        wait_until(lambda: "does not answer" in
                   migration(guest).get("switchover-postponed", ""),
                   "the source to wait", LATEST)
    server.resume()
    wait_until(lambda: migration(guest)["status"] == "completed",
               "the guest to leave", LATEST)
    guest.qmp.command("cont")
    assert load(guest, "disk") == 1


def test_quit(rig):
    """QEMU ends when the file can be closed; the monitor is alive."""
    server, guest = boot(rig)
    server.pause_all()
    guest.monitor.longest_stall()
    asks = threading.Thread(target=works,
                            args=(lambda: guest.qmp.command("quit"),))
    asks.start()
    wait_until(lambda: "'quit' waits for storage that hangs: node 'node-disk'"
               in guest.said(), "QEMU to say that it waits", LATEST)
    assert guest.status() == "shutdown"
    assert guest.monitor.longest_stall() < MAX_SILENCE
    server.resume()
    assert guest.wait_exit(LATEST) == 0
    asks.join()
