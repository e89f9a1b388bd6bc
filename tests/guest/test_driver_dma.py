# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver where the device does not see the guest's memory as it is: data
goes through bounce buffers, as in guests whose memory is encrypted, or an IOMMU
stands between.
"""

import pytest

from checks import FAR, IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, \
    check_many, check_read, load, store
from harness.guest import Disk, Iommu
from harness.process import wait_until

FEATURE_ACCESS_PLATFORM = 33
POOL = 2048         # slots of 2 KiB

WAYS = {"bounce": ([], f"swiotlb={POOL},force", "software IO TLB: area"),
        "iommu": ([Iommu()], "intel_iommu=on", "DMAR: IOMMU enabled")}


def boot(rig, way, *others):
    """A guest with a disk that is accessed this way, as are the others."""
    before, kernel_args, says = WAYS[way]
    server = rig.nbdkit("disk")
    disks = [Disk(name, server.blockdev(name),
                  properties={"iommu_platform": True, "disable-legacy": "on"})
             for server, name in ((server, "disk"), *others)]
    guest = rig.boot(*before, *disks, kernel_args=kernel_args,
                     io_timeout=IO_TIMEOUT)
    bits = guest.run(f"cat /sys/block/{guest.disk('disk')}/device/features")
    assert bits[FEATURE_ACCESS_PLATFORM] == "1"
    assert any(says in line for line in guest.kernel_log())
    assert guest.has_cancel("disk")
    store(guest, "disk", seed=1)
    return server, guest


def assert_understood(guest):
    """The device has understood every CANCEL, the first as well: nobody had to
    ask again."""
    assert not [line for line in guest.kernel_log() if "CANCEL" in line]


@pytest.mark.parametrize("way", WAYS)
def test_cancel(rig, way):
    """Requests come back, one or many, and nothing arrives late."""
    server, guest = boot(rig, way)
    store(guest, "disk", seed=1, offset=FAR)
    check_read(rig, server, guest)
    check_many(rig, server, guest, 64)
    assert_understood(guest)


def fill_pool(server, guest, length, count, disk="disk"):
    """Requests that hang, with more data than there are bounce buffers."""
    server.pause()
    some = [guest.io(disk, "read", length=128 << 10, count=64),
            guest.io(disk, "read", length=length, count=count)]
    wait_until(lambda: any("swiotlb buffer is full" in line
                           for line in guest.kernel_log()), "the pool to be full")
    return some


def test_full_pool(rig):
    """What does not fit any more leaves room for a CANCEL, which takes less
    than a request."""
    server, guest = boot(rig, "bounce")
    # They come back as there is room for them, some later than others.
    for io in fill_pool(server, guest, 4096, 100):
        assert_timed_out(io.results(200))
    server.resume()
    assert load(guest, "disk") == 1
    assert_understood(guest)


def test_no_room(rig):
    """Small requests may leave a CANCEL no room. Then they are waited for, as
    without the feature, and that is all."""
    server, guest = boot(rig, "bounce")
    store(guest, "disk", seed=1, offset=FAR)
    some = fill_pool(server, guest, 512, 300)
    guest.run(f"sleep {IO_TIMEOUT * 3}")
    server.resume()
    for result in (result for io in some for result in io.results(200)):
        assert result.error in ("", "ETIMEDOUT"), result
    check_read(rig, server, guest)
    assert_understood(guest)


def test_room_again(rig):
    """A CANCEL that finds no room is sent once there is some, although nothing
    of its disk comes back."""
    other = rig.nbdkit("other", name="other")
    server, guest = boot(rig, "bounce", (other, "other"))
    for disk in ("disk", "other"):
        guest.run(f"echo 0 > /sys/block/{guest.disk(disk)}/max_timeouts")
    server.pause()
    hung = guest.io("disk", "read", count=4)
    wait_until(lambda: guest.in_flight("disk") == 4, "requests to hang")
    some = fill_pool(other, guest, 512, 300, "other")
    # A read takes four buffers, a flush and a CANCEL three.
    other.freeze()
    some.append(guest.io("other", "fsync"))

    guest.run(f"echo 1 > /sys/block/{guest.disk('disk')}/max_timeouts; "
              f"sleep {IO_TIMEOUT * 4}")
    assert not hung.returned()
    other.resume()
    assert_timed_out(hung.results(LATEST))
    for io in some:
        assert_fine(io.results(200))
    server.resume()
    assert load(guest, "disk") == 1
    assert_understood(guest)
