# SPDX-License-Identifier: GPL-2.0-or-later
"""The device on a zoned disk.

QEMU finds zones only in a block device of its host. Here that host is the
guest: its kernel provides the disk, and a QEMU in it is driven by
virtio-blk-cancel-zoned-test, whose results are this test's.
"""

import re
from pathlib import Path

import pytest

from harness.build import FIRMWARE, NotBuilt
from harness.guest import Disk
from harness.tools import tools_image

TEST = "virtio-blk-cancel-zoned-test"
NULL_BLK = "gb=1 zoned=1 zone_size=64 memory_backed=1"
RUN = ("cd /tmp; PATH=/bin LD_LIBRARY_PATH=/tools/lib "
       "QTEST_QEMU_BINARY=/tools/qemu-system-x86_64 "
       "QTEST_QEMU_ARGS='-L /tools' ZONED_DISK=/dev/nullb0 "
       f"/tools/{TEST} --tap -k")


def firmware(name):
    """A file of QEMU's firmware."""
    found = [Path(directory, name) for directory in FIRMWARE
             if Path(directory, name).exists()]
    if not found:
        raise NotBuilt(f"{name} is missing")
    return found[0]


def test_zoned(rig, build):
    """All that can be asked of a zoned disk, while it works and hangs."""
    test = build.qemu.parent / "tests/qtest" / TEST
    if not test.exists():
        raise NotBuilt(f"{test} is missing: run 'make tests'")
    if not (build.kernel.parent / "modules/null_blk.ko").exists():
        pytest.skip("the guest's kernel has no null_blk")
    tools = tools_image(build, "zoned", build.qemu, test,
                        *map(firmware, ("bios-256k.bin", "kvmvapic.bin")))
    guest = rig.boot(Disk("tools", {"driver": "file", "read-only": True,
                                    "filename": str(tools)}, cancel=False))
    guest.run("mkdir /tools /lib64; "
              f"mount -r -t ext4 /dev/{guest.disk('tools')} /tools; "
              "ln -s /tools/ld.so /lib64/ld-linux-x86-64.so.2; "
              "cd /lib/modules/test; insmod dm-mod.ko; insmod configfs.ko; "
              f"insmod null_blk.ko {NULL_BLK}")
    run = guest.start(RUN)
    run.wait_for(lambda: run.status is not None, 240, "the end")
    output = "\n".join(run.lines)
    print(output)
    assert run.status == 0, output
    assert len(re.findall("^ok ", output, re.MULTILINE)) == 4, output
    assert "SKIP" not in output, output
