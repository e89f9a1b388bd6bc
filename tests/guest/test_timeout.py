# SPDX-License-Identifier: GPL-2.0-or-later
"""queue/io_timeout and the module's parameter decide when."""

import pytest

from checks import LATEST, assert_timed_out
from harness.guest import Disk
from harness.process import Timeout


def set_timeout(guest, seconds):
    """Set a disk's time-out the way an administrator does."""
    name = guest.disk("disk")
    guest.run(f"echo {seconds * 1000} > /sys/block/{name}/queue/io_timeout")


def timeout_ms(guest):
    """The time-out that sysfs shows."""
    name = guest.disk("disk")
    return int(guest.run(f"cat /sys/block/{name}/queue/io_timeout"))


def boot(rig, **parameters):
    """One disk on a server of its own."""
    server = rig.nbdkit("disk")
    guest = rig.boot(Disk("disk", server.blockdev("disk")), **parameters)
    assert guest.has_cancel("disk")
    return server, guest


def test_default(rig):
    """30 s if nobody says otherwise."""
    _, guest = boot(rig)
    assert timeout_ms(guest) == 30000


def test_sysfs(rig):
    """A change takes effect for the next request, in both directions."""
    server, guest = boot(rig, io_timeout=300)
    assert timeout_ms(guest) == 300000
    server.pause()
    set_timeout(guest, 2)
    result = guest.io("disk", "read").result(LATEST)
    assert_timed_out([result], io_timeout=2)

    set_timeout(guest, 300)
    read = guest.io("disk", "read")
    with pytest.raises(Timeout):
        read.results(timeout=7)
    server.resume()
    assert read.result().errno == 0
