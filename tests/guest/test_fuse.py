# SPDX-License-Identifier: GPL-2.0-or-later
"""The same with a file on a FUSE file system that holds its requests.

Here the host's kernel has the hung I/O, not QEMU's own NBD client, and each of
QEMU's ways to submit it gets stuck at another place.
"""

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load,
                    seeds, store)
from harness.guest import Disk

MANY = 128
FAR = 8 << 20

pytestmark = [
    pytest.mark.usefixtures("need_fuse"),
    pytest.mark.parametrize("aio", ["threads", "io_uring", "native"]),
]


def boot(rig, aio):
    """One disk on a FUSE file."""
    server = rig.hold_fs()
    guest = rig.boot(Disk("disk", server.blockdev(aio)),
                     io_timeout=IO_TIMEOUT)
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1, count=MANY)
    store(guest, "disk", seed=1, offset=FAR)
    return server, guest


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


def test_many(rig, aio):
    """A batch at once."""
    server, guest = boot(rig, aio)
    with rig.alive():
        server.pause()
        batch = guest.io("disk", "mixed", seed=2, count=MANY, watch=True)
        assert_timed_out(batch.results(LATEST))
        assert server.held()
        server.resume()
        assert_fine(guest.io("disk", "read", count=MANY).results())
        assert batch.changed_bytes() == 0
    store(guest, "disk", seed=3, count=MANY)
    assert seeds(server.image, count=MANY) == {3}
    assert seeds(server.image, FAR) == {1}
