# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that allows QEMU few threads: nothing ends it, and nothing fails."""

from pathlib import Path

import pytest

from checks import (IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, seeds,
                    store)
from harness.guest import Disk, Guest
from harness.process import wait_until
from harness.servers import make_image

MANY = 200

# QEMU has about ten threads when it is idle.
LIMIT = 50

CGROUPS = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]

pytestmark = [
    pytest.mark.usefixtures("need_fuse"),
    pytest.mark.parametrize("aio", ["threads", "io_uring", "native"]),
]


class Cgroup:
    """A control group that limits the number of threads."""

    def __init__(self, name):
        root = next((root for root in CGROUPS
                     if (root / "cgroup.procs").exists() and
                     (root != CGROUPS[1] or "pids" in
                      (root / "cgroup.subtree_control").read_text())), None)
        if not root:
            pytest.skip("no pids controller")
        self._directory = root / name
        try:
            self._directory.mkdir()
        except OSError as error:
            pytest.skip(f"no control group to be had: {error}")

    def limit(self, count):
        """As many threads, and no more."""
        (self._directory / "pids.max").write_text(f"{count}\n")

    def count(self):
        """How many threads there are."""
        return int((self._directory / "pids.current").read_text())

    def prefix(self):
        """What starts a command in it."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"',
                str(self._directory)]

    def remove(self):
        """It is empty, or soon will be."""
        wait_until(self._try_remove, "the control group to be empty")

    def _try_remove(self):
        try:
            self._directory.rmdir()
        except OSError:
            return False
        return True


@pytest.fixture
def cgroup(rig):
    """An empty one."""
    group = Cgroup(rig.directory.name)
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
