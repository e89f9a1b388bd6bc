# SPDX-License-Identifier: GPL-2.0-or-later
"""Reset and recovery, the second series: what the driver does about a device
that cannot go on as it is.

The device is fake-blk.c; one guest serves all tests.
"""

import errno
import time

import pytest

from checks import assert_fine, assert_timed_out, assert_works
from harness.fake import IO_TIMEOUT, Messages, fake
from harness.process import wait_until

NEEDS_RESET = 64
GONE = 255
NO_CANCEL = 1       # fake-blk's features_off

# What the driver has: how often a request is sent again, and the seconds from
# one reset to the next
MAX_RESETS = 5
INTERVAL = 5

# A time-out that no test waits for
LATE = {"io_timeout": 600, "max_timeouts": 0}

UNBIND = ("cd /sys/bus/virtio*/drivers/virtio_blk; for d in virtio*; do "
          "[ $(cat $d/vendor) != 0xffff ] || echo $d > unbind; done")


def resets(disk):
    """How often the driver has reset the device since this was last asked."""
    before, disk.resets = disk.resets, disk.get("resets")
    return disk.resets - before


def assert_recovered(disk):
    """The disk works, and nobody has notified a device that was not ready."""
    disk.resets = disk.get("resets")
    assert_works(disk)
    assert disk.get("early") == 0


@pytest.mark.parametrize("driver, announced", [
    ({}, False), (LATE, True), ({"io_timeout": 0}, True)],
    ids=["time-out", "announced", "no-timeout"])
@pytest.mark.parametrize("features_off", [0, NO_CANCEL],
                         ids=["cancel", "no-cancel"])
def test_needs_reset(guest, driver, announced, features_off):
    """The device says it cannot go on. It is reset, and gets again what it
    had, whether or not the time of that is up."""
    with fake(guest, driver, features_off=features_off) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        disk.set(status=NEEDS_RESET, hold="N")
        if announced:
            disk.set(config=1)
        assert_fine(io.results())
        if not announced:
            # All that had timed out asked for it; one reset is for all.
            guest.run(f"sleep {INTERVAL + 1}")
        # One: what is stopped, and what is set up again.
        assert resets(disk) == 2
        assert_recovered(disk)


@pytest.mark.parametrize("announced", [False, True],
                         ids=["time-out", "announced"])
def test_slow_reset(guest, announced):
    """While the device is being reset nobody else touches it, however long that
    takes: no request whose time is up meanwhile, nobody who asks for the
    configuration."""
    with fake(guest, {} if announced else {"max_timeouts": 0}) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        disk.set(reset_ms=IO_TIMEOUT * 4000)
        begun = disk.resets + 1
        disk.set(status=NEEDS_RESET, hold="N", **{"config": 1} if announced
                 else {})
        disk.wait("resets", begun)
        asked = guest.start(f"cat /sys/block/{guest.disk('fake')}/cache_type")
        disk.submit("geometry")
        assert_fine(io.results())
        assert asked.wait() == "write back"
        disk.set(reset_ms=0)
        assert resets(disk) == 2
        assert_recovered(disk)


def test_frozen(guest):
    """That a reset is needed is not forgotten while nobody may use the queue."""
    with fake(guest, LATE) as disk:
        disk.submit("freeze")
        disk.set(status=NEEDS_RESET, config=1)
        guest.run("sleep 2")
        assert not resets(disk)
        disk.submit("thaw")
        wait_until(lambda: disk.get("resets") == disk.resets + 2,
                   "the device to be reset")
        assert_recovered(disk)


def test_poison(guest):
    """One request makes the device need a reset, again and again. It fails in
    the end; all others go on."""
    with fake(guest, LATE) as disk:
        disk.set(poison=64, status=NEEDS_RESET)
        bad = disk.io("read", offset=64 << 9)
        wait_until(lambda: guest.in_flight("fake") == 1, "the bad one")
        behind = disk.io("write", offset=1 << 20, seed=1, count=4)
        wait_until(lambda: guest.in_flight("fake") == 5, "the others")
        disk.set(config=1)
        assert_fine(behind.results())
        number = 0
        deadline = bad.started + 300
        while not bad.returned():
            assert time.monotonic() < deadline, "it is sent again for ever"
            number += 1
            assert_fine(disk.io("write", offset=1 << 20, seed=number,
                                count=4).results())
        (result,) = bad.results()
        assert result.errno == errno.EIO, result
        assert disk.get("poisoned") == MAX_RESETS
        assert resets(disk) == 2 * (MAX_RESETS + 1)
        # The device had time between them.
        assert result.seconds > MAX_RESETS * INTERVAL * 0.9
        assert number > 1
        disk.set(poison=1 << 60)
        assert_works(disk)
        assert disk.get("early") == 0


