# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with its storage servers, put up and taken down in order."""

import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .guest import Guest, Heartbeat
from .servers import HoldFs, HoldLoop, Nbdkit

# What tests look for, and what is in the trace log of one that failed.
TRACES = ("virtio_set_status", "runstate_set", "qemu_system_shutdown_request",
          "virtio_blk*", "blk_cancel*")

# How long vCPUs and monitor may be silent, in seconds. A host with little to
# spare takes some of it; a real freeze lasts until the storage answers.
MAX_SILENCE = 2.5


class Rig:
    """Owns whatever a test starts. Sockets live in /tmp: paths are short."""

    def __init__(self, build, logs):
        self.build = build
        self.logs = Path(logs)
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.directory = Path(
            tempfile.mkdtemp(prefix="virtio-blk-cancel-", dir="/tmp"))
        self.guest = None
        self.guest_class = Guest
        self._servers = []

    def _subdirectory(self, name):
        path = self.directory / name
        path.mkdir()
        return path

    def nbdkit(self, *images, name="nbdkit", **options):
        """Start an NBD server for images of these names."""
        server = Nbdkit(self._subdirectory(name), images,
                        self.logs / f"{name}.log", **options)
        self._servers.append(server)
        return server

    def network(self, name, server, **options):
        """Start a server of harness.network."""
        server = server(self._subdirectory(name), self.logs, **options)
        self._servers.append(server)
        return server

    def hold_fs(self, name="hold-fs"):
        """Mount a FUSE file that holds requests."""
        server = HoldFs(self.build.prepare_hold_fs(),
                        self._subdirectory(name), self.logs / f"{name}.log")
        self._servers.append(server)
        return server

    def hold_loop(self, filesystem=False):
        """A loop device on such a file, or a file on ext4 on that; and what
        holds it."""
        held = self.hold_fs()
        server = HoldLoop(held, self.directory, filesystem)
        self._servers.append(server)
        return held, server

    def launch(self, *disks, kernel_args=""):
        """Start a guest; it is not up yet."""
        self.guest = self.guest_class(self.build, disks, self.directory,
                                      self.logs, TRACES, kernel_args)
        return self.guest

    def boot(self, *disks, stock_driver=False, kernel_args="", **parameters):
        """Start a guest, wait until it is up, load the driver."""
        guest = self.launch(*disks, kernel_args=kernel_args).wait_booted()
        guest.load_driver(stock=stock_driver, **parameters)
        return guest

    @contextmanager
    def alive(self, silence=MAX_SILENCE):
        """Within this, guest and monitor must not stall."""
        heartbeat = Heartbeat(self.guest)
        heartbeat.longest_gap()
        self.guest.monitor.longest_stall()
        yield
        gap = heartbeat.longest_gap()
        stall = self.guest.monitor.longest_stall()
        assert gap < silence, f"a vCPU stood still for {gap} s"
        assert stall < silence, f"the monitor stood still for {stall} s"

    def close(self):
        """Take everything down, hanging or not; every step is tried."""
        with ExitStack() as steps:          # the last one added goes first
            steps.callback(shutil.rmtree, self.directory, ignore_errors=True)
            for server in self._servers:
                steps.callback(server.close)
            if self.guest:
                steps.callback(self.guest.close)
            # QEMU cannot die while the kernel holds I/O of it.
            for server in self._servers:
                steps.callback(server.release)

    def discard_logs(self):
        """All went well: nobody will want to read them."""
        shutil.rmtree(self.logs, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
