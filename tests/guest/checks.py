# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test programs have in common."""

import errno

from harness.guest import Disk
from harness.patterns import BLOCK, seed_at
from harness.process import wait_until

# Seconds. Short, because most tests wait for it.
IO_TIMEOUT = 3

# By when a timed-out request must be back at the latest. The block layer
# rounds its timer up by about 1.2 s; the rest is for a busy machine. The
# storage stays silent for longer: it is resumed only after that.
LATEST = 40

FAR = 8 << 20       # an offset that no hanging request touches


def assert_timed_out(results, io_timeout=IO_TIMEOUT):
    """Every request ended with ETIMEDOUT, not before its time."""
    for result in results:
        assert result.errno == errno.ETIMEDOUT, result
        assert result.seconds > io_timeout * 0.9, result


def assert_fine(results, seed=None):
    """Every request succeeded; reads and writes with this seed's data."""
    for result in results:
        assert result.errno == 0, result
        if seed is not None:
            assert result.seed == seed, result


def store(guest, disk, seed, offset=0, count=1):
    """Write blocks durably; on return they are acknowledged."""
    results = guest.io(disk, "write", offset, count=count,
                       seed=seed).results()
    results += guest.io(disk, "fsync").results()
    assert_fine(results)


def load(guest, disk, offset=0):
    """Read one block; return the seed that it was written with."""
    result = guest.io(disk, "read", offset).result()
    assert_fine([result])
    return result.seed


def seeds(image, offset=0, count=1):
    """The seeds in an image's blocks, as the host sees them, as a set."""
    return {seed_at(image, offset + i * BLOCK) for i in range(count)}


def boot_one(rig, iothread=False):
    """One disk, with known contents, on a server of its own."""
    server = rig.nbdkit("disk")
    guest = rig.boot(
        Disk("disk", server.blockdev("disk"), iothread=iothread),
        io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1)
    store(guest, "disk", seed=1, offset=FAR)
    return server, guest


def check_read(rig, server, guest):
    """A read comes back; its data never does."""
    with rig.alive():
        server.pause()
        read = guest.io("disk", "read", watch=True)
        assert_timed_out(read.results(LATEST))
        server.resume()
        assert load(guest, "disk") == 1
        assert read.changed_bytes() == 0


def check_write(rig, server, guest, op, lingering):
    """A write comes back, and does not land on a later one.

    The later one is sent while the first still lingers in the host, within
    lingering(guest), at whose end it has come so far that it waits.
    """
    with rig.alive():
        server.pause()
        assert_timed_out(guest.io("disk", op, seed=2).results(LATEST))
        with lingering(guest):
            newer = guest.io("disk", "write", seed=3)
        server.resume()
        assert_fine(newer.results(LATEST))
        assert_fine(guest.io("disk", "fsync").results())
        assert load(guest, "disk") == 3
    assert seeds(server.images["disk"]) == {3}
    assert seeds(server.images["disk"], FAR) == {1}


def check_fsync(rig, server, guest):
    """An fsync comes back."""
    # There is nothing to flush unless something was written since.
    assert_fine(guest.io("disk", "write", seed=2).results())
    with rig.alive():
        server.freeze()
        assert_timed_out(guest.io("disk", "fsync").results(LATEST))
        server.resume()
        assert_fine(guest.io("disk", "fsync").results())
        assert load(guest, "disk") == 2
    assert seeds(server.images["disk"]) == {2}


def check_many(rig, server, guest, count):
    """Reads and writes that hang together come back together, twice."""
    store(guest, "disk", seed=1, count=count)
    for seed in (2, 3):
        with rig.alive():
            server.pause()
            batch = guest.io("disk", "mixed", seed=seed, count=count,
                             watch=True)
            assert_timed_out(batch.results(LATEST))
            server.resume()
            assert_fine(guest.io("disk", "read", count=count).results())
            assert batch.changed_bytes() == 0
        assert seeds(server.images["disk"], FAR) == {1}

    store(guest, "disk", seed=4, count=count)
    assert seeds(server.images["disk"], count=count) == {4}


def assert_works(disk, seed=9):
    """The disk does what a disk does, and the device has nothing left."""
    assert_fine(disk.io("write", seed=seed, count=8).results())
    assert_fine(disk.io("read", count=8).results(), seed=seed)
    assert_fine(disk.io("fsync").results())
    wait_until(lambda: not disk.get("busy"), "all requests to be back")
    assert disk.get("resets") == disk.resets, "the driver has reset the device"
