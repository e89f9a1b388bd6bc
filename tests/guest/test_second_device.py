# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver on another device: one that was written from the specification.

It shares nothing with QEMU's: see tests/second-device.  Its storage is an
nbdkit, which the device serves newest request first, the worst order that there
is.
"""

import contextlib
import copy
from pathlib import Path

import pytest

from checks import (LATEST, assert_fine, boot_one, check_fsync, check_many,
                    check_read, check_write, load)
from harness.process import wait_until

MANY = 64
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


@contextlib.contextmanager
def lingering(guest):
    """What is sent within is with the device at its end."""
    yield
    wait_until(lambda: guest.in_flight("disk") == 1, "the later write")


def test_read(second):
    """A read comes back; its data never does."""
    check_read(second, *boot_one(second))


@pytest.mark.parametrize("op", ["write", "zeroes"])
def test_write(second, op):
    """A write comes back, and does not land on a later one."""
    check_write(second, *boot_one(second), op, lingering)


def test_fsync(second):
    """An fsync comes back."""
    check_fsync(second, *boot_one(second))


def test_many(second):
    """Reads and writes that hang together come back together, twice."""
    check_many(second, *boot_one(second), MANY)


def test_refused(second, monkeypatch):
    """A device that refuses whatever it has started conforms, too."""
    monkeypatch.setenv("SECOND_DEVICE_OPTIONS", "--refuse")
    server, guest = boot_one(second)
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
