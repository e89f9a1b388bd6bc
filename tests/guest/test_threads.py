# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that allows QEMU few threads: nothing ends it, and nothing fails."""

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, seeds,
                    store)
from harness.guest import Disk, Guest
from harness.limits import Cgroup, NoCgroup
from harness.servers import make_image

MANY = 200

# QEMU has about ten threads when it is idle.
LIMIT = 50

pytestmark = [
    pytest.mark.usefixtures("need_fuse"),
    pytest.mark.parametrize("aio", ["threads", "io_uring", "native"]),
]


@pytest.fixture
def cgroup(rig):
    """An empty one."""
    try:
        group = Cgroup(rig.directory.name)
    except NoCgroup as reason:
        pytest.skip(str(reason))
    yield group
    # QEMU ends first, and only when the storage answers.
    rig.close()
    group.remove()


def boot(rig, cgroup, aio, limit):
    """A disk on a FUSE file and one on an ordinary file, in the group."""
    server = rig.hold_fs()
    image = make_image(rig.directory / "other")
    cgroup.limit(limit)

    class Limited(Guest):
        """A guest whose QEMU is in the group."""

        def _command(self, *args):
            return cgroup.prefix() + super()._command(*args)

    rig.guest_class = Limited
    guest = rig.boot(
        Disk("disk", server.blockdev(aio)),
        Disk("other", {"driver": "file", "aio": aio, "filename": str(image),
                       "cache": {"direct": True}}),
        io_timeout=IO_TIMEOUT)
    for disk in ("disk", "other"):
        store(guest, disk, seed=1, count=MANY)
    return server, guest


def manage(guest):
    """What creates threads, or asks the file."""
    for _ in range(2):
        assert len(guest.qmp.command("query-block")) == 2
        guest.qmp.command("query-named-block-nodes")
    for name in ("one", "two"):
        guest.qmp.command("object-add", **{"qom-type": "iothread", "id": name})
    for name in ("one", "two"):
        guest.qmp.command("object-del", id=name)


def test_hang(rig, cgroup, aio):
    """One disk hangs, and takes all threads that it may have."""
    server, guest = boot(rig, cgroup, aio, LIMIT)
    with rig.alive():
        server.pause()
        batch = guest.io("disk", "mixed", seed=2, count=MANY, watch=True)
        assert_timed_out(batch.results(LATEST))
        assert server.held()
        manage(guest)
        server.resume()
        assert_fine(guest.io("disk", "read", count=MANY).results())
        assert batch.changed_bytes() == 0
    for disk in ("disk", "other"):
        store(guest, disk, seed=3, count=MANY)
    assert seeds(server.image, count=MANY) == {3}


def test_healthy(rig, cgroup, aio):
    """No further thread is to be had, and nothing hangs.

    Where there is no pool's thread yet, what needs one would have to wait.
    """
    _, guest = boot(rig, cgroup, aio, "max")
    cgroup.limit(cgroup.count())
    with rig.alive():
        for seed in range(2, 5):
            for disk in ("disk", "other"):
                store(guest, disk, seed, count=MANY)
                assert_fine(guest.io(disk, "read", count=MANY).results(),
                            seed=seed)
                for op in ("discard", "zeroes") if aio == "threads" else ():
                    assert_fine(guest.io(disk, op, 8 << 20).results())
            assert len(guest.qmp.command("query-block")) == 2
            guest.qmp.command("query-named-block-nodes")