def test_polled(guest):
    """Polling tasks leave a device alone that is being reset."""
    with fake(guest, {"poll_queues": 1}, queues=2) as disk:
        for seed in range(1, 4):
            before = disk.get("cancels")
            disk.set(hold="Y", cancel="ignore")
            io = disk.io("mixed", seed=seed, count=16, polled=True)
            disk.wait("cancels", before + 1)
            disk.set(status=NEEDS_RESET, hold="N", cancel="obey", config=1)
            # That which was to be cancelled is, by the reset.
            results = io.results()
            late = [r for r in results if r.errno]
            assert_timed_out(late, IO_TIMEOUT)
            assert len(late) == 1, late
            assert_recovered(disk)


@pytest.mark.parametrize("driver", [{}, {"io_timeout": 0}, LATE],
                         ids=["time-out", "announced", "removed"])
@pytest.mark.parametrize("count", [0, 8], ids=["idle", "busy"])
def test_gone(guest, driver, count):
    """A device that is gone: errors instead of waiting, and a disk that can be
    removed while nothing answers."""
    messages = Messages(guest)
    with fake(guest, driver) as disk:
        disk.set(hold="Y")
        ios = [disk.io("mixed", seed=3, count=count)] if count else []
        disk.wait("busy", count)
        disk.set(status=GONE)
        if driver is not LATE:
            disk.set(config=1)
            messages.wait("the device is gone")
        unbind = guest.start(UNBIND)
        for result in (r for io in ios for r in io.results()):
            assert result.errno == errno.EIO, result
        unbind.wait()
        assert not guest.run("ls /sys/block | grep ^vd || :")
    assert messages.count("the device is gone") == 1


def test_hung_removal(guest):
    """A device that needs a reset while its driver is being unbound, when
    nobody listens to what it announces."""
    with fake(guest, {"io_timeout": IO_TIMEOUT * 3,
                      "max_timeouts": 0}) as disk:
        disk.set(hold="Y")
        device = f"/dev/{guest.disk('fake')}"
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        unbind = guest.start(UNBIND)
        guest.run(f"while (: < {device}) 2> /dev/null; do :; done")
        assert not unbind.done()
        disk.set(status=NEEDS_RESET, hold="N")
        assert_fine(io.results())
        unbind.wait()


def test_not_again(guest):
    """A device of which nothing comes back is given up: errors, no waiting."""
    with fake(guest, LATE) as disk:
        disk.set(hold="Y", no_vqs=1)
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        disk.set(status=NEEDS_RESET, hold="N", config=1)
        for result in io.results():
            assert result.errno == errno.EIO, result


@pytest.mark.parametrize("wrong", [{"no_vqs": 1}, {"offer": 1}],
                         ids=["none", "fewer"])
def test_resume_fails(guest, wrong):
    """Without its virtqueues a disk gives errors after resume."""
    with fake(guest, queues=2) as disk:
        disk.set(**wrong)
        with pytest.raises(RuntimeError, match="No such file|Invalid"):
            disk.set(suspend=1)
        for op in "read", "write", "fsync":
            assert disk.io(op).result().errno == errno.EIO


def test_suspend(guest):
    """Suspend waits for requests; that they need the device to be reset is
    found meanwhile."""
    with fake(guest, {"io_timeout": IO_TIMEOUT * 3}) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        disk.set(status=NEEDS_RESET, hold="N", suspend=1)
        assert_fine(io.results())
        assert_recovered(disk)


def test_bus_reset(guest):
    """Whoever has the bus reset a device that hangs need not wait for it."""
    with fake(guest, LATE) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        disk.set(bus_reset=1)
        disk.wait("busy", 8)        # sent again
        disk.set(hold="N")
        assert_fine(io.results())
        assert_recovered(disk)


@pytest.mark.parametrize("allowed", [False, True], ids=["waits", "resets"])
@pytest.mark.parametrize("wrong, features_off",
                         [({"bad_used": 1}, 0), ({"bad_used": 1}, NO_CANCEL),
                          ({"cancel": "lie"}, 0), ({"cancel": "ignore"}, 0)],
                         ids=["virtqueue", "virtqueue-no-cancel", "lie",
                              "silence"])
def test_opt_in(guest, wrong, features_off, allowed):
    """A device that has not asked for it is reset if it may be."""
    messages = Messages(guest)
    with fake(guest, {"may_reset": "NY"[allowed]}, queues=2,
              features_off=features_off) as disk:
        disk.set(hold="Y", **wrong)
        io = disk.io("write", seed=3)
        if "bad_used" in wrong:
            disk.wait("busy", 1)
            disk.set(hold="N")
            messages.wait("is broken")
        else:
            messages.wait("CANCEL", timeout=120)
        if not allowed:
            if "bad_used" in wrong:
                # The other virtqueue works, and its requests come back.
                others = [disk.io("read", cpu=cpu).result() for cpu in (0, 1)]
                assert {r.errno for r in others} == {0, errno.EIO}, others
            guest.run(f"sleep {IO_TIMEOUT * 2}")
            assert not io.returned()
            assert not resets(disk)
            # Now the device wants it, too.
            disk.set(status=NEEDS_RESET, config=1)
        result = io.result()
        if "cancel" in wrong:
            assert_timed_out([result], IO_TIMEOUT)
        else:
            assert_fine([result])
        disk.set(hold="N", cancel="obey")
        assert_recovered(disk)
