# SPDX-License-Identifier: GPL-2.0-or-later
"""No harm: what a guest survives without the feature it survives with it.

Disks with cancel=on and cancel=off stand side by side. The time-out is short,
so that seconds are many time-outs.
"""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from checks import LATEST, assert_fine
from harness.guest import Disk
from harness.tools import tools_image

MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
SIZE = 320 << 20                # xfs wants that much
SWAP = 32                       # MB of memory
OUTAGE = 20                     # seconds, with a time-out of one: as 10 minutes
                                # are at the default

# What a kernel says when an error has reached somebody. A read ahead that is
# given up, "timeout error", has reached nobody.
ERRORS = ("I/O error", "EXT4-fs error", "XFS (", "Remounting", "Aborting",
          "lost async page write")
FINE = ("Mounting", "Ending clean mount", "Unmounting")

# A file system that is the root of what runs on it: also programs are read
# from there.
ROOT = """
cd /mnt/{0}; mkdir bin dev tmp; cp /bin/busybox bin;
chroot . /bin/busybox --install -s /bin;
mount -o bind /dev dev; mount -o bind /tmp tmp
"""
# Writes files and waits until each is durable, reads what is not in memory,
# trims; ends with the number of rounds, or with the first error.
WRITER = """
n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1));
dd if=/dev/urandom of=f$((n % 8)) bs=64k count=2 conv=fsync 2>/tmp/$0.log ||
{ cat /tmp/$0.log; exit 1; };
cat f* | wc -c > /dev/null || exit 1; done; echo $n
"""
READER = "cat /big | cmp - /tmp/big || exit 1; exec fstrim /"
# Makes file systems; ends as the writer does.
MAKER = """
n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1));
$TOOL/mkfs.ext4 -q -F /dev/{0} && $TOOL/mkfs.xfs -q -f /dev/{0} || exit 1;
done; echo $n
"""
ABUSE = """
set -e; $TOOL/mkfs.ext4 -q -F /dev/{1}; mkdir -p /mnt/{0};
mount -t ext4 /dev/{1} /mnt/{0};
dd if=/dev/urandom of=/mnt/{0}/file bs=64k count=16 conv=fsync 2>/dev/null;
rm /mnt/{0}/file; sync; fstrim /mnt/{0}; umount /mnt/{0};
$TOOL/blkdiscard -f -z /dev/{1}; $TOOL/blkdiscard -f /dev/{1}
"""
TOOL = "/tools/ld.so --library-path /tools/lib /tools"


def one_line(script):
    """What the agent takes."""
    return script.replace("\n", " ").replace("$TOOL", TOOL).strip()


def in_root(name, script):
    """The command that runs a script on the file system of this name."""
    return f"chroot /mnt/{name} /bin/sh -c '{one_line(script)}' {name}"


def tools(build, name, *programs):
    """A disk with programs of this machine."""
    paths = [Path(shutil.which(program) or f"/usr/sbin/{program}")
             for program in programs]
    return Disk("tools", {"driver": "file", "read-only": True,
                          "filename": str(tools_image(build, name, *paths))},
                cancel=False)


def mount_tools(guest):
    """Have the guest use them."""
    guest.run(f"mkdir /tools; mount -r -t ext4 /dev/{guest.disk('tools')} "
              "/tools")


def errors(guest):
    """What the guest's kernel says about errors."""
    return [line for line in guest.kernel_log()
            if any(word in line for word in ERRORS)
            and not any(word in line for word in FINE)]


