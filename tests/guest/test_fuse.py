# SPDX-License-Identifier: GPL-2.0-or-later
"""The same with a file on a FUSE file system that holds its requests.

Here the host's kernel has the hung I/O, not QEMU's own NBD client, and each of
QEMU's ways to submit it gets stuck at another place.
"""

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load,
                    seeds, store)
from harness import process
from harness.guest import Disk
from harness.servers import make_image

# More than the thread pool has threads, and than FUSE accepts at once.
MANY = 200
FAR = 8 << 20
EMPTY = 16 << 20

# Requests to the thread pool and to io_uring in the trace
POOL = r"thread_pool_submit_aio .*"
LURING = r"luring_co_submit .*"

pytestmark = [
    pytest.mark.usefixtures("need_fuse"),
    pytest.mark.parametrize("aio", ["threads", "io_uring", "native"]),
]
in_both = pytest.mark.parametrize("iothread", [False, True],
                                  ids=["main", "iothread"])


def boot(rig, aio, iothread=False):
    """One disk on a FUSE file."""
    server = rig.hold_fs()
    guest = rig.boot(Disk("disk", server.blockdev(aio), iothread=iothread),
                     io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1, count=MANY)
    store(guest, "disk", seed=1, offset=FAR)
    return server, guest


def file_node(rig, name, aio):
    """QEMU's block node for an ordinary file."""
    return {"driver": "file", "aio": aio, "cache": {"direct": True},
            "filename": str(make_image(rig.directory / name))}


def test_one(rig, aio):
    """A read, a write and an fsync, one after the other."""
    server, guest = boot(rig, aio)
    assert_fine(guest.io("disk", "write", seed=2).results())
    for op in ("read", "write", "fsync"):
        with rig.alive():
            server.pause()
            io = guest.io("disk", op, seed=3, watch=True)
            assert_timed_out(io.results(LATEST))
            assert server.held()
            server.resume()
            # Reads behind the cancelled write see it settled, one way or other.
            assert load(guest, "disk") in (2, 3)
            assert io.changed_bytes() == 0
    store(guest, "disk", seed=4)
    assert seeds(server.image) == {4}
    assert seeds(server.image, FAR) == {1}


@in_both
def test_many(rig, aio, iothread):
    """A batch at once: none of QEMU's threads that answer is blocked by it."""
    server, guest = boot(rig, aio, iothread)
    resets = guest.resets()
    with rig.alive():
        server.pause()
        batch = guest.io("disk", "mixed", seed=2, count=MANY, watch=True)
        assert_timed_out(batch.results(LATEST))
        assert server.held()
        assert guest.resets() == resets
        server.resume()
        assert_fine(guest.io("disk", "read", count=MANY).results())
        assert batch.changed_bytes() == 0
    store(guest, "disk", seed=3, count=MANY)
    assert seeds(server.image, count=MANY) == {3}
    assert seeds(server.image, FAR) == {1}


@pytest.mark.usefixtures("need_loop")
@pytest.mark.parametrize("filesystem", [False, True], ids=["loop", "ext4"])
def test_device_full(rig, aio, filesystem):
    """More than a device takes at once: submission does not wait for it.

    Neither on the device itself nor on a file system that is on it, for reads
    and overwrites, for writes that need space of it, and for flushes.
    """
    held, server = rig.hold_loop(filesystem)
    guest = rig.boot(Disk("disk", server.blockdev(aio)), io_timeout=IO_TIMEOUT)
    store(guest, "disk", seed=1, count=MANY)
    assert_fine(guest.io("disk", "write", FAR).results())   # to be flushed
    with rig.alive():
        held.pause()
        batches = [guest.io("disk", "mixed", seed=2, count=MANY, watch=True),
                   guest.io("disk", "write", EMPTY, seed=2, count=MANY),
                   guest.io("disk", "fsync", count=4)]
        for batch in batches:
            assert_timed_out(batch.results(LATEST))
        assert held.held()
        held.resume()
        assert_fine(guest.io("disk", "read", count=MANY).results())
        assert batches[0].changed_bytes() == 0
    for offset in (0, EMPTY):
        store(guest, "disk", seed=3, offset=offset, count=MANY)
        server.sync()
        assert seeds(server.image, offset, count=MANY) == {3}


def count_traces(guest, io):
    """How many requests io() gave to the thread pool and to io_uring."""
    before = [len(guest.traces(event)) for event in (POOL, LURING)]
    io()
    return tuple(len(guest.traces(event)) - count
                 for event, count in zip((POOL, LURING), before))


def test_neighbours(rig, aio):
    """Another disk in the same IOThread goes on, before any time-out.

    And one that has no cancel= does its I/O as it was told.
    """
    server = rig.hold_fs()
    guest = rig.boot(
        Disk("disk", server.blockdev(aio), iothread=True),
        Disk("other", file_node(rig, "other", aio),
             properties={"iothread": "thread-disk"}),
        Disk("plain", file_node(rig, "plain", aio), cancel=False),
        io_timeout=2 * LATEST)
    store(guest, "disk", seed=1)
    for event in ("thread_pool_submit_aio", "luring_*"):
        guest.trace(event)
    pool, luring = count_traces(
        guest, lambda: store(guest, "plain", seed=1, count=4))
    assert (pool > 0, luring > 0) == (aio == "threads", aio == "io_uring")
    pool, luring = count_traces(
        guest, lambda: store(guest, "other", seed=1, count=4))
    assert (pool > 0, luring > 0) == (aio == "threads", aio != "threads")

    with rig.alive():
        server.pause()
        batch = guest.io("disk", "mixed", count=MANY, seed=2)
        process.wait_until(lambda: guest.in_flight("disk") == MANY,
                           "the batch to be under way")
        for disk in ("other", "plain"):
            store(guest, disk, seed=3, count=MANY)
            assert_fine(
                guest.io(disk, "read", count=MANY).results(LATEST), seed=3)
            for op in ("discard", "zeroes"):
                assert_fine(guest.io(disk, op).results(LATEST))
        assert batch.returned() == 0
        server.resume()
        assert_fine(batch.results())
