# SPDX-License-Identifier: GPL-2.0-or-later
"""NVMe with cancel=on: an unmodified guest's aborts and resets do not wait."""

import pytest

from checks import LATEST, assert_fine, seeds
from harness.nvme import (ABORTED, ABORTS, ADMIN_TAGS, DISABLED, DROPPED, LEFT,
                          PCI, RESETS, TAKEN_BACK, NvmeDisk, NvmeGuest)
from harness.patterns import BLOCK
from harness.process import wait_until

IO_TIMEOUT = 5


def boot(rig, server, io_timeout, **driver):
    """A guest with the disk, and its driver's settings."""
    guest = rig.launch(NvmeDisk(server.blockdev("disk"))).wait_booted()
    return guest, NvmeGuest(guest, io_timeout, **driver)


def assert_aborted(results):
    """The driver gave these back, after its time-out and with an error."""
    for result in results:
        assert result.errno, result
        assert IO_TIMEOUT * 0.9 < result.seconds < LATEST, result


def test_abort(rig):
    """Aborts are answered "aborted": an error, no reset, nobody stands still.

    What the server does late reaches neither memory nor newer data.
    """
    server = rig.nbdkit("disk")
    guest, disk = boot(rig, server, IO_TIMEOUT, max_retries=0)
    assert_fine(disk.io("write", seed=1, count=3).results())

    with rig.alive():
        server.pause()
        read = disk.io("read", watch=True)
        write = disk.io("write", offset=BLOCK, seed=2)
        results = read.results(LATEST) + write.results(LATEST)
        assert_aborted(results)
        assert len(guest.traces(TAKEN_BACK)) == 2
        assert len(disk.said(ABORTS)) == 2
        assert len(disk.said(ABORTED)) == 2
        assert not disk.said(RESETS)

        newest = disk.io("write", offset=BLOCK, seed=3)
        untouched = disk.io("read", offset=2 * BLOCK)
        server.resume()
        assert_fine(newest.results() + untouched.results())
        assert read.changed_bytes() == 0
        assert_fine(disk.io("read", offset=BLOCK).results(), seed=3)
    assert_fine(disk.io("fsync").results())
    assert seeds(server.images["disk"], BLOCK) == {3}


@pytest.mark.parametrize("count", [64, 256])
def test_many(rig, count):
    """Commands that time out together are all back the first time, or the
    second: the controller takes as many Aborts as the driver can send.

    A driver whose admin queue is full, since QEMU has had no time for it, never
    sends the Abort of that command, and resets the controller instead: that
    takes back what is left, and does not wait either.
    """
    server = rig.nbdkit("disk")
    guest, disk = boot(rig, server, IO_TIMEOUT, max_retries=0)
    with rig.alive():
        server.pause()
        results = disk.io("read", count=count).results(LATEST)
        assert_aborted(results)
        assert all(r.seconds < 3 * IO_TIMEOUT for r in results), results
        # By QEMU's count: the kernel's log is late, or too long for a console
        aborted = len(guest.traces(TAKEN_BACK))
        assert aborted >= min(count, ADMIN_TAGS)
        assert aborted + sum(map(int, guest.traces(DROPPED))) == count
        assert not guest.traces(LEFT)
        assert aborted < count or not disk.said(RESETS)
        server.resume()
    assert_fine(disk.io("read").results())


def test_retry(rig):
    """By default the driver tries again, and succeeds once the server is back.

    So do the requests that a reset of the controller has interrupted.
    """
    server = rig.nbdkit("disk")
    guest, disk = boot(rig, server, io_timeout=2)
    assert_fine(disk.io("write", seed=1).results())

    with rig.alive():
        server.pause()
        read = disk.io("read")
        wait_until(lambda: len(guest.traces(TAKEN_BACK)) >= 2,
                   "two aborts", timeout=LATEST)
        assert not disk.said(RESETS)
        assert not read.returned()
        server.resume()
        assert_fine(read.results(), seed=1)

    for reset in ("echo 1 > /sys/class/nvme/nvme0/reset_controller",
                  f"echo 1 > {PCI}/reset"):
        with rig.alive():
            server.pause()
            before = len(guest.traces(DISABLED))
            io = disk.io("read", count=8)
            wait_until(lambda: guest.run(
                "awk '{print $1 + $2}' /sys/block/nvme0n1/inflight") == "8",
                "the requests to be under way")
            call = guest.start(reset)
            guest.wait_for_trace(DISABLED, before)
            server.resume()
            call.wait(LATEST)
            assert_fine(io.results(LATEST))
