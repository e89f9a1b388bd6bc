# SPDX-License-Identifier: GPL-2.0-or-later
"""What the driver does about a request whose time is up, and what it leaves
alone, on a device that misbehaves.

The device is fake-blk.c, a module in the guest; one guest serves all tests.
"""

import errno
import time

import pytest

from checks import assert_fine, assert_timed_out, assert_works
from harness.fake import IO_TIMEOUT, PARAMETERS, FakeDisk, Messages, fake
from harness.guest import FEATURE_CANCEL
from harness.process import wait_until

FOR_EVER = {"max_timeouts": 0}

NO_CANCEL = 1       # fake-blk's features_off
NO_INDIRECT = 2
FEATURE_IN_ORDER = 35
CANCEL_TIMEOUT = 60     # seconds until the driver talks about it

MANY = 64
LARGE = 128 << 20
NO_ANSWER = "no answer for"


def assert_waits(io, guest, seconds):
    """No request comes back for so long, in the guest's time."""
    guest.run(f"sleep {seconds}")
    assert not io.returned()


@pytest.mark.parametrize("lost", [{"mute": "Y"}, {"deaf": 1}],
                         ids=["interrupt", "notification"])
@pytest.mark.parametrize("features_off", [0, NO_CANCEL],
                         ids=["cancel", "no-cancel"])
def test_lost(guest, lost, features_off):
    """What nobody announced is found, and is no error."""
    with fake(guest, features_off=features_off) as disk:
        disk.set(**lost)
        result = disk.io("write", seed=3).result()
        assert_fine([result])
        assert result.seconds > IO_TIMEOUT * 0.9
        disk.set(mute="N")
        assert disk.get("cancels") == 0
        assert_works(disk)


# Three descriptors for each request: of 64 they would leave one.
@pytest.mark.parametrize("device", [{}, {"features_off": NO_INDIRECT,
                                         "size": 64}],
                         ids=["indirect", "direct"])
@pytest.mark.parametrize("count", [1, MANY])
def test_cancelled(guest, count, device):
    """The device gives the requests back; one message for all of them."""
    messages = Messages(guest)
    with fake(guest, **device) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=count, watch=True)
        assert_timed_out(io.results(), IO_TIMEOUT)
        assert disk.get("cancels") >= min(count, 40)
        disk.set(hold="N")
        assert io.changed_bytes() == 0
        assert_works(disk)
    assert messages.count(NO_ANSWER) == 1
    assert messages.count("CANCEL") == 0


def test_second_outage(guest):
    """Once the device has answered, silence is worth a message again."""
    messages = Messages(guest)
    with fake(guest) as disk:
        for outage, tries in (1, 2), (2, 1):
            disk.set(hold="Y")
            for _ in range(tries):
                assert_timed_out(disk.io("read", count=4).results(),
                                 IO_TIMEOUT)
            disk.set(hold="N")
            assert_works(disk)
            assert messages.count(NO_ANSWER) == outage


def test_raced(guest):
    """The request completes while the CANCEL is on its way."""
    with fake(guest) as disk:
        disk.set(hold="Y", cancel="race")
        assert_fine(disk.io("write", seed=3, count=4).results())
        assert disk.get("cancels") == 4
        disk.set(hold="N")
        assert_fine(disk.io("read", count=4).results(), seed=3)
        assert_works(disk)


@pytest.mark.parametrize("answer, complaints",
                         [("refuse", 0), ("lie", 1), ("odd", 1),
                          ("unsupp", 1)])
def test_refused(guest, answer, complaints):
    """The driver waits and asks again, and complains once."""
    messages = Messages(guest)
    with fake(guest) as disk:
        disk.set(hold="Y", cancel=answer)
        io = disk.io("read")
        disk.wait("cancels", 3)
        assert not io.returned()
        disk.set(cancel="obey")
        assert_timed_out(io.results(), IO_TIMEOUT * 3)
        disk.set(hold="N")
        assert_works(disk)
    assert messages.count(NO_ANSWER) == 1
    assert messages.count("CANCEL") == complaints


def test_refused_with_others(guest):
    """A request that is not given back does not keep others from it."""
    with fake(guest) as disk:
        disk.set(hold="Y", cancel="refuse")
        io = disk.io("mixed", seed=3, count=MANY)
        disk.wait("cancels", MANY)
        disk.set(cancel="obey")
        assert_timed_out(io.results(), IO_TIMEOUT)
        disk.set(hold="N")
        assert_works(disk)


