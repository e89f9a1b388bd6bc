# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage that can be made to hang: an nbdkit, and a FUSE file."""

import os
import shutil
import signal
import socket
import subprocess

from . import process
from .process import run

SIZE = 64 << 20

# nbdkit replaces the signal that it gets when we die by SIGTERM, which a
# stopped process does not notice: a shell stands in between and insists.
GUARD = ("sh", "-c", 'trap "kill -KILL 0" TERM; "$@" & wait', "sh")


def make_image(path, size=SIZE):
    """A sparse file of zeroes."""
    with open(path, "wb") as image:
        image.truncate(size)
    return path


def _content(path):
    """A file's text, or None if it does not exist."""
    return path.read_text("ascii") if path.exists() else None


class Nbdkit:
    """An nbdkit that serves the images of one directory, by name.

    pause() holds reads and writes at the server's door. nbdkit's filter does
    not hold FLUSH; freeze() stops the process, which holds everything. With
    a volatile cache crash() loses what has not been flushed; with a delay, such
    as "50ms", each read and write takes that long. What it serves may be the
    files of another directory.
    """

    def __init__(self, directory, images, log, volatile=False,
                 delay=None, serves=None):
        self.directory = directory
        self.images = {name: make_image(directory / name) for name in images}
        self._socket = directory / "nbd"
        self._control = directory / "pause"
        pidfile = directory / "nbdkit.pid"
        self._guard = process.spawn(
            [*GUARD, "nbdkit", "-f", "-t", "128" if serves else "64",
             "-U", self._socket,
             "-P", pidfile, "--filter=pause",
             *(["--filter=cache"] if volatile else []),
             *(["--filter=delay"] if delay else []),
             "file", f"dir={serves or directory}", f"pause-control={self._control}",
             *([f"rdelay={delay}", f"wdelay={delay}"] if delay else [])],
            log, death_signal="TERM")
        self._frozen = False
        self._pid = None
        try:
            # The file is written when nbdkit listens.
            self._pid = int(process.wait_until(
                lambda: self._alive() and _content(pidfile),
                "nbdkit to start"))
        except BaseException:
            self.close()
            raise

    def _alive(self):
        if self._guard.poll() is not None:
            raise RuntimeError("nbdkit ended: see its log")
        return True

    def blockdev(self, name):
        """QEMU's block node for one of the images."""
        return {"driver": "nbd", "export": name, "discard": "unmap",
                "server": {"type": "unix", "path": str(self._socket)}}

    def _tell(self, command):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(60)
            control.connect(str(self._control))
            control.sendall(command)
            answer = control.recv(1)
        if answer != command.upper():
            raise RuntimeError(f"nbdkit answered {answer!r} to {command!r}")

    def pause(self):
        """Hold reads and writes; on return nothing is under way any more."""
        self._tell(b"p")

    def freeze(self):
        """Stop the whole process."""
        os.kill(self._pid, signal.SIGSTOP)
        self._frozen = True

    def resume(self):
        """Undo pause() or freeze(), or both."""
        if self._frozen:
            os.kill(self._pid, signal.SIGCONT)
            self._frozen = False
        self._tell(b"r")

    def release(self):
        """Let everything go, if the server lives; for cleaning up."""
        if self._guard.poll() is None:
            self.resume()

    def crash(self):
        """End the server at once, as a loss of power would."""
        os.kill(self._pid, signal.SIGKILL)
        self._guard.wait(60)

    def close(self):
        """End the server."""
        if self._pid and self._guard.poll() is None:
            os.kill(self._pid, signal.SIGKILL)
            self._guard.wait(60)            # it has nothing else to wait for
        process.terminate(self._guard)


