# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver on QEMU's device: what else happens while requests hang."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from checks import IO_TIMEOUT, LATEST, assert_fine, assert_timed_out, load, \
    seeds, store
from harness.guest import Disk
from harness.patterns import BLOCK
from harness.process import wait_until
from harness.rig import MAX_SILENCE
from harness.servers import SIZE
from harness.tools import tools_image

COUNT = 16


@dataclass
class PortDisk(Disk):
    """A disk that can be unplugged."""

    def arguments(self):
        return ["-device", "pcie-root-port,id=above"] + super().arguments()


def boot(rig, kind=Disk, properties=None):
    """A guest and its disk."""
    server = rig.nbdkit("disk")
    disk = kind("disk", server.blockdev("disk"), properties=properties or {})
    guest = rig.boot(disk, io_timeout=IO_TIMEOUT)
    store(guest, "disk", seed=1, count=COUNT)
    return server, guest


def hang(server, guest):
    """Reads and writes that the storage holds."""
    server.pause()
    io = guest.io("disk", "mixed", seed=2, count=COUNT)
    wait_until(lambda: guest.in_flight("disk") == COUNT, "requests to hang")
    return io


def assert_works(server, guest):
    """Once the storage is back the disk does what a disk does."""
    server.resume()
    assert load(guest, "disk") in (1, 2)
    store(guest, "disk", seed=3, count=COUNT)
    assert_fine(guest.io("disk", "read", count=COUNT).results(), seed=3)
    assert seeds(server.images["disk"], count=COUNT) == {3}