def test_silence(guest):
    """A CANCEL that is not answered is waited for, and talked about once."""
    messages = Messages(guest)
    with fake(guest) as disk:
        disk.set(hold="Y", cancel="ignore")
        io = disk.io("mixed", seed=3, count=4)
        disk.wait("cancels", 1)
        sent = time.monotonic()
        messages.wait("CANCEL is not answered", timeout=120)
        assert time.monotonic() - sent > CANCEL_TIMEOUT * 0.9
        assert_waits(io, guest, IO_TIMEOUT * 3)
        assert disk.get("cancels") == 1
        disk.set(hold="N")
        assert_fine(io.results())
        assert_works(disk)
    assert messages.count(NO_ANSWER) == 1
    assert messages.count("CANCEL") == 1


def test_grace(guest):
    """The first time-out may be that of a machine that stood still: it only
    leads to another, and what is answered meanwhile is no error."""
    with fake(guest) as disk:
        # What was known of other requests is forgotten.
        disk.set(hold="Y")
        assert_timed_out(disk.io("read", count=MANY).results(), IO_TIMEOUT)
        before = disk.get("cancels")
        disk.set(hold="N")
        assert_works(disk)

        disk.set(hold="Y")
        io = disk.io("write", seed=3)
        # In the guest, for the grace is short.
        cancels = guest.run(
            f"n=$(dmesg | grep -c '{NO_ANSWER}'); "
            f"while [ $(dmesg | grep -c '{NO_ANSWER}') = $n ]; do :; done; "
            f"cat {PARAMETERS}/cancels; echo N > {PARAMETERS}/hold")
        assert int(cancels) == before
        assert_fine(io.results())
        assert disk.get("cancels") == before
        assert_works(disk)


def test_patience(guest):
    """Ordinary requests are waited for, until the administrator says."""
    with fake(guest, FOR_EVER) as disk:
        assert disk.sysfs("max_timeouts") == "0"
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=4)
        assert_waits(io, guest, IO_TIMEOUT * 8)
        assert disk.get("cancels") == 0
        disk.sysfs("max_timeouts", 1)
        assert_timed_out(io.results(), IO_TIMEOUT * 8)
        # That many, from the beginning.
        disk.sysfs("max_timeouts", 6)
        assert_timed_out(disk.io("read").results(), IO_TIMEOUT * 7)
        disk.set(hold="N")
        for value in ("x", "-1"):
            with pytest.raises(RuntimeError, match="Invalid argument"):
                disk.sysfs("max_timeouts", value)
        assert_works(disk)


def test_read_ahead(guest):
    """What may fail is given up; who then asks in earnest is waited for."""
    with fake(guest, FOR_EVER) as disk:
        device = f"/dev/{guest.disk('fake')}"
        assert_works(disk, seed=5)
        guest.run(f"blockdev --flushbufs {device}")
        disk.set(hold="Y")
        reader = guest.start(f"dd if={device} of=/dev/null bs=4k count=1")
        disk.wait("cancels", 1)
        cancels = disk.get("cancels")
        guest.run(f"sleep {IO_TIMEOUT * 5}")
        assert not reader.done()
        assert disk.get("cancels") == cancels
        disk.set(hold="N")
        reader.wait()
        assert_works(disk)


@pytest.fixture
def need_submit(guest):
    """Skip where fake-blk cannot do to a disk what no program can."""
    release = guest.run("uname -r").split(".")
    if tuple(map(int, release[:2])) < (6, 9):
        pytest.skip("fake-blk needs Linux 6.9 for that")


@pytest.mark.usefixtures("need_submit")
def test_mixed_merge(guest):
    """A request is given up if all that is in it would be sent elsewhere."""
    with fake(guest, FOR_EVER) as disk:
        disk.set(hold="Y")
        disk.submit("failfast")
        disk.wait("busy", 1)
        wait_until(lambda: disk.submitted(), "the request to be given up")
        assert disk.submitted()[0] == errno.ETIMEDOUT
        before = disk.get("cancels")
        disk.submit("mixed")
        disk.wait("busy", 1)
        guest.run(f"sleep {IO_TIMEOUT * 5}")
        assert disk.get("held") == 1
        assert disk.get("cancels") == before
        disk.set(hold="N")
        wait_until(lambda: disk.submitted(), "the request to be back")
        assert disk.submitted()[0] == 0
        assert_works(disk)


