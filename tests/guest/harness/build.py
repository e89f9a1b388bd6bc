# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the binaries are, and how the guest's initramfs is put together."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent

# Debian's places for the firmware that QEMU's source package leaves out.
FIRMWARE = ("/usr/share/seabios", "/usr/share/qemu")


class NotBuilt(Exception):
    """Something the tests need is missing from the build directory."""


class Build:
    """The build directory: QEMU, guest kernel, modules, and our helpers."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        # Another kernel for the guest, with what belongs to it
        guest = os.environ.get("GUEST", "guest")
        self.qemu = self.root / "qemu/qemu-system-x86_64"
        self.kernel = self.root / guest / "vmlinuz"
        self.module = self.root / guest / "virtio_blk.ko"
        self.fake_module = self.root / guest / "fake_blk.ko"
        self.work = self.root / f"{guest}-tests"
        self.guest_io = self.work / "guest-io"
        self.hold_fs = self.work / "hold-fs"
        self.initramfs = self.work / "initramfs.cpio"

    @property
    def stock_module(self):
        """The distribution's own virtio_blk.ko."""
        return self.kernel.parent / "modules/virtio_blk.ko"

    def prepare(self):
        """Build the helpers and the initramfs if they are out of date.

        Several test programs may run at once, hence the lock.
        """
        for needed in (self.qemu, self.kernel, self.module):
            if not needed.exists():
                raise NotBuilt(f"{needed} is missing: run 'make' first")
        self.work.mkdir(parents=True, exist_ok=True)
        with self.locked():
            self._compile(self.guest_io, "guest-io.c", "-static", "-pthread",
                          "-luring")
            self._pack_initramfs()
        return self

    def prepare_hold_fs(self):
        """Build the FUSE server; apart, since not everybody has libfuse."""
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "fuse3"], check=True,
            stdout=subprocess.PIPE, text=True).stdout.split()
        with self.locked():
            self._compile(self.hold_fs, "hold-fs.c", *flags, "-pthread")
        return self.hold_fs

    @contextlib.contextmanager
    def locked(self):
        """Keep other test programs from building the same."""
        with open(self.work / "lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _compile(self, target, source, *flags):
        source = SOURCES / source
        if not _outdated(target, [source]):
            return
        partial = target.with_suffix(".tmp")
        subprocess.run(["gcc", "-O2", "-Wall", "-o", partial, source, *flags],
                       check=True)
        partial.rename(target)

    def _pack_initramfs(self):
        busybox = Path(shutil.which("busybox") or "/bin/busybox")
        if not busybox.exists():
            raise NotBuilt("busybox is missing: install busybox-static")
        content = {
            "init": SOURCES / "init",
            "bin/busybox": busybox,
            "bin/guest-io": self.guest_io,
            "lib/modules/cancel/virtio_blk.ko": self.module,
        }
        if self.stock_module.exists():
            content["lib/modules/stock/virtio_blk.ko"] = self.stock_module
        tests = [self.fake_module, self.kernel.parent / "virtio_next.ko"]
        tests += [self.kernel.parent / f"modules/{name}.ko"
                  for name in ("md-mod", "raid1", "libcrc32c", "xfs",
                               "configfs", "null_blk", "dm-mod",
                               "scsi_common", "scsi_mod", "virtio_scsi",
                               "sd_mod", "dm-multipath", "dm-round-robin")]
        for module in filter(Path.exists, tests):
            content[f"lib/modules/test/{module.name}"] = module
        # What old kernels have as modules is loaded by init, in this order
        boot = [self.kernel.parent / f"modules/{name}.ko"
                for name in ("virtio", "virtio_ring", "virtio_pci_legacy_dev",
                             "virtio_pci_modern_dev", "virtio_pci",
                             "virtio_console")]
        for number, module in enumerate(filter(Path.exists, boot)):
            content[f"lib/modules/boot/{number}-{module.name}"] = module
        # This file says what is in it
        if not _outdated(self.initramfs, [*content.values(), Path(__file__)]):
            return
        with tempfile.TemporaryDirectory(dir=self.work) as staging:
            _write_cpio(Path(staging), content, self.initramfs)


def _outdated(target, sources):
    try:
        built = target.stat().st_mtime
    except FileNotFoundError:
        return True
    return any(source.stat().st_mtime >= built for source in sources)


def _write_cpio(staging, content, target):
    """Copy content into the staging directory and archive that."""
    names = []
    for name, source in content.items():
        copy = staging / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(0o644 if name.endswith(".ko") else 0o755)
        parents = [str(p) for p in reversed(Path(name).parents)][1:]
        names += [p for p in parents if p not in names] + [name]
    partial = target.with_suffix(".tmp")
    with open(partial, "wb") as archive:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            cwd=staging, input="\n".join(names).encode(), stdout=archive,
            check=True)
    partial.rename(target)


def from_environment():
    """The build directory that BUILD_DIR names, or build/ of this tree."""
    default = SOURCES.parent.parent / "build"
    return Build(os.environ.get("BUILD_DIR", default))
