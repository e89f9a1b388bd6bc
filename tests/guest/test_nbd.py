# SPDX-License-Identifier: GPL-2.0-or-later
"""A hung request comes back, and nothing else notices: a disk on an nbdkit.

The read, the write and the batch hang in nbdkit's pause filter; the fsync,
which that filter lets pass, in a stopped nbdkit.
"""

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load,
                    seeds, store)
from harness.guest import WAITS, Disk
from harness.patterns import BLOCK
from harness.process import wait_until

MANY = 128
FAR = 8 << 20       # an offset that no hanging request touches

pytestmark = pytest.mark.parametrize(
    "iothread", [False, True], ids=["main-loop", "iothread"])


def boot(rig, iothread):
    """One disk on a server of its own."""
    server = rig.nbdkit("disk")
    guest = rig.boot(
        Disk("disk", server.blockdev("disk"), iothread=iothread),
        io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1)
    store(guest, "disk", seed=1, offset=FAR)
    return server, guest


def test_read(rig, iothread):
    """A read comes back; its data never does."""
    server, guest = boot(rig, iothread)
    with rig.alive():
        server.pause()
        read = guest.io("disk", "read", watch=True)
        assert_timed_out(read.results(LATEST))
        server.resume()
        assert load(guest, "disk") == 1
        assert read.changed_bytes() == 0


@pytest.mark.parametrize("op", ["write", "discard", "zeroes"])
def test_write(rig, iothread, op):
    """A write comes back, and does not land on a later one."""
    server, guest = boot(rig, iothread)
    with rig.alive():
        server.pause()
        assert_timed_out(guest.io("disk", op, seed=2).results(LATEST))

        # The next one is sent while the first still lingers in the host.
        waits = len(guest.traces(WAITS))
        newer = guest.io("disk", "write", seed=3)
        guest.wait_for_trace(WAITS, waits)
        server.resume()
        assert_fine(newer.results(LATEST))
        assert_fine(guest.io("disk", "fsync").results())
        assert load(guest, "disk") == 3
    assert seeds(server.images["disk"]) == {3}
    assert seeds(server.images["disk"], FAR) == {1}


def test_fsync(rig, iothread):
    """An fsync comes back."""
    server, guest = boot(rig, iothread)
    # QEMU has nothing to flush unless something was written since.
    assert_fine(guest.io("disk", "write", seed=2).results())
    with rig.alive():
        server.freeze()
        assert_timed_out(guest.io("disk", "fsync").results(LATEST))
        server.resume()
        assert_fine(guest.io("disk", "fsync").results())
        assert load(guest, "disk") == 2
    assert seeds(server.images["disk"]) == {2}


def test_many(rig, iothread):
    """Reads and writes that hang together come back together, twice."""
    server, guest = boot(rig, iothread)
    store(guest, "disk", seed=1, count=MANY)
    for seed in (2, 3):
        with rig.alive():
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