@pytest.mark.usefixtures("need_submit")
def test_failed_append(guest):
    """Where a zone append that failed has gone is not for the driver to say."""
    messages = Messages(guest)
    with fake(guest, zoned="Y") as disk:
        disk.submit("append")
        wait_until(lambda: disk.submitted(), "the request to be back")
        assert disk.submitted()[0] == errno.EIO
        messages.wait("I/O error, dev")
        assert messages.count("sector 0 op") == 1, guest.kernel_log()[-5:]


@pytest.mark.usefixtures("need_submit")
def test_report_of_nothing(guest):
    """A report of zones that never reached the device is an error."""
    with fake(guest, FOR_EVER, zoned="Y") as disk:
        disk.submit("report")
        disk.set(broken=1)
        with pytest.raises(RuntimeError, match="Input/output error"):
            disk.submit("report")


def test_probe_fails(guest):
    """What the driver has set up is stopped before it is taken down."""
    if int(guest.run("uname -r").split(".")[0]) < 7:
        pytest.skip("before 7 the block layer leaves a timer armed then, in "
                    "memory that it frees")
    guest.load_driver()
    # One is the bus', when the device is there, and one the driver's.
    guest.run("insmod /lib/modules/test/fake_blk.ko zoned=Y bad_reports=9")
    try:
        assert not guest.run("ls /sys/block | grep ^vd || :")
        assert guest.run(f"cat {PARAMETERS}/resets") == "2"
    finally:
        guest.run("rmmod fake_blk; rmmod virtio_blk")


@pytest.mark.parametrize("driver, device", [
    ({}, {"features_off": NO_CANCEL}),
    ({"io_timeout": 0}, {})], ids=["device", "driver"])
def test_cannot_cancel(guest, driver, device):
    """Without the feature requests are waited for."""
    messages = Messages(guest)
    with fake(guest, driver, **device) as disk:
        assert not guest.has_cancel("fake")
        seconds = driver.get("io_timeout", IO_TIMEOUT) or 30
        assert disk.sysfs("queue/io_timeout") == str(seconds * 1000)
        disk.sysfs("queue/io_timeout", IO_TIMEOUT * 1000)
        with pytest.raises(RuntimeError, match="No such file"):
            disk.sysfs("max_timeouts")
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=MANY)
        assert_waits(io, guest, IO_TIMEOUT * 5)
        disk.set(hold="N")
        assert_fine(io.results())
        assert disk.get("cancels") == 0
        assert_works(disk)
    assert messages.count(NO_ANSWER) == 0


def test_in_order(guest):
    """Of a device that offers both the driver takes CANCEL: in order it would
    come back behind what hangs."""
    with fake(guest, in_order="Y") as disk:
        bits = disk.sysfs("device/features")
        assert (bits[FEATURE_CANCEL], bits[FEATURE_IN_ORDER]) == ("1", "0")
        disk.set(hold="Y")
        assert_timed_out(disk.io("mixed", seed=3, count=4).results(),
                         IO_TIMEOUT)
        disk.set(hold="N")
        assert_works(disk)


def test_slow(guest):
    """Slow is not hung: what takes long takes long."""
    with fake(guest, FOR_EVER, disk_sectors=LARGE >> 9) as disk:
        disk.set(slow=IO_TIMEOUT * 4000)
        for op in ("discard", "zeroes", "fsync"):
            result = disk.io(op, length=1 << 20).result()
            assert_fine([result])
            assert result.seconds > IO_TIMEOUT * 3
        disk.set(slow=0)
        assert disk.get("cancels") == 0
        assert_works(disk)


@pytest.mark.parametrize("op", ["discard", "zeroes"])
@pytest.mark.parametrize("driver, largest", [
    ({}, 64 << 20), ({"io_timeout": 0}, LARGE)], ids=["cancel", "no-cancel"])
