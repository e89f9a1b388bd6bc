# SPDX-License-Identifier: GPL-2.0-or-later
"""What a loss of power leaves of a cancelled write.

The storage has a volatile cache, and a server that is killed loses it.  As the
specification has it, a cancelled write is as good as completed once a later
request for its sectors is: a journal that reads a block and makes that stable
finds it again.
"""

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load,
                    seeds, store)
from harness.guest import Disk
from harness.process import wait_until

in_both = pytest.mark.parametrize("cache", ["on", "off"])


def boot(rig, cache):
    """One disk whose write cache is on or off; all of it is 1, and stable."""
    server = rig.nbdkit("disk", volatile=True)
    guest = rig.boot(Disk("disk", server.blockdev("disk"),
                          properties={"write-cache": cache}),
                     io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1)
    return server, guest


def cancelled_write(server, guest):
    """A write of 2 is cancelled; the storage goes on with it."""
    server.pause()
    assert_timed_out(guest.io("disk", "write", seed=2).results(LATEST))
    server.resume()


def make_stable(guest, cache):
    """What has been completed is stable after this."""
    if cache == "on":
        assert_fine(guest.io("disk", "fsync").results())


def test_loses(rig):
    """Without a flush what was written is lost: the crash is a real one."""
    server, guest = boot(rig, "on")
    assert_fine(guest.io("disk", "write", seed=2).results())
    assert load(guest, "disk") == 2
    server.crash()
    assert seeds(server.images["disk"]) == {1}


@in_both
def test_read(rig, cache):
    """What a read has returned is what the crash leaves."""
    server, guest = boot(rig, cache)
    cancelled_write(server, guest)
    seed = load(guest, "disk")
    assert seed in (1, 2)
    make_stable(guest, cache)
    server.crash()
    assert seeds(server.images["disk"]) == {seed}


@in_both
def test_waiting_read(rig, cache):
    """The same if the read is sent before the storage goes on."""
    server, guest = boot(rig, cache)
    server.pause()
    assert_timed_out(guest.io("disk", "write", seed=2).results(LATEST))
    read = guest.io("disk", "read")
    wait_until(lambda: guest.in_flight("disk") == 1, "the read")
    server.resume()
    result = read.result(LATEST)
    assert_fine([result])
    make_stable(guest, cache)
    server.crash()
    assert seeds(server.images["disk"]) == {result.seed}


@in_both
def test_write(rig, cache):
    """A later write prevails, also after the crash."""
    server, guest = boot(rig, cache)
    cancelled_write(server, guest)
    assert_fine(guest.io("disk", "write", seed=3).results())
    make_stable(guest, cache)
    server.crash()
    assert seeds(server.images["disk"]) == {3}
