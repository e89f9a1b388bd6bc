# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings, limits and ways to wait under which cancelling works differently."""

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load,
                    seeds, store)
from harness.guest import Disk
from harness.process import Timeout

MANY = 128
NOT_CANCELED = 8    # VIRTIO_BLK_S_NOT_CANCELED

# Of the batch 16 requests get a bounce buffer; the others wait for one.
SMALL_BUDGET = {"cancel-budget": 16 * 4096}

# Three descriptors for each request: 340 fill a ring of 1024.
DIRECT = {"indirect_desc": False, "num-queues": 1}
TOO_MANY = 400


def boot(rig, properties, **parameters):
    """One disk on a server of its own."""
    server = rig.nbdkit("disk")
    guest = rig.boot(
        Disk("disk", server.blockdev("disk"), properties=properties),
        io_timeout=IO_TIMEOUT, **parameters)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1, count=MANY)
    return server, guest


def assert_batch_comes_back(rig, server, guest, count, **options):
    """Hang a batch, get it back, resume, and find everything in order."""
    with rig.alive():
        server.pause()
        batch = guest.io("disk", "mixed", seed=2, count=count, watch=True,
                         **options)
        results = batch.results(LATEST * 2)
        assert_timed_out(results)
        server.resume()
        assert_fine(guest.io("disk", "read", count=count).results())
        assert batch.changed_bytes() == 0
    store(guest, "disk", seed=3, count=count)
    assert seeds(server.images["disk"], count=count) == {3}
    return results


@pytest.mark.parametrize("properties", [{"packed": True}, SMALL_BUDGET],
                         ids=["packed", "small-budget"])
def test_many(rig, properties):
    """A batch comes back whatever the ring and the limits."""
    server, guest = boot(rig, properties)
    assert_batch_comes_back(rig, server, guest, MANY)


def test_full_ring(rig):
    """What finds no room in the ring times out later, but does so."""
    server, guest = boot(rig, DIRECT)
    results = assert_batch_comes_back(rig, server, guest, TOO_MANY)
    assert max(result.seconds for result in results) > IO_TIMEOUT * 1.8


def test_large(rig):
    """Requests of 1 MiB, in as many segments as there are pages."""
    server, guest = boot(rig, {})
    assert_batch_comes_back(rig, server, guest, 8, length=1 << 20)


def test_polled(rig):
    """Requests whose task polls for them, on a queue without interrupts."""
    server, guest = boot(rig, {}, poll_queues=1)
    assert_batch_comes_back(rig, server, guest, 4, polled=True)


def test_refused(rig):
    """What the device cannot take back is waited for, and asked for again."""
    server, guest = boot(rig, {"cancel-budget": 0})
    with rig.alive():
        server.pause()
        read = guest.io("disk", "read", seed=2)
        with pytest.raises(Timeout):
            read.results(timeout=IO_TIMEOUT * 4)
        server.resume()
        assert_fine(read.results(), seed=1)
        assert load(guest, "disk") == 1
    answers = guest.traces(r"virtio_blk_cancel_outcome .* status (\d+)")
    assert answers.count(str(NOT_CANCELED)) >= 2, answers