def test_cpu_unplug(rig):
    """A CPU goes once its requests have been cancelled."""
    server, guest = boot(rig)
    server.pause()
    io = [guest.io("disk", "mixed", seed=2, count=COUNT // 2, cpu=cpu)
          for cpu in (0, 1)]
    wait_until(lambda: guest.in_flight("disk") == COUNT, "requests to hang")
    going = guest.take_cpu()
    for some in io:
        assert_timed_out(some.results(LATEST))
    going.wait(LATEST)
    assert_works(server, guest)
    guest.return_cpu()
    store(guest, "disk", seed=4, count=COUNT)
    assert load(guest, "disk") == 4


def test_suspend(rig):
    """The guest falls asleep only once it has its requests back."""
    server, guest = boot(rig)
    io = hang(server, guest)
    suspend = guest.start("echo mem > /sys/power/state")
    wait_until(lambda: guest.status() == "suspended",
               "the guest to fall asleep", LATEST)
    guest.qmp.command("system_wakeup")
    suspend.wait(LATEST)
    assert_timed_out(io.results(LATEST))
    assert_works(server, guest)


def test_unplug(rig):
    """The guest lets go of the disk once it has its requests back."""
    server, guest = boot(rig, PortDisk,
                         properties={"bus": "above"})
    io = hang(server, guest)
    resets = guest.resets()
    guest.qmp.command("device_del", id="disk")
    wait_until(lambda: guest.resets() > resets,
               "the guest to give up the disk")
    assert_timed_out(io.results(LATEST))
    wait_until(lambda: not guest.run("ls /sys/block | grep ^vd || :"),
               "the disk to be gone")
    server.resume()
    guest.run("rmmod virtio_blk")


@pytest.mark.parametrize("failfast", [True, False],
                         ids=["failfast", "patient"])
def test_mirror(rig, failfast):
    """A mirror goes on with one half when the other hangs, if it has been told
    that it should; otherwise it waits."""
    server = rig.nbdkit("disk")
    healthy = rig.nbdkit("other", name="healthy")
    guest = rig.boot(Disk("disk", server.blockdev("disk")),
                     Disk("other", healthy.blockdev("other")),
                     io_timeout=IO_TIMEOUT, max_timeouts=0)
    disks = [guest.disk(name) for name in ("disk", "other")]
    md = "/sys/block/md_test/md"
    guest.run("insmod /lib/modules/test/md-mod.ko; "
              "insmod /lib/modules/test/raid1.ko; "
              "echo md_test > /sys/module/md_mod/parameters/new_array; "
              f"echo none > {md}/metadata_version; echo raid1 > {md}/level; "
              f"echo 2 > {md}/raid_disks; "
              f"echo {SIZE // 1024} > {md}/component_size; "
              f"echo none > {md}/resync_start")
    for number, name in enumerate(disks):
        device = guest.run(f"cat /sys/block/{name}/dev")
        guest.run(f"echo {device} > {md}/new_dev; "
                  f"echo {number} > {md}/dev-{name}/slot")
        if failfast:
            guest.run(f"echo failfast > {md}/dev-{name}/state")
    guest.run(f"echo active > {md}/array_state; "
              "[ -e /dev/md_test ] || ln -s /dev/md/md_test /dev/md_test")

    def mirror_io(op, **options):
        return guest.io_on("/dev/md_test", op, **options)

    assert_fine(mirror_io("write", seed=1, count=COUNT).results())
    with rig.alive():
        server.pause()
        # The write waits for both halves, until one is given up.
        io = mirror_io("write", seed=2, count=COUNT)
        if not failfast:
            guest.run(f"sleep {IO_TIMEOUT * 3}")
            assert not io.returned()
            server.resume()
        written = io.results(LATEST)
        assert_fine(written)
        assert max(r.seconds for r in written) > IO_TIMEOUT * 0.9
        # From then on there is nothing to wait for.
        later = mirror_io("write", seed=3, offset=COUNT * BLOCK).results()
        later += mirror_io("read").results()
        assert_fine(later)
        assert max(r.seconds for r in later) < MAX_SILENCE
        print("mirror: went on after", max(r.seconds for r in written),
              "s, then", max(r.seconds for r in later), "s")
    assert guest.run(f"cat {md}/degraded") == str(int(failfast))
    assert seeds(healthy.images["other"], count=COUNT) == {2}
    server.resume()
    guest.run(f"echo clear > {md}/array_state")


def test_multipath(rig, build):
    """Multipath goes on with one path when the other hangs.

    Two servers of one image are two paths to the same storage.
    """
    tools = tools_image(build, "dm", Path(shutil.which("dmsetup")
                                          or "/usr/sbin/dmsetup"))
    server = rig.nbdkit("disk")
    other = rig.nbdkit(name="other")
    (other.directory / "disk").symlink_to(server.images["disk"])
    guest = rig.boot(Disk("disk", server.blockdev("disk"),
                          properties={"share-rw": True}),
                     Disk("path2", other.blockdev("disk"),
                          properties={"share-rw": True}),
                     Disk("tools", {"driver": "file", "read-only": True,
                                    "filename": str(tools)}, cancel=False),
                     io_timeout=IO_TIMEOUT, max_timeouts=0)
    numbers = [guest.run(f"cat /sys/block/{guest.disk(name)}/dev")
               for name in ("disk", "path2")]
    paths = " ".join(f"round-robin 0 1 1 {number} 1" for number in numbers)
    guest.run("for m in dm-mod dm-multipath dm-round-robin; do "
              "insmod /lib/modules/test/$m.ko; done; mkdir /tools; "
              f"mount -r -t ext4 /dev/{guest.disk('tools')} /tools; "
              "/tools/ld.so --library-path /tools/lib /tools/dmsetup "
              "--noudevsync --noudevrules create both --table "
              f"'0 {SIZE // 512} multipath 0 0 2 1 {paths}'")

    def both(op, **options):
        return guest.io_on("/dev/dm-0", op, **options)

    assert_fine(both("write", seed=1, count=COUNT).results())
    with rig.alive():
        server.pause()
        moved = both("write", seed=2, count=COUNT).results(LATEST)
        assert_fine(moved)
        assert max(r.seconds for r in moved) > IO_TIMEOUT * 0.9
        later = both("write", seed=3, offset=COUNT * BLOCK).results()
        later += both("read", count=COUNT).results()
        assert_fine(later)
        assert max(r.seconds for r in later) < MAX_SILENCE
        print("multipath: switched after",
              max(r.seconds for r in moved), "s, then",
              max(r.seconds for r in later), "s")
    assert seeds(server.images["disk"], count=COUNT) == {2}
    server.resume()
