# SPDX-License-Identifier: GPL-2.0-or-later
"""Each rung of the driver's ladder by itself, on a device that misbehaves.

The device is fake-blk.c, a module in the guest; one guest serves all tests.
"""

import errno
from contextlib import contextmanager, suppress

import pytest

from checks import assert_fine, assert_timed_out
from harness.fake import FakeDisk
from harness.process import Timeout, wait_until
from harness.rig import Rig

# Seconds; the block layer adds up to 1.2.
IO_TIMEOUT = 1
# So long that it plays no part.
LONG = 600

NO_CANCEL = 1       # fake-blk's features_off
NO_INDIRECT = 2
ZONE = 4 << 20      # the length of its zones

MANY = 64


@pytest.fixture(scope="module")
def the_guest(build):
    """A guest without disks."""
    with Rig(build, build.work / "logs" / "test_driver") as rig:
        yield rig.launch().wait_booted()


@pytest.fixture
def guest(the_guest):
    """The same, and whether its kernel has complained during this test."""
    before = len(the_guest.complaints())
    yield the_guest
    new = the_guest.complaints()[before:]
    assert not new, f"the guest's kernel said: {new}"


@contextmanager
def fake(guest, driver=None, **device):
    """The device with our driver; in the end both can be removed."""
    guest.load_driver(**{"io_timeout": IO_TIMEOUT, **(driver or {})})
    disk = FakeDisk(guest, **device)
    try:
        yield disk
    except BaseException:
        # So that the next test has its chance
        with suppress(Timeout, RuntimeError):
            disk.set(hold="N", cancel="obey", mute="N", needy=0, status=0)
            disk.remove()
        raise
    disk.remove()


@contextmanager
def resets(disk, count):
    """Within this the device is reset so often."""
    before = disk.get("resets")
    yield
    disk.wait("resets", before + count)
    assert disk.get("resets") == before + count


def assert_works(disk, seed=9):
    """The disk does what a disk does, and the device has nothing left."""
    assert_fine(disk.io("write", seed=seed, count=8).results())
    assert_fine(disk.io("read", count=8).results(), seed=seed)
    assert_fine(disk.io("fsync").results())
    wait_until(lambda: not disk.get("busy"), "all requests to be back")


def assert_dead(disk, io=None):
    """The disk answers everything with an error, at once."""
    if io:
        for result in io.results():
            assert result.errno in (errno.EIO, errno.ETIMEDOUT), result
    wait_until(lambda: disk.sysfs("size") == "0", "the disk to be given up")


def new_sizes(guest):
    """How often a disk has got another size so far."""
    return sum("new size" in line for line in guest.kernel_log())


def test_lost_interrupt(guest):
    """What nobody announced is found, and is no error."""
    with fake(guest) as disk, resets(disk, 0):
        disk.set(mute="Y")
        result = disk.io("write", seed=3).result()
        assert_fine([result])
        assert result.seconds > IO_TIMEOUT * 0.9
        disk.set(mute="N")
        assert disk.get("cancels") == 0
        assert_works(disk)


@pytest.mark.parametrize("device", [{}, {"features_off": NO_INDIRECT}],
                         ids=["indirect", "direct"])
@pytest.mark.parametrize("count", [1, MANY])
def test_cancelled(guest, count, device):
    """The device gives the requests back."""
    with fake(guest, **device) as disk, resets(disk, 0):
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=count, watch=True)
        assert_timed_out(io.results(), IO_TIMEOUT)
        assert disk.get("cancels") >= min(count, 40)
        disk.set(hold="N")
        assert io.changed_bytes() == 0
        assert_works(disk)


def test_raced(guest):
    """The request completes while the CANCEL is on its way."""
    with fake(guest) as disk, resets(disk, 0):
        disk.set(hold="Y", cancel="race")
        assert_fine(disk.io("write", seed=3, count=4).results())
        assert disk.get("cancels") == 4
        disk.set(hold="N")
        assert_fine(disk.io("read", count=4).results(), seed=3)
        assert_works(disk)


def test_refused(guest):
    """The driver asks again, and again, and does nothing else by default."""
    with fake(guest) as disk, resets(disk, 0):
        disk.set(hold="Y", cancel="refuse")
        io = disk.io("read")
        disk.wait("cancels", 7)
        assert not io.returned()
        disk.set(cancel="obey")
        assert_timed_out(io.results(), IO_TIMEOUT * 7)
        disk.set(hold="N")
        assert_works(disk)


@pytest.mark.parametrize("answer", ["refuse", "odd"])
def test_refused_too_often(guest, answer):
    """After cancel_limit refusals the device is reset."""
    with fake(guest, {"cancel_limit": 2}) as disk, resets(disk, 1):
        disk.set(hold="Y", cancel=answer)
        assert_timed_out(disk.io("write", seed=3).results(), IO_TIMEOUT * 3)
        assert disk.get("cancels") == 2
        disk.set(hold="N")
        assert_works(disk)


