# SPDX-License-Identifier: GPL-2.0-or-later
"""cancel-zero-copy=on: requests run on the guest's own memory.

A request that is taken back while it hangs leaves the guest other pages with the
same contents. The disk is a loop device on a file that is held.
"""

import os
import subprocess

import pytest

from checks import (FAR, IO_TIMEOUT, LATEST, assert_fine, assert_timed_out,
                    load, seeds, store)
from harness.guest import Disk
from harness.process import wait_until

# Fewer than the device takes at once, and more; those that it does not take
# have a buffer.
FEW, MANY = 100, 200
SWAPPED = r"blk_cancel_swap .*: 0$"

needs_loop = pytest.mark.usefixtures("need_loop")

# A machine that does nothing; it ends when it is told to.
IDLE = ("-nodefaults", "-display", "none", "-S", "-m", "64M", "-qmp", "stdio",
        "-blockdev", "null-co,node-name=node")
QUIT = '{"execute":"qmp_capabilities"}{"execute":"quit"}'


def start(build, *options, zero_copy="on", prefix=(), **keywords):
    """A machine with a disk and these options, until it is told to quit."""
    device = f"virtio-blk-pci,drive=node,cancel=on,cancel-zero-copy={zero_copy}"
    extra = keywords.pop("device", "")
    return subprocess.run(
        [*prefix, build.qemu, "-L", build.root / "src/pc-bios",
         "-L", "/usr/share/seabios", "-L", "/usr/share/qemu",
         *IDLE, *options, "-device", device + extra],
        input=QUIT, text=True, timeout=60, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)


@pytest.fixture(name="can_swap")
def fixture_can_swap(build):
    """Skip where the host cannot swap pages, and say why."""
    result = start(build)
    if result.returncode:
        pytest.skip(result.stderr.strip())


def boot(rig, aio, iothread=False):
    """A disk that lends."""
    held, server = rig.hold_loop()
    guest = rig.boot(Disk("disk", server.blockdev(aio), iothread=iothread,
                          properties={"cancel-zero-copy": "on"}),
                     io_timeout=IO_TIMEOUT)
    store(guest, "disk", seed=1, count=MANY)
    store(guest, "disk", seed=1, offset=FAR)
    return held, server, guest


@needs_loop
@pytest.mark.parametrize("aio, iothread, count", [
    ("io_uring", False, FEW), ("io_uring", True, MANY),
    ("native", True, FEW), ("native", False, MANY)])
@pytest.mark.usefixtures("can_swap")
def test_hang(rig, aio, iothread, count):
    """Reads and writes that hang come back, and nothing lands late."""
    held, server, guest = boot(rig, aio, iothread)
    resets = guest.resets()
    for seed in (2, 3):
        with rig.alive():
            held.pause()
            batch = guest.io("disk", "mixed", seed=seed, count=count,
                             watch=True)
            read = guest.io("disk", "read", FAR, watch=True)
            assert_timed_out(batch.results(LATEST))
            assert_timed_out(read.results(LATEST))
            swaps = len(guest.traces(SWAPPED))
            assert swaps >= (count + 1 if count == FEW else 1)
            held.resume()
            assert_fine(guest.io("disk", "read", count=count).results())
            assert batch.changed_bytes() == 0
            assert read.changed_bytes() == 0
            assert load(guest, "disk", FAR) == 1
    store(guest, "disk", seed=4, count=count)
    server.sync()
    assert seeds(server.image, count=count) == {4}
    assert seeds(server.image, FAR) == {1}
    assert guest.resets() == resets


@needs_loop
@pytest.mark.usefixtures("can_swap")
def test_reset(rig):
    """A reset of the machine takes all back, and does not wait."""
    held, _, guest = boot(rig, "io_uring")
    guest.allow_reboot()
    held.pause()
    guest.io("disk", "read", count=FEW)
    wait_until(lambda: guest.in_flight("disk") == FEW, "the requests")
    guest.qmp.command("system_reset")
    guest.wait_rebooted()
    assert len(guest.traces(SWAPPED)) == FEW
    held.resume()
    guest.load_driver(io_timeout=IO_TIMEOUT)
    assert load(guest, "disk") == 1


REFUSED = {
    "shared": (["-machine", "memory-backend=m", "-object",
                "memory-backend-memfd,id=m,share=on,size=64M"], "is shared"),
    "file": (["-machine", "memory-backend=m", "-object",
              "memory-backend-memfd,id=m,share=off,size=64M"], "is a file's"),
    "locked": (["-overcommit", "mem-lock=on"], "is locked"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.usefixtures("can_swap")
def test_refused(build, what):
    """Memory that others have is not swapped; auto says so and goes on."""
    options, reason = REFUSED[what]
    result = start(build, *options)
    assert result.returncode and reason in result.stderr, result.stderr
    result = start(build, *options, zero_copy="auto")
    assert not result.returncode, result.stderr
    assert result.stderr.count("warning:") == 1
    assert reason in result.stderr
    assert not start(build, *options, zero_copy="off").stderr


@pytest.mark.usefixtures("can_swap")
def test_other_user(build):
    """Who may not open userfaultfd's device can be given it, opened."""
    if os.geteuid():
        pytest.skip("another user is to be had by root only")
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    probe = subprocess.run([*prefix, "test", "-x", build.qemu], check=False)
    if probe.returncode:
        pytest.skip("another user cannot run QEMU where it was built")
    result = start(build, prefix=prefix)
    assert result.returncode and "userfaultfd" in result.stderr, result.stderr
    device = os.open("/dev/userfaultfd", os.O_RDWR)
    try:
        result = start(build, "-add-fd", f"fd={device},set=1", prefix=prefix,
                       device=",cancel-userfaultfd=/dev/fdset/1",
                       pass_fds=[device])
    finally:
        os.close(device)
    assert not result.returncode, result.stderr