def test_outage(rig, build):
    """An outage of many time-outs, and nobody gets an error."""
    names = [f"{kind}-{cancel}" for kind in MAKE for cancel in ("on", "off")]
    raw = ["raw-on", "raw-off"]
    server = rig.nbdkit(*names, *raw, "swap")
    for name in names:
        image = server.images[name]
        with open(image, "r+b") as file:
            file.truncate(SIZE)
        subprocess.run([*MAKE[name.split("-")[0]], image], check=True)
    for name in (*raw, "swap"):
        with open(server.images[name], "r+b") as file:
            file.truncate(SIZE)
    guest = rig.boot(
        *(Disk(name, server.blockdev(name), cancel=name.endswith("on"))
          for name in (*names, *raw)),
        Disk("swap", server.blockdev("swap")),
        tools(build, "mkfs", "mkfs.ext4", "mkfs.xfs"),
        io_timeout=1, max_timeouts=0)
    mount_tools(guest)
    for name in ("libcrc32c", "xfs"):
        guest.run("! [ -e /lib/modules/test/%s.ko ] || "
                  "insmod /lib/modules/test/%s.ko" % (name, name))
    guest.run("head -c 4000000 /dev/urandom > /tmp/big")
    for name in names:
        assert guest.has_cancel(name) == name.endswith("on")
        guest.run(f"mkdir -p /mnt/{name}; mount -t {name.split('-')[0]} "
                  f"/dev/{guest.disk(name)} /mnt/{name} && "
                  f"cp /tmp/big /mnt/{name}")
        guest.run(one_line(ROOT.format(name)) + "; sync")
    # What is in memory that has been swapped out is needed meanwhile.
    swap = f"/dev/{guest.disk('swap')}"
    guest.run(f"mkswap {swap}; swapon {swap}")
    guest.run("mkdir /tmp/cg; mount -t cgroup2 cg /tmp/cg; cd /tmp/cg; "
              "echo +memory > cgroup.subtree_control; mkdir small; "
              f"echo {SWAP // 4}M > small/memory.max")
    memory = guest.start("echo $$ > /tmp/cg/small/cgroup.procs; "
                         f"exec guest-io memory {SWAP} /tmp/touch")
    memory.line(0)
    swapped = int(guest.run("cat /tmp/cg/small/memory.swap.current"))
    assert swapped > SWAP << 19         # half of it

    writers = [guest.start(in_root(name, WRITER)) for name in names]
    writers += [guest.start(one_line(MAKER.format(guest.disk(name))))
                for name in raw]
    guest.run("sleep 1; echo 3 > /proc/sys/vm/drop_caches")
    server.freeze()
    readers = [guest.start(in_root(name, READER)) for name in names]
    guest.run("touch /tmp/touch")
    time.sleep(OUTAGE)
    assert not any(call.done() for call in (*readers, *writers, memory))
    server.resume()
    for call in (*readers, memory):
        call.wait(120)
    assert memory.line(1)["wrong_words"] == 0
    guest.run("touch /tmp/stop")
    for call in writers:
        assert int(call.wait(60)) > 1
    guest.run("umount " + " ".join(
        f"/mnt/{name}{path}" for name in names for path in ("/dev", "/tmp", "")))
    assert not errors(guest)
    log = guest.kernel_log()
    for name in (*names, *raw, "swap"):
        said = [line for line in log
                if f"[{guest.disk(name)}] no answer" in line]
        assert len(said) == (not name.endswith("off")), said


@pytest.mark.usefixtures("need_fuse")
def test_slow(rig, build):
    """What takes several time-outs is no error for those who make, trim and
    wipe file systems."""
    names = ("on", "off")
    servers = {name: rig.hold_fs(name) for name in names}
    guest = rig.boot(*(Disk(name, servers[name].blockdev("threads"),
                            cancel=name == "on") for name in names),
                     tools(build, "slow", "mkfs.ext4", "blkdiscard"),
                     io_timeout=1, max_timeouts=0)
    mount_tools(guest)
    for server in servers.values():
        server.rule("dz", 0, SIZE, "delay", 4000)
        server.rule("f", 0, SIZE, "delay", 2400)
    calls = [guest.start(one_line(ABUSE.format(name, guest.disk(name))))
             for name in names]
    for call in calls:
        call.wait(200)
    assert guest.has_cancel("on") and not guest.has_cancel("off")
    log = guest.kernel_log()
    assert not [line for line in log if "error" in line], log
    assert any(f"[{guest.disk('on')}] no answer" in line for line in log)


def test_standstill(rig, build):
    """QEMU stands still, the storage does not: requests that were in flight
    have had their time and are no errors for that. Neither are those that
    somebody would rather send elsewhere, as reads ahead are."""
    io_timeout = 4
    names = ("on", "off", "ahead")
    server = rig.nbdkit(*names, delay="200ms")
    guest = rig.boot(
        *(Disk(name, server.blockdev(name), cancel=name != "off")
          for name in names),
        tools(build, "fio", "fio"), io_timeout=io_timeout, max_timeouts=1)
    guest.run(f"echo 0 > /sys/block/{guest.disk('ahead')}/max_timeouts")
    mount_tools(guest)
    # More than QEMU's NBD client sends at once: the rest waits in QEMU.
    options = {name: "--rw=randrw --bs=4k --direct=1 --ioengine=libaio "
                     "--iodepth=64 --fsync=500" for name in ("on", "off")}
    options["ahead"] = "--rw=read --bs=64k --ioengine=psync --invalidate=1"
    load = [guest.start(f"{TOOL}/fio --name={name} "
                        f"--filename=/dev/{guest.disk(name)} "
                        "--size=32m --loops=1000 --output-format=terse "
                        f"{options[name]}")
            for name in names]
    for seconds in (-1, 0.5, 1.5, 3, io_timeout):
        guest.run("sleep 2")
        with guest.stopped():
            time.sleep(io_timeout + seconds)
        assert not any(call.done() for call in load), load[0].lines
    guest.run("sleep 3; killall -INT ld.so; sleep 2")
    log = guest.kernel_log()
    assert not [line for line in log if "error" in line], log
