# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems and fio on storage that hangs again and again.

Short outages end before the time-out: nothing may notice. A long one makes
requests fail, and the file system with them; afterwards it is consistent, and
what was durable before is there.

ROUNDS=n repeats all that; "make check-long" does.
"""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness.guest import Disk
from harness.process import Timeout
from harness.tools import tools_image

IO_TIMEOUT = 4
ROUNDS = int(os.environ.get("ROUNDS", "1"))
SIZE = 320 << 20        # xfs wants that much

FIO = ("/tools/ld.so --library-path /tools/lib /tools/fio --directory=/mnt "
       "--rw=randwrite --bs=4k --size=12m --verify=crc32c --verify_fatal=1 "
       "--output-format=terse")
DIRECT = "--direct=1 --ioengine=libaio --iodepth=32"
BUFFERED = "--ioengine=psync --fsync=128 --end_fsync=1"

MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
CHECK = {"ext4": ["fsck.ext4", "-f", "-n"], "xfs": ["xfs_repair", "-n"]}


def fio(guest, name, options=""):
    """Write, and read what was written: at once past the cache, and through
    it."""
    return guest.start(f"{FIO} {options} --name={name}-direct {DIRECT} "
                       f"--name={name}-buffered {BUFFERED}")


def short_outages(server, call, rng):
    """Hang and resume the storage until the command has ended."""
    while not call.done():
        server.pause()
        time.sleep(rng.uniform(0.1, 1.5))
        server.resume()
        try:
            call.wait(timeout=rng.uniform(0.3, 1.5))
        except Timeout:
            pass


def mount(guest, kind):
    """Mount the disk; what was left undone is done then."""
    guest.run(f"mount -t {kind} /dev/{guest.disk('disk')} /mnt")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_outages(rig, build, kind):
    """fio on a file system, with outages of all sizes."""
    rng = random.Random(kind)
    tools = tools_image(build, "fio", Path(shutil.which("fio")))
    server = rig.nbdkit("disk")
    image = server.images["disk"]
    os.truncate(image, SIZE)
    subprocess.run([*MAKE[kind], image], check=True)
    guest = rig.boot(Disk("disk", server.blockdev("disk"),
                          properties={"cancel": "on"}),
                     Disk("tools", {"driver": "file", "read-only": True,
                                    "filename": str(tools)},
                          cancel=False),
                     io_timeout=IO_TIMEOUT)
    guest.run("mkdir /mnt /tools; "
              f"mount -r -t ext4 /dev/{guest.disk('tools')} /tools")
    if kind == "xfs":
        guest.run("for m in libcrc32c xfs; do "
                  "insmod /lib/modules/test/$m.ko; done")
    mount(guest, kind)
    for number in range(ROUNDS):
        kept = fio(guest, "kept", f"--randseed={number + 1}")
        short_outages(server, kept, rng)
        kept.wait()
        guest.run("sync")

        lost = fio(guest, "lost", "--loops=100")
        guest.run("sleep 1")
        server.pause()
        # Its writes fail; how it takes that is its own business.
        lost.wait_for(lambda call=lost: call.status is not None, 120,
                      "the end")
        server.resume()
        guest.run("umount /mnt")
        mount(guest, kind)
        fio(guest, "kept",
            f"--randseed={number + 1} --verify_only").wait(120)
        guest.run("rm -f /mnt/lost*; umount /mnt")
        guest.run(f"blockdev --flushbufs /dev/{guest.disk('disk')}")
        subprocess.run([*CHECK[kind], image], check=True)
        mount(guest, kind)
    guest.run("umount /mnt")
