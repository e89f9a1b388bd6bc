# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host may not let QEMU have: threads, memory, address space."""

import resource
from pathlib import Path

from .process import wait_until

ROOT = Path("/sys/fs/cgroup")


class NoCgroup(Exception):
    """This machine offers no control group with what is needed."""


class Cgroup:
    """A control group that limits one thing: "pids" or "memory"."""

    FILES = {"pids": ("pids.max", "pids.current"),
             "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}

    def __init__(self, name, controller="pids"):
        self.controller = controller
        self._max, self._current = self.FILES[controller]
        root = ROOT / controller
        if not (root / "cgroup.procs").exists():
            root = ROOT
            if controller == "memory":
                self._max, self._current = "memory.max", "memory.current"
            control = root / "cgroup.subtree_control"
            if not control.exists() or controller not in \
                    control.read_text().split():
                raise NoCgroup(f"no {controller} controller")
        self._directory = root / name
        try:
            self._directory.mkdir()
        except OSError as error:
            raise NoCgroup(f"no control group to be had: {error}") from error

    def limit(self, count):
        """As much, and no more."""
        (self._directory / self._max).write_text(f"{count}\n")

    def count(self):
        """How much is in use."""
        return int((self._directory / self._current).read_text())

    def prefix(self):
        """What starts a command in it."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"',
                str(self._directory)]

    def remove(self):
        """It is empty, or soon will be."""
        wait_until(self._try_remove, "the control group to be empty")

    def _try_remove(self):
        try:
            self._directory.rmdir()
        except OSError:
            return False
        return True


def limit_address_space(pid, more):
    """A process may have this much more than it has, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    now = next(int(line.split()[1]) << 10 for line in status.splitlines()
               if line.startswith("VmSize:"))
    resource.prlimit(pid, resource.RLIMIT_AS, (now + more, now + more))