def test_limits(guest, op, driver, largest):
    """A discard that may be cancelled is not larger than can end in time."""
    with fake(guest, driver, disk_sectors=LARGE >> 9) as disk:
        assert_fine(disk.io(op, length=LARGE).results())
        assert disk.get("largest") << 9 == largest
        if op == "discard":
            # Who wants more can have it.
            all_of_it = disk.sysfs("queue/discard_max_hw_bytes")
            disk.sysfs("queue/discard_max_bytes", all_of_it)
            assert_fine(disk.io(op, length=LARGE).results())
            assert disk.get("largest") << 9 == LARGE
        assert_works(disk)


def test_needs_reset(guest):
    """A device that says it cannot go on is waited for, and not asked."""
    messages = Messages(guest)
    with fake(guest) as disk:
        disk.set(hold="Y", status=64)
        io = disk.io("write", seed=3, count=4)
        assert_waits(io, guest, IO_TIMEOUT * 5)
        assert disk.get("cancels") == 0
        disk.set(status=0, hold="N")
        assert_fine(io.results())
        assert_works(disk)
    assert messages.count("cannot be used") == 1


@pytest.mark.parametrize("wrong", [{"status": 255},
                                   {"bad_used": 1, "hold": "N"}],
                         ids=["gone", "broken"])
def test_hopeless(rig, wrong):
    """Nothing will come back from the device any more. It is not asked, and one
    message says so; a guest of its own, since its disk cannot be removed."""
    guest = rig.launch().wait_booted()
    guest.load_driver(io_timeout=IO_TIMEOUT)
    disk = FakeDisk(guest)
    messages = Messages(guest)
    disk.set(hold="Y")
    io = disk.io("write", seed=3, count=4)
    disk.wait("busy", 4)
    disk.set(**wrong)
    assert_waits(io, guest, IO_TIMEOUT * 5)
    assert disk.get("cancels") == 0
    assert messages.count("cannot be used") == 1


def test_gone(guest):
    """The disk of a device that is gone stays until the driver is unbound."""
    with fake(guest) as disk:
        disk.set(status=255)
        for value in (None, "'write through'"):
            with pytest.raises(RuntimeError, match="Input/output error"):
                disk.sysfs("cache_type", value)
        # Linux' own bus does not bear that the device does not answer.
        disk.set(status=0)


def test_suspend(guest):
    """What was told the device holds after it has forgotten all."""
    with fake(guest) as disk:
        disk.sysfs("cache_type", "'write through'")
        assert disk.get("wce") == 0
        disk.set(suspend=1)
        assert disk.get("wce") == 0
        assert disk.sysfs("cache_type") == "write through"
        assert disk.sysfs("queue/write_cache") == "write through"
        disk.resets = disk.get("resets")
        assert_works(disk)


def test_polled(guest):
    """Requests whose task polls, on a virtqueue without interrupts."""
    with fake(guest, {"poll_queues": 1}, queues=2) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=4, polled=True)
        assert_timed_out(io.results(), IO_TIMEOUT)
        disk.set(hold="N")
        assert_fine(disk.io("write", seed=4, count=4, polled=True).results())
        assert_fine(disk.io("read", count=4, polled=True).results(), seed=4)
        assert_works(disk)


def test_remove(guest):
    """The driver is unbound while requests hang."""
    with fake(guest) as disk:
        disk.set(hold="Y")
        io = disk.io("mixed", seed=3, count=8)
        disk.wait("busy", 8)
        unbind = guest.start("cd /sys/bus/virtio/drivers/virtio_blk; "
                             "for d in virtio*; do "
                             "[ $(cat $d/vendor) != 0xffff ] || "
                             "echo $d > unbind; done")
        for result in io.results():
            assert result.errno in (errno.EIO, errno.ETIMEDOUT), result
        unbind.wait()


def test_cpu_unplug(guest):
    """A CPU waits for the requests of its virtqueue before it goes."""
    with fake(guest, queues=2) as disk:
        disk.set(hold="Y", cancel="refuse")
        # Neighbours that are both written may become one request.
        io = disk.io("mixed", seed=3, count=8, cpu=1)
        disk.wait("held", 8)
        going = guest.take_cpu()
        assert_waits(io, guest, 1)
        assert not going.done()
        disk.set(cancel="obey")
        assert_timed_out(io.results(), IO_TIMEOUT)
        going.wait()
        disk.set(hold="N")
        assert_works(disk)
        guest.return_cpu()
        assert_works(disk)
