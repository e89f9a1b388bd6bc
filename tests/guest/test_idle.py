# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about a disk that nobody uses and whose storage hangs.

Nothing of it is in flight, so QEMU finds out only when it asks the file: to open
it, to lock it, to close it.  No vCPU and no monitor waits for that.
"""

from dataclasses import dataclass

import pytest

from checks import IO_TIMEOUT, LATEST, assert_fine, load, store
from harness.guest import Disk
from harness.process import wait_until
from harness.qmp import QMPError

# A file is given two seconds to answer, with all of QEMU waiting. What does not
# let go waits until it is released, which these tests do only at their end.
SILENCE = 6

pytestmark = pytest.mark.usefixtures("need_fuse")


@dataclass
class PortDisk(Disk):
    """A disk that can be unplugged."""

    def arguments(self):
        return ["-device", "pcie-root-port,id=above"] + super().arguments()


def boot(rig, **options):
    """A disk on a FUSE file that is idle."""
    server = rig.hold_fs()
    disk = PortDisk("disk", server.blockdev("threads"),
                    properties={"bus": "above"}, **options)
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


def test_refused(rig):
    """What needs the file is refused in time, what does not works."""
    server, guest = boot(rig)
    server.pause_all()
    with rig.alive(SILENCE):
        for query in ("query-block", "query-named-block-nodes",
                      "query-blockstats"):
            guest.qmp.command(query)
        with pytest.raises(QMPError, match="does not answer"):
            add_node(server, guest)
        with pytest.raises(QMPError):
            guest.qmp.command("block_resize", size=32 << 20,
                              **{"node-name": "node-disk"})
        # Not more than one thread for each that hangs
        for _ in range(20):
            guest.qmp.command("query-named-block-nodes")
        server.resume()
        assert load(guest, "disk") == 1
        wait_until(lambda: works(lambda: add_node(server, guest)),
                   "the file to be opened")
        guest.qmp.command("blockdev-del", **{"node-name": "again"})
        assert_fine(guest.io("disk", "write", seed=2).results())


def has_device(guest):
    """Whether the disk is plugged in."""
    return any(child["name"] == "disk" for child in guest.qmp.command(
        "qom-list", path="/machine/peripheral"))


def test_unplug(rig):
    """The disk and its node go; the file is closed when it answers."""
    server, guest = boot(rig)
    server.pause_all()
    with rig.alive(SILENCE):
        guest.qmp.command("device_del", id="disk")
        wait_until(lambda: not has_device(guest), "the disk to go", LATEST)
        wait_until(lambda: works(lambda: guest.qmp.command(
            "blockdev-del", **{"node-name": "node-disk"})), "the node to go")
        assert not any(node["node-name"] == "node-disk" for node
                       in guest.qmp.command("query-named-block-nodes"))
        server.resume()
    wait_until(lambda: works(lambda: add_node(server, guest)),
               "the file to be opened")
