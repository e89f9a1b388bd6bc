# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor, and a thread that notices when it stands still."""

import json
import socket
import threading
import time

from . import process


class QMPError(Exception):
    """QEMU answered a command with an error."""


class QMP:
    """One connection; commands are answered one after the other."""

    def __init__(self, path, timeout=120):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        process.wait_until(lambda: self._connect(path), "a monitor to listen")
        self._input = self._socket.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()
        self._deleted = []                  # under lock
        self._input.readline()              # the greeting
        self.command("qmp_capabilities")

    def _connect(self, path):
        try:
            self._socket.connect(str(path))
        except ConnectionRefusedError:      # bound, and does not listen yet
            return False
        return True

    def command(self, name, /, **arguments):
        """Execute a command and return what it returns."""
        message = {"execute": name, "arguments": arguments}
        with self._lock:
            self._socket.sendall(json.dumps(message).encode())
            while True:
                line = self._input.readline()
                if not line:
                    raise QMPError("the monitor is gone: see qemu.log")
                reply = json.loads(line)
                if "error" in reply:
                    raise QMPError(f"{name}: {reply['error']['desc']}")
                if "return" in reply:
                    return reply["return"]
                if reply.get("event") == "DEVICE_DELETED":
                    self._deleted.append(reply["data"].get("device"))

    def deleted(self, device):
        """How many devices of this name are gone, with all that they used."""
        self.command("query-status")        # reads what events there are
        with self._lock:
            return self._deleted.count(device)

    def close(self):
        """Close the connection; a blocked command() in a thread ends too."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


class MonitorWatch:
    """Asks the monitor all the time, and remembers its longest silence."""

    INTERVAL = 0.02

    def __init__(self, path):
        self._qmp = QMP(path)
        self._lock = threading.Lock()
        self._longest = 0.0                 # under lock
        self._asked = None                  # under lock; None: not waiting
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        while not self._stop.wait(self.INTERVAL):
            with self._lock:
                self._asked = time.monotonic()
            try:
                self._qmp.command("query-status")
            except (OSError, ValueError, QMPError):
                return                      # QEMU is gone, or so is the test
            with self._lock:
                self._note()
                self._asked = None

    def _note(self):
        if self._asked is not None:
            waited = time.monotonic() - self._asked
            self._longest = max(self._longest, waited)

    def silent_for(self):
        """Seconds that the monitor has not answered just now."""
        with self._lock:
            asked = self._asked
            return 0 if asked is None else time.monotonic() - asked

    def longest_stall(self):
        """Seconds of the longest silence since the last call."""
        with self._lock:
            self._note()
            longest, self._longest = self._longest, 0.0
            return longest

    def close(self):
        """End the thread."""
        self._stop.set()
        self._qmp.close()
        self._thread.join(10)
