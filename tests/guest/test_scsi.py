# SPDX-License-Identifier: GPL-2.0-or-later
"""scsi-hd with cancel=on, and a guest that knows nothing of it.

Linux' virtio_scsi never aborts a command that is slow, so what reaches the
device are resets.  The commands that a reset of the logical unit ends, Linux
sends again; so their callers get the storage's answer in the end, unless the
disk has been taken offline.
"""

import errno
from dataclasses import dataclass

import pytest

from checks import assert_fine, seeds
from harness.guest import Disk
from harness.rig import MAX_SILENCE

COUNT = 8           # half of them reads, half writes
COMMANDS = r"scsi_disk_dma_command_(?:READ|WRITE) .*"
LUN_RESETS = r"virtio_scsi_tmf_req .* subtype=5$"
DRAINS = r"scsi_cancel_drain .*"


@dataclass
class ScsiDisk(Disk):
    """A disk on an HBA of its own, which can reset its function."""

    def arguments(self):
        hba = "virtio-scsi-pci,id=hba,bus=above"
        args = super().arguments()
        if self.iothread:
            hba += f",iothread=thread-{self.name}"
        return [*args[:-2], "-device", "pcie-root-port,id=above",
                "-device", hba, "-device",
                f"scsi-hd,id={self.name},bus=hba.0,drive=node-{self.name},"
                f"cancel=on"]


def load_driver(guest):
    """The distribution's modules."""
    for name in ("scsi_common", "scsi_mod", "sd_mod", "virtio_scsi"):
        guest.run(f"insmod /lib/modules/test/{name}.ko")
    guest.run("until [ -e /dev/sda ]; do sleep 0.1; done")


def boot(rig, iothread=False):
    """A guest with /dev/sda."""
    server = rig.nbdkit("disk")
    guest = rig.launch(ScsiDisk("disk", server.blockdev("disk"),
                                iothread=iothread)).wait_booted()
    guest.allow_reboot()
    for event in ("scsi_disk_dma_command*", "scsi_cancel*", "virtio_scsi_tmf*"):
        guest.trace(event)
    load_driver(guest)
    store(guest, seed=1)
    return server, guest


def store(guest, seed):
    """Write the blocks; on return they are acknowledged."""
    assert_fine(guest.io_on("/dev/sda", "write", count=COUNT,
                            seed=seed).results())
    assert_fine(guest.io_on("/dev/sda", "fsync").results())


def hang(server, guest):
    """Reads and writes that the storage holds."""
    seen = len(guest.traces(COMMANDS))
    server.pause()
    io = guest.io_on("/dev/sda", "mixed", count=COUNT, seed=2)
    guest.wait_for_trace(COMMANDS, seen + COUNT - 1)
    return io


def reset(guest, kind, state=""):
    """Have Linux reset something; what it says, and how long that took."""
    return guest.start(f"guest-io reset /dev/sda {kind} {state}").line(0)


STATE = "/sys/block/sda/device/state"


def give_up(guest, io):
    """Take the disk offline, and have what hangs end with an error."""
    result = reset(guest, "device", STATE)
    assert result["errno"] == 0, result
    for result in io.results():
        assert result.errno == errno.EIO, result
    guest.run(f"echo running > {STATE}")


def assert_works(server, guest):
    """Nothing is late: what is written now stays."""
    store(guest, seed=3)
    assert_fine(guest.io_on("/dev/sda", "read", count=COUNT).results(),
                seed=3)
    assert seeds(server.images["disk"], count=COUNT) == {3}


# The function above /sys/block/sda/device, as a shell command's words
FUNCTION = "$(realpath /sys/block/sda/device/../../../..)"


def reset_function(guest):
    """Behind the driver's back."""
    resets = guest.resets()
    guest.run(f"cd {FUNCTION}; echo flr > reset_method; echo 1 > reset")
    assert guest.resets() > resets


def unbind_driver(guest):
    """Linux waits for its commands, and tells nobody to end them."""
    guest.start(f"cd {FUNCTION}; basename $PWD > driver/unbind")
    guest.run("while [ -e /sys/block/sda ]; do sleep 0.1; done")


@pytest.mark.parametrize("iothread, then",
                         [(False, reset_function), (True, unbind_driver)],
                         ids=["function", "unbind"])
def test_reset(rig, iothread, then):
    """By ioctl; then by other means, and the machine, which boots again."""
    server, guest = boot(rig, iothread)
    io = hang(server, guest)
    with rig.alive():
        for _ in range(3):
            seen = len(guest.traces(COMMANDS))
            result = reset(guest, "device")
            assert result["errno"] == 0, result
            assert result["seconds"] < MAX_SILENCE, result
            # Sent again. How many is up to Linux: once it has requeued one,
            # it holds it back until those that it has sent are over.
            guest.wait_for_trace(COMMANDS, seen)
        # Linux has no such handlers for this HBA
        for kind in ("target", "bus", "host"):
            result = reset(guest, kind)
            assert result["errno"] == errno.EIO, result
        assert len(guest.traces(LUN_RESETS)) == 3
        assert io.returned() == 0
        if iothread:
            give_up(guest, io)
    server.resume()
    if not iothread:
        assert_fine(io.results())
    assert_works(server, guest)

    hang(server, guest)
    with rig.alive():
        then(guest)
    guest.monitor.longest_stall()
    guest.qmp.command("system_reset")
    guest.wait_rebooted()
    stall = guest.monitor.longest_stall()
    assert stall < MAX_SILENCE, f"the monitor stood still for {stall} s"
    assert not guest.traces(DRAINS)
    server.resume()
    load_driver(guest)
    assert_works(server, guest)
