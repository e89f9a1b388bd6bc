# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver on another device: one that was written from the specification.

It shares nothing with QEMU's: see tests/second-device.  Its storage is an
nbdkit, which the device serves newest request first, the worst order that there
is.
"""

import copy
from pathlib import Path

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load,
                    seeds, store)
from harness.guest import Disk
from harness.process import wait_until

MANY = 64
FAR = 8 << 20           # an offset that no hanging request touches
WRAPPER = (Path(__file__).resolve().parent.parent / "second-device"
           / "qemu-system-x86_64")


@pytest.fixture
def second(rig, monkeypatch):
    """The rig, with the second device in place of QEMU's."""
    monkeypatch.setenv("SECOND_DEVICE_QEMU", str(rig.build.qemu))
    monkeypatch.setenv("SECOND_DEVICE_LOG", str(rig.logs / "device.log"))
    rig.build = copy.copy(rig.build)
    rig.build.qemu = WRAPPER
    yield rig
    # What the device noticed that a driver must not do
    assert "driver:" not in (rig.logs / "device.log").read_text("ascii")


def boot(rig):
    """One disk on a server of its own."""
    server = rig.nbdkit("disk")
    guest = rig.boot(Disk("disk", server.blockdev("disk")),
                     io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1)
    store(guest, "disk", seed=1, offset=FAR)
    return server, guest


def test_read(second):
    """A read comes back; its data never does."""
    server, guest = boot(second)
    with second.alive():
        server.pause()
        read = guest.io("disk", "read", watch=True)
        assert_timed_out(read.results(LATEST))
        server.resume()
        assert load(guest, "disk") == 1
        assert read.changed_bytes() == 0


@pytest.mark.parametrize("op", ["write", "zeroes"])
def test_write(second, op):
    """A write comes back, and does not land on a later one."""
    server, guest = boot(second)
    with second.alive():
        server.pause()
        assert_timed_out(guest.io("disk", op, seed=2).results(LATEST))
        newer = guest.io("disk", "write", seed=3)
        wait_until(lambda: guest.in_flight("disk") == 1, "the later write")
        server.resume()
        assert_fine(newer.results(LATEST))
        assert_fine(guest.io("disk", "fsync").results())
        assert load(guest, "disk") == 3
    assert seeds(server.images["disk"]) == {3}
    assert seeds(server.images["disk"], FAR) == {1}


def test_fsync(second):
    """An fsync comes back."""
    server, guest = boot(second)
    assert_fine(guest.io("disk", "write", seed=2).results())
    with second.alive():
        server.freeze()
        assert_timed_out(guest.io("disk", "fsync").results(LATEST))
        server.resume()
        assert_fine(guest.io("disk", "fsync").results())
        assert load(guest, "disk") == 2
    assert seeds(server.images["disk"]) == {2}


def test_many(second):
    """Reads and writes that hang together come back together, twice."""
    server, guest = boot(second)
    store(guest, "disk", seed=1, count=MANY)
    for seed in (2, 3):
        with second.alive():
            server.pause()
            batch = guest.io("disk", "mixed", seed=seed, count=MANY,
                             watch=True)
            assert_timed_out(batch.results(LATEST))
            server.resume()
            assert_fine(guest.io("disk", "read", count=MANY).results())
            assert batch.changed_bytes() == 0
        assert seeds(server.images["disk"], FAR) == {1}
    store(guest, "disk", seed=4, count=MANY)
    assert seeds(server.images["disk"], count=MANY) == {4}


def test_refused(second, monkeypatch):
    """A device that refuses whatever it has started conforms, too."""
    monkeypatch.setenv("SECOND_DEVICE_OPTIONS", "--refuse")
    server, guest = boot(second)
    with second.alive():
        server.pause()
        write = guest.io("disk", "write", seed=2)
        log = second.logs / "device.log"
        wait_until(lambda: log.read_text().count("refused") > 1,
                   "the driver to ask again")
        assert not write.returned()
        server.resume()
        assert_fine(write.results(LATEST))
        assert load(guest, "disk") == 2