class HoldFs:
    """One file on a FUSE file system that holds requests when told to."""

    def __init__(self, program, directory, log):
        self.image = make_image(directory / "backing")
        self._mount = directory / "mnt"
        self._mount.mkdir()
        self.path = self._mount / "disk"
        control = directory / "hold"
        self._control = None
        self._process = process.spawn(
            [program, self.image, self._mount, control], log)
        try:
            process.wait_until(lambda: self._is_up(control), "the FUSE mount")
            self._connection = os.minor(os.stat(self.path).st_dev)
        except BaseException:
            self.close()
            raise

    def _is_up(self, control):
        if self._process.poll() is not None:
            raise RuntimeError("hold-fs ended: see its log")
        if self._control is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(60)
            try:
                connection.connect(str(control))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                return False
            self._control = connection
        return self.path.exists()

    def _tell(self, command):
        self._control.sendall(command.encode() + b"\n")
        return self._control.recv(64).decode().strip()

    def blockdev(self, aio):
        """QEMU's block node for the file."""
        return {"driver": "file", "filename": str(self.path), "aio": aio,
                "cache": {"direct": True}}

    def pause(self):
        """Hold every request that arrives from now on."""
        assert self._tell("hold") == "ok"

    def pause_all(self):
        """The same, with all that concerns the file itself."""
        assert self._tell("hold-all") == "ok"

    def rule(self, ops, start, length, action, number=0):
        """Requests of some kinds to a range hang, are slow, or fail; see
        hold-fs.c."""
        assert self._tell(f"rule {ops} {start} {length} {action} {number}") \
            == "ok"

    def resume(self):
        """Serve what is held, and hold nothing more; without any rule."""
        assert self._tell("release") == "ok"

    def held(self):
        """How many requests are being held."""
        return int(self._tell("held"))

    def _configure(self, directory, name, value):
        directory.mkdir(exist_ok=True)
        run("mount", "-t", "fusectl", "fusectl", directory)
        try:
            (directory / str(self._connection) / name).write_text(value)
        finally:
            run("umount", directory)

    def abort(self, directory):
        """End the connection, as an administrator does whose file system will
        never answer: requests fail. The directory is an empty one, or new."""
        self._configure(directory, "abort", "1")

    def allow_background(self, directory, count):
        """Let the kernel give us so many asynchronous requests at once."""
        self._configure(directory, "max_background", str(count))

    def release(self):
        """Let everything go, if the server lives; for cleaning up."""
        if self._process.poll() is None:
            self.resume()

    def close(self):
        """Unmount and end the server."""
        process.terminate(self._process)
        if self._control:
            self._control.close()
        if os.path.ismount(self._mount):
            subprocess.run(["fusermount3", "-u", "-z", self._mount],
                           check=False)


class HoldLoop:
    """A loop device on a file of HoldFs, or a file on ext4 on that device.

    A loop device takes 128 requests at once; who submits more is blocked in
    the middle of it, unless told not to be.
    """

    def __init__(self, held, directory, filesystem):
        self._held = held
        self._mount = directory / "ext4" if filesystem else None
        self._device = run("losetup", "--find", "--show", "--direct-io=on",
                            held.path)
        try:
            if filesystem:
                run("mkfs.ext4", "-q", self._device)
                self._mount.mkdir()
                run("mount", self._device, self._mount)
                self.image = make_image(self._mount / "disk", SIZE // 2)
            else:
                self.image = held.image
        except BaseException:
            self.close()
            raise

    def blockdev(self, aio):
        """QEMU's block node for it."""
        return {"driver": "file" if self._mount else "host_device",
                "filename": str(self.image if self._mount else self._device),
                "aio": aio, "cache": {"direct": True}}

    def sync(self):
        """What the host has cached is in the image."""
        run("sync", timeout=None)

    def release(self):
        """There is nothing to release but what is below."""

    def close(self):
        """Unmount, and end the device."""
        if self._mount and os.path.ismount(self._mount):
            run("umount", self._mount)
        run("losetup", "--detach", self._device)


def why_no_loop():
    """Why HoldLoop cannot work here, or None if it can."""
    if os.geteuid():
        return "loop devices and mounts need root"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "/dev/loop-control is missing or not accessible"
    if not shutil.which("losetup") or not shutil.which("mkfs.ext4"):
        return "losetup or mkfs.ext4 is missing"
    return why_no_fuse()


def why_no_fuse():
    """Why HoldFs cannot work here, or None if it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is missing or not accessible"
    if not shutil.which("fusermount3"):
        return "fusermount3 is missing (package fuse3)"
    probe = subprocess.run(["pkg-config", "--exists", "fuse3"], check=False)
    if probe.returncode:
        return "libfuse3's development files are missing (libfuse3-dev)"
    return None