def test_cancel_lost(guest):
    """A CANCEL that is not answered for a time-out leads to a reset."""
    with fake(guest, {"cancel_limit": 0}) as disk, resets(disk, 1):
        disk.set(hold="Y", cancel="ignore")
        io = disk.io("mixed", seed=3, count=MANY, watch=True)
        assert_timed_out(io.results(), IO_TIMEOUT * 2)
        assert disk.get("cancels") == 1
        disk.set(hold="N")
        assert io.changed_bytes() == 0
        assert_works(disk)


def test_lie(guest):
    """The device says it has nothing to do with a request that it keeps."""
    with fake(guest, {"cancel_limit": 0}) as disk, resets(disk, 1):
        disk.set(hold="Y", cancel="lie")
        result = disk.io("read").result()
        assert_timed_out([result], IO_TIMEOUT)
        disk.set(hold="N")
        assert_works(disk)


@pytest.mark.parametrize("driver, device", [
    ({}, {"features_off": NO_CANCEL}),
    ({"cancel": "N"}, {})], ids=["device", "driver"])
def test_cannot_cancel(guest, driver, device):
    """Without the feature requests are waited for, unless told otherwise."""
    with fake(guest, driver, **device) as disk:
        assert not guest.has_cancel("fake")
        with resets(disk, 0):
            disk.set(hold="Y")
            io = disk.io("mixed", seed=3, count=MANY)
            # Another one's end shows that the time-out has passed.
            guest.run(f"sleep {IO_TIMEOUT * 4}")
            assert not io.returned()
        with resets(disk, 1):
            guest.run("echo Y > /sys/module/virtio_blk/parameters/"
                      "timeout_reset")
            assert_timed_out(io.results(), IO_TIMEOUT)
        disk.set(hold="N")
        assert disk.get("cancels") == 0
        assert_works(disk)


def test_reset_ends_all(guest):
    """Requests that time out together end with one reset."""
    with fake(guest, {"timeout_reset": "Y"}, features_off=NO_CANCEL) as disk, \
            resets(disk, 1):
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=MANY, watch=True)
        assert_timed_out(io.results(), IO_TIMEOUT)
        disk.set(hold="N")
        assert io.changed_bytes() == 0
        assert_works(disk)


def test_reset_sends_again(guest):
    """Requests that are not late go on as if there had been no reset."""
    with fake(guest, {"io_timeout": LONG}) as disk, resets(disk, 1):
        disk.set(hold="Y")
        io = disk.io("write", seed=3, count=MANY)
        flush = disk.io("fsync")
        disk.wait("held", MANY)
        disk.set(status=64, hold="N", config=1)
        assert_fine(io.results())
        assert_fine(flush.results())
        assert_fine(disk.io("read", count=MANY).results(), seed=3)
        assert_works(disk)


def test_needs_reset_found(guest):
    """The same when the device does not say anything: the time-out tells."""
    with fake(guest) as disk, resets(disk, 1):
        disk.set(hold="Y", cancel="refuse")
        io = disk.io("write", seed=3)
        disk.wait("held", 1)
        disk.set(status=64, hold="N")
        # It has had its time when the reset comes.
        for result in io.results():
            assert result.errno in (0, errno.ETIMEDOUT), result
        assert_works(disk)


def test_needs_reset_again(guest):
    """A device may need some resets, but not for ever."""
    sizes = new_sizes(guest)
    with fake(guest, {"io_timeout": LONG}) as disk:
        with resets(disk, 4):
            disk.set(needy=3, status=64, config=1)
            assert_works(disk)
        disk.set(hold="Y")
        io = disk.io("write", seed=3, count=8)
        disk.wait("held", 8)
        disk.set(needy=1000, status=64, config=1)
        assert_dead(disk, io)
        assert disk.get("resets") < 20
        # It stays dead; the end waits for what the report makes the driver do.
        disk.set(needy=0, status=0, config=1)
    assert new_sizes(guest) == sizes


def test_zoned(guest):
    """A reset leaves open how far a zone has been written."""
    with fake(guest, {"io_timeout": LONG}, zoned=1) as disk, resets(disk, 1):
        disk.set(hold="Y")
        write = disk.io("write", ZONE, seed=3)
        read = disk.io("read", 2 * ZONE)
        disk.wait("held", 2)
        disk.set(status=64, hold="N", config=1)
        # It is not sent again, what cannot move a write pointer is.
        assert write.result().errno == errno.EIO
        assert_fine(read.results())
        # Linux lets nobody write there before it has had a report.
        assert disk.io("write", ZONE, seed=4).result().errno == errno.EIO
        assert_fine(disk.io("write", 2 * ZONE, seed=5).results())
        assert_fine(disk.io("read", 2 * ZONE).results(), seed=5)
        assert_works(disk)


