# SPDX-License-Identifier: GPL-2.0-or-later
"""Without the feature on both sides everything is as it always was."""

import pytest

from checks import IO_TIMEOUT, assert_fine, load, seeds, store
from harness.guest import Disk
from harness.process import Timeout


def assert_waits_for_storage(rig, guest, server):
    """A read hangs until the server is back, then succeeds."""
    store(guest, "disk", seed=1)
    with rig.alive():
        server.pause()
        read = guest.io("disk", "read")
        with pytest.raises(Timeout):
            read.results(timeout=IO_TIMEOUT * 3)
        assert guest.in_flight("disk") == 1
        server.resume()
        result = read.result()
    assert_fine([result], seed=1)
    assert result.seconds > IO_TIMEOUT * 2

    store(guest, "disk", seed=2)
    assert load(guest, "disk") == 2
    assert seeds(server.images["disk"]) == {2}


def test_device_without_cancel(rig):
    """Our driver waits, like the stock one, if it cannot cancel."""
    server = rig.nbdkit("disk")
    guest = rig.boot(Disk("disk", server.blockdev("disk"), cancel=False),
                     io_timeout=IO_TIMEOUT)
    assert not guest.has_cancel("disk")
    assert_waits_for_storage(rig, guest, server)


def test_driver_without_cancel(rig, build):
    """The distribution's driver runs on a device that offers the feature."""
    if not build.stock_module.exists():
        pytest.skip(f"{build.stock_module} is missing")
    server = rig.nbdkit("disk")
    guest = rig.boot(Disk("disk", server.blockdev("disk"), cancel=True),
                     stock_driver=True)
    assert not guest.has_cancel("disk")
    assert_waits_for_storage(rig, guest, server)
