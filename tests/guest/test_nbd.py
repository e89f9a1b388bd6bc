# SPDX-License-Identifier: GPL-2.0-or-later
"""A hung request comes back, and nothing else notices: a disk on an nbdkit.

The read, the write and the batch hang in nbdkit's pause filter; the fsync,
which that filter lets pass, in a stopped nbdkit.
"""

import contextlib

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_timed_out, boot_one, check_fsync,
                    check_many, check_read, check_write, load, store)
from harness.guest import WAITS, Disk
from harness.patterns import BLOCK
from harness.process import wait_until

MANY = 128

pytestmark = pytest.mark.parametrize(
    "iothread", [False, True], ids=["main-loop", "iothread"])


@contextlib.contextmanager
def lingering(guest):
    """What is sent within waits in QEMU at its end."""
    waits = len(guest.traces(WAITS))
    yield
    guest.wait_for_trace(WAITS, waits)


def test_read(rig, iothread):
    """A read comes back; its data never does."""
    check_read(rig, *boot_one(rig, iothread))


@pytest.mark.parametrize("op", ["write", "discard", "zeroes"])
def test_write(rig, iothread, op):
    """A write comes back, and does not land on a later one."""
    check_write(rig, *boot_one(rig, iothread), op, lingering)


def test_fsync(rig, iothread):
    """An fsync comes back."""
    check_fsync(rig, *boot_one(rig, iothread))


def test_many(rig, iothread):
    """Reads and writes that hang together come back together, twice."""
    check_many(rig, *boot_one(rig, iothread), MANY)


def test_neighbour(rig, iothread):
    """Another disk works while one hangs."""
    server = rig.nbdkit("disk")
    healthy = rig.nbdkit("other", name="healthy")
    guest = rig.boot(
        Disk("disk", server.blockdev("disk"), iothread=iothread),
        Disk("other", healthy.blockdev("other")), io_timeout=IO_TIMEOUT)
    with rig.alive():
        server.pause()
        read = guest.io("disk", "read")
        wait_until(lambda: guest.in_flight("disk") == 1, "the hanging read")
        rounds = 0
        while not read.returned():
            rounds += 1
            store(guest, "other", seed=rounds, offset=rounds * BLOCK)
            assert load(guest, "other", rounds * BLOCK) == rounds
        assert_timed_out(read.results(LATEST))
        assert rounds > 1
        server.resume()