@pytest.mark.parametrize("failure", ["fail_find", "fail_ok"])
class TestResetFails:
    """The device does not come up after a reset."""

    def test_once(self, guest, failure):
        """The driver tries again."""
        with fake(guest, {"io_timeout": LONG}) as disk:
            disk.set(hold="Y")
            io = disk.io("write", seed=3, count=8)
            disk.wait("held", 8)
            disk.set(**{failure: 2}, status=64, hold="N", config=1)
            assert_fine(io.results())
            assert_works(disk)

    def test_always(self, guest, failure):
        """The disk is given up: all that waits gets an error."""
        with fake(guest, {"io_timeout": LONG}) as disk:
            disk.set(hold="Y")
            io = disk.io("mixed", seed=3, count=8, watch=True)
            disk.wait("held", 8)
            disk.set(**{failure: 1000}, status=64, hold="N", config=1)
            assert_dead(disk, io)
            assert io.changed_bytes() == 0


@pytest.mark.parametrize("how", [{"status": 255}, {"bad_used": 1}],
                         ids=["gone", "broken"])
def test_dead(guest, how):
    """A device that is not there any more, or talks nonsense."""
    with fake(guest, {"io_timeout": IO_TIMEOUT * 3}) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("held", 8)
        disk.set(**how, hold="N")
        assert_dead(disk, io)
        if "status" in how:
            # It is in sysfs as long as the driver is bound.
            for value in (None, "'write through'"):
                with pytest.raises(RuntimeError, match="Input/output error"):
                    disk.sysfs("cache_type", value)
        disk.set(status=0)


def test_settings_survive(guest):
    """What the driver and the host have set holds after a reset."""
    with fake(guest, {"io_timeout": LONG}) as disk, resets(disk, 1):
        disk.sysfs("cache_type", "'write through'")
        assert disk.get("wce") == 0
        # Nobody tells that the disk is smaller; the driver looks.
        disk.set(sectors=16384, status=64, config=1)
        wait_until(lambda: disk.sysfs("size") == "16384", "the new size")
        assert disk.get("wce") == 0
        assert disk.sysfs("queue/write_cache") == "write through"
        assert_works(disk)


@pytest.mark.parametrize("answer, count", [("obey", 0), ("ignore", 1)])
def test_polled(guest, answer, count):
    """Requests whose task polls, on a virtqueue without interrupts."""
    with fake(guest, {"poll_queues": 1}, queues=2) as disk, \
            resets(disk, count):
        disk.set(hold="Y", cancel=answer)
        io = disk.io("mixed", seed=3, count=4, polled=True)
        assert_timed_out(io.results(), IO_TIMEOUT)
        disk.set(hold="N")
        assert_fine(disk.io("write", seed=4, count=4, polled=True).results())
        assert_fine(disk.io("read", count=4, polled=True).results(), seed=4)
        assert_works(disk)


@pytest.mark.parametrize("how", [{"cancel": "obey"}, {"cancel": "ignore"},
                                 {"cancel": "lie"},
                                 {"cancel": "ignore", "fail_find": 1000}],
                         ids=["cancel", "reset", "lie", "fails"])
def test_remove(guest, how):
    """The driver is unbound while requests hang."""
    with fake(guest, {"io_timeout": IO_TIMEOUT * 3}) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        disk.set(**how)
        unbind = guest.start("cd /sys/bus/virtio/drivers/virtio_blk; "
                             "for d in virtio*; do "
                             "[ $(cat $d/vendor) != 0xffff ] || "
                             "echo $d > unbind; done")
        for result in io.results():
            assert result.errno in (errno.EIO, errno.ETIMEDOUT), result
        disk.set(status=0)
        unbind.wait()


@pytest.mark.parametrize("how, driver, count", [
    ({"cancel": "obey"}, {}, 0),
    ({"cancel": "ignore"}, {}, 1),
    ({"status": 64, "hold": "N", "config": 1}, {"io_timeout": LONG}, 1)],
    ids=["cancel", "reset", "needs-reset"])
def test_cpu_unplug(guest, how, driver, count):
    """A CPU waits for the requests of its virtqueue before it goes."""
    with fake(guest, driver, queues=2) as disk, resets(disk, count):
        disk.set(hold="Y", cancel="refuse")
        io = disk.io("write", seed=3, count=8, cpu=1)
        disk.wait("held", 8)
        going = guest.take_cpu()
        guest.run("sleep 1")
        assert not going.done() and not io.returned()
        disk.set(**how)
        if driver:
            assert_fine(io.results())
        else:
            assert_timed_out(io.results(), IO_TIMEOUT)
        going.wait()
        disk.set(hold="N", cancel="obey")
        assert_works(disk)
        guest.return_cpu()
        assert_works(disk)
