# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest under QEMU, and the agent in it that runs commands."""

import contextlib
import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field

from . import process
from .build import FIRMWARE
from .qmp import QMP, MonitorWatch, QMPError

FEATURE_CANCEL = 50

# With HPET or ACPI PM timer as the clock a frozen guest would not know how
# long it was frozen. Mitigations only make emulation slower.
# Nor does a busy host have a broken timer.
KERNEL_ARGS = ("console=ttyS0 panic=-1 tsc=reliable clocksource=tsc "
               "no_timer_check mitigations=off printk.time=1")

# What else the kernels of all guests are told
KERNEL_ARGS += " " + os.environ.get("GUEST_ARGS", "")

# One thread for all vCPUs. With a thread for each, a vCPU that accesses its
# APIC just when another one moves a PCI BAR can hit the wrong device in
# QEMU 10.0: its timer is never programmed, or QEMU aborts in
# iotlb_to_section(). On a busy host that was one boot in a hundred.
ACCEL = "tcg,thread=single"

# A kernel that prints one of these is broken, whatever the test saw.
COMPLAINTS = re.compile(
    r"BUG:|WARNING:|Oops|Kernel panic|general protection|soft lockup|"
    r"refcount_t|blocked for more than|Call Trace")

# Lines of QEMU's trace log.
RESET = r"virtio_set_status vdev \S+ val 0$"
STOPPED = r"runstate_set .* \(paused\)$"
SHUTDOWN = r"qemu_system_shutdown_request .*"
WAITS = r"blk_cancel_wait .*"


def tsc_argument(build):
    """How fast the guest's clock ticks. A guest that has to find out on a busy
    host may be wrong by far, and its time-outs with it."""
    khz = subprocess.run([build.guest_io, "tsc"], check=True, text=True,
                         stdout=subprocess.PIPE).stdout.strip()
    return f" tsc_early_khz={khz}" if int(khz) else ""


class GuestGone(Exception):
    """The guest ended while something was expected of it."""


class Call:
    """A command running in the guest; its output arrives line by line."""

    def __init__(self, command):
        self.command = command
        self.lines = []                     # under changed
        self.status = None                  # under changed; set at the end
        self.gone = False                   # under changed
        self.changed = threading.Condition()

    def feed(self, line):
        """A line has arrived."""
        with self.changed:
            if line.startswith("@exit "):
                self.status = int(line.split()[1])
                if self.lines and not self.lines[-1]:
                    self.lines.pop()        # the agent's own newline
            else:
                self.lines.append(line)
            self.changed.notify_all()

    def abandon(self):
        """Nothing will arrive any more."""
        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def wait_for(self, condition, timeout, what):
        """Wait until condition() is true; it is called under changed."""
        with self.changed:
            self.changed.wait_for(lambda: condition() or self.gone, timeout)
            if condition():
                return
            if self.gone:
                raise GuestGone(f"the guest ended during: {self.command}")
            raise process.Timeout(
                f"waited {timeout} s for {what} of: {self.command}\n"
                f"output so far: {self.lines}")

    def done(self):
        """Whether the command has ended."""
        with self.changed:
            return self.status is not None

    def wait(self, timeout=60):
        """Wait for the end of the command; return its output."""
        self.wait_for(lambda: self.status is not None, timeout, "the end")
        output = "\n".join(self.lines)
        if self.status:
            raise RuntimeError(
                f"{self.command}: exit status {self.status}\n{output}")
        return output

    def line(self, number, timeout=60):
        """Wait for one line of output and return it, parsed."""
        self.wait_for(lambda: len(self.records()) > number
                       or self.status is not None, timeout, f"line {number}")
        return self.records()[number]

    def records(self):
        """The lines of JSON so far."""
        with self.changed:
            return [json.loads(line) for line in self.lines
                    if line.startswith(("{", "["))]


@dataclass(frozen=True)
class Result:
    """What became of one request."""

    op: str
    offset: int
    result: int
    errno: int
    seconds: float
    seed: int

    @property
    def error(self):
        """The error's name, or nothing if there was none."""
        return errno.errorcode.get(self.errno, str(self.errno)) \
            if self.errno else ""


class IO:
    """One run of guest-io: a number of requests issued at the same time."""

    def __init__(self, call, count, release):
        self._call = call
        self._count = count
        self._release = release
        self.started = time.monotonic()

    def results(self, timeout=60):
        """Wait for all requests; a list of Results.

        With watch=True the buffers are being watched when this returns.
        """
        self._call.line(self._count - (not self._release), timeout)
        return [Result(**record)
                for record in self._call.records()[:self._count]]

    def result(self, timeout=60):
        """Wait for the only request."""
        (result,) = self.results(timeout)
        return result

    def returned(self):
        """How many requests have come back so far."""
        return min(len(self._call.records()), self._count)

    def changed_bytes(self, timeout=60):
        """Of io(watch=True): how much arrived in the buffers afterwards."""
        self._release()
        return self._call.line(self._count + 1, timeout)["changed_bytes"]


@dataclass
class Disk:
    """A virtio-blk device; name is also its serial number in the guest."""

    name: str
    blockdev: dict
    cancel: bool = True
    iothread: bool = False
    properties: dict = field(default_factory=dict)
    objects: list = field(default_factory=list)     # of -object

    def arguments(self):
        """QEMU's command line for it."""
        device = {"driver": "virtio-blk-pci", "id": self.name,
                  "drive": f"node-{self.name}", "serial": self.name,
                  **self.properties}
        if self.cancel:                     # so that stock QEMU works without
            device["cancel"] = "on"
        args = []
        for description in self.objects:
            args += ["-object", json.dumps(description)]
        args += ["-blockdev", json.dumps(
            {**self.blockdev, "node-name": f"node-{self.name}"})]
        if self.iothread:
            device["iothread"] = f"thread-{self.name}"
            args += ["-object", f"iothread,id=thread-{self.name}"]
        return args + ["-device", json.dumps(device)]


class Iommu:
    """What translates the addresses of disks with iommu_platform; goes before
    them. The kernel wants intel_iommu=on."""

    @staticmethod
    def arguments():
        """QEMU's command line for it."""
        return ["-device", "intel-iommu,intremap=off"]


class Guest:
    """A running QEMU with Linux and the agent in it."""

    def __init__(self, build, disks, directory, logs, traces=(),
                 kernel_args=""):
        self.serial_log = logs / "serial.log"
        self.trace_log = logs / "trace.log"
        self.log = logs / "qemu.log"
        self._calls = {}                    # under _lock
        self._next_id = 1                   # under _lock
        self._gone = False                  # under _lock
        self._boots = 1
        self._lock = threading.Lock()
        self._names = {}                    # the guest's names of its disks
        self._kernel_args = f"{KERNEL_ARGS} {kernel_args}"
        self._cleanup = contextlib.ExitStack()
        try:
            self._start(build, disks, directory, logs, traces)
        except QMPError as error:
            self.close()
            raise GuestGone(f"QEMU ended: {self.said().strip()}") from error
        except BaseException:
            self.close()
            raise

    def _start(self, build, disks, directory, logs, traces):
        agent, qmp, watch = (directory / name
                             for name in ("agent", "qmp", "qmp-watch"))
        self._process = process.spawn(
            self._command(build, disks, agent, (qmp, watch), traces),
            self.log)
        self._cleanup.callback(process.kill, self._process)

        process.wait_until(
            lambda: self._alive() and agent.exists() and watch.exists(),
            "QEMU to listen")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._cleanup.callback(self._socket.close)
        self._connect(agent)
        self._ready = self._calls[0] = Call("boot")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.qmp = QMP(qmp)
        self._cleanup.callback(self.qmp.close)
        self.monitor = MonitorWatch(watch)
        self._cleanup.callback(self.monitor.close)

    def _connect(self, path):
        def attempt():
            try:
                self._socket.connect(str(path))
                return True
            except ConnectionRefusedError:  # bound, but not listening yet
                return False
        process.wait_until(attempt, "QEMU's agent socket")

    def _command(self, build, disks, agent, monitors, traces):
        # Strict: the firmware leaves the disks alone, and so does not wait
        # for one that hangs when the guest boots again.
        args = [build.qemu, "-accel", ACCEL, "-M", "q35", "-smp", "2",
                "-boot", "strict=on",
                "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot",
                "-display", "none", "-kernel", build.kernel,
                "-initrd", build.initramfs, "-append",
                self._kernel_args + tsc_argument(build),
                "-serial", f"file:{self.serial_log}", "-D", self.trace_log]
        for directory in FIRMWARE:
            args += ["-L", directory]
        for path in monitors:
            args += ["-qmp", f"unix:{path},server=on,wait=off"]
        for event in traces:
            args += ["-trace", event]
        args += ["-chardev",
                 f"socket,id=agent,path={agent},server=on,wait=off",
                 "-device", "virtio-serial-pci",
                 "-device", "virtserialport,chardev=agent,name=agent"]
        for disk in disks:
            args += disk.arguments()
        return args

    def _alive(self):
        if self._process.poll() is not None:
            raise QMPError("QEMU ended before it listened")
        return True

    def _read(self):
        with contextlib.suppress(OSError, ValueError):
            with self._socket.makefile("r", encoding="utf-8",
                                       errors="replace") as lines:
                for line in lines:
                    number, _, text = line.rstrip("\n").partition(" ")
                    self._calls[int(number)].feed(text)
        with self._lock:
            self._gone = True
            for call in self._calls.values():
                call.abandon()

    def wait_booted(self, timeout=180):
        """Wait for the agent to answer."""
        self._ready.wait_for(lambda: self._ready.lines, timeout, "boot")
        return self

    def allow_reboot(self):
        """Let resets boot the guest again; otherwise they end QEMU."""
        self.qmp.command("set-action", reboot="reset")

    def wait_rebooted(self, timeout=180):
        """Wait for the agent to answer after another boot."""
        self._boots += 1
        self._ready.wait_for(lambda: len(self._ready.lines) >= self._boots,
                             timeout, "reboot")

    def forget_calls(self):
        """It is booting again: nothing comes of what ran before."""
        with self._lock:
            for number, call in self._calls.items():
                if number:
                    call.abandon()

    def start(self, command):
        """Run a shell command in the guest, in the background."""
        call = Call(command)
        with self._lock:
            if self._gone:
                raise GuestGone("the guest has ended")
            number, self._next_id = self._next_id, self._next_id + 1
            self._calls[number] = call
            self._socket.sendall(f"{number} {command}\n".encode())
        return call

    def run(self, command, timeout=60):
        """Run a shell command in the guest; return its output."""
        return self.start(command).wait(timeout)

    def load_driver(self, stock=False, **parameters):
        """Load a virtio_blk.ko: ours, or the distribution's.

        Who names a time-out wants to see what it does: requests are then given
        up after one, unless max_timeouts says otherwise.
        """
        kind = "stock" if stock else "cancel"
        if "io_timeout" in parameters and not stock:
            parameters.setdefault("max_timeouts", 1)
        words = " ".join(f"{k}={v}" for k, v in parameters.items())
        self.run(f"insmod /lib/modules/{kind}/virtio_blk.ko {words}")

    def disk(self, name):
        """The guest's name for a disk, such as vda."""
        if name not in self._names:         # asking is a request to the disk
            found = self.run(f"grep -lx {shlex.quote(name)} "
                             "/sys/block/vd*/serial")
            self._names[name] = found.split("/")[3]
        return self._names[name]

    def forget_disks(self):
        """The guest's disks have changed."""
        self._names.clear()

    def has_cancel(self, name):
        """Whether driver and device have agreed on cancel requests."""
        bits = self.run(
            f"cat /sys/block/{self.disk(name)}/device/features")
        return bits[FEATURE_CANCEL] == "1"

    def in_flight(self, name):
        """How many requests of a disk the driver has outstanding."""
        counts = self.run(f"cat /sys/block/{self.disk(name)}/inflight")
        return sum(int(count) for count in counts.split())

    def io(self, name, op, offset=0, length=4096, count=1, seed=0,
           watch=False, polled=False, cpu=None):
        """Issue requests at once, in the background; see guest-io.c."""
        return self.io_on(f"/dev/{self.disk(name)}", op, offset, length,
                          count, seed, watch, polled, cpu)

    def io_on(self, device, op, offset=0, length=4096, count=1, seed=0,
              watch=False, polled=False, cpu=None):
        """The same on any block device of the guest."""
        options, release = "-p" if polled else "", None
        pinned = "" if cpu is None else f"taskset {1 << cpu:x} "
        if watch:
            flag = f"/tmp/release-{self._next_id}"
            options += f" -k {flag}"
            release = lambda: self.run(f"touch {flag}")
        call = self.start(
            f"{pinned}guest-io io -o {offset} -l {length} -n {count} "
            f"-s {seed} "
            f"{options} {device} {op}")
        return IO(call, count, release)

    def take_cpu(self):
        """Take the second CPU away; on return that has begun. Requests of
        its virtqueue hold it up."""
        state = "cat /sys/devices/system/cpu/cpu1/hotplug/state"
        before = self.run(state)
        call = self.start("echo 0 > /sys/devices/system/cpu/cpu1/online")
        process.wait_until(lambda: self.run(state) != before,
                           "the CPU to be taken away")
        return call

    def return_cpu(self):
        """Have the second CPU again."""
        self.run("echo 1 > /sys/devices/system/cpu/cpu1/online")

    def kernel_log(self):
        """The lines of the guest's kernel so far."""
        return self.run("dmesg").splitlines()

    def complaints(self):
        """Lines on the console that no sound kernel prints."""
        text = self.serial_log.read_text("utf-8", "replace")
        return [line for line in text.splitlines() if COMPLAINTS.search(line)]

    def said(self):
        """QEMU's messages so far."""
        return self.log.read_text("utf-8", "replace")

    def status(self):
        """The state that QEMU reports, such as running."""
        return self.qmp.command("query-status")["status"]

    def traces(self, pattern):
        """What a regular expression finds in QEMU's trace log so far."""
        text = self.trace_log.read_text("utf-8", "replace")
        return re.findall(pattern, text, re.MULTILINE)

    def trace(self, event):
        """Switch a trace event on; a pattern switches several."""
        self.qmp.command("trace-event-set-state", name=event, enable=True)

    def wait_for_trace(self, pattern, count, timeout=60):
        """Wait until a pattern was traced more than count times."""
        process.wait_until(lambda: len(self.traces(pattern)) > count,
                           f"{pattern} in QEMU's trace", timeout)

    def resets(self):
        """Device resets so far, of all virtio devices."""
        return len(self.traces(RESET))

    @contextlib.contextmanager
    def stopped(self):
        """Within this the whole process stands still."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self):
        """QEMU's process."""
        return self._process.pid

    def ended(self):
        """QEMU's exit status; None while it runs."""
        return self._process.poll()

    def wait_exit(self, timeout=60):
        """Wait for QEMU to end by itself; its exit status."""
        return self._process.wait(timeout)

    def close(self):
        """End the guest. Held requests must have been released before."""
        self._cleanup.close()


class Heartbeat:
    """The guest's own view of whether its vCPUs run."""

    PIDFILE = "/tmp/heartbeat.pid"

    def __init__(self, guest):
        self._guest = guest
        self._call = guest.start(f"guest-io heartbeat {self.PIDFILE}")
        self._call.line(0)
        self._reports = 0

    def longest_gap(self):
        """Seconds of any vCPU's longest gap since the last call."""
        self._guest.run(f"kill -USR1 $(cat {self.PIDFILE})")
        self._reports += 1
        pulses = self._call.line(self._reports)
        assert all(pulse["beats"] for pulse in pulses), pulses
        return max(pulse["longest_gap"] for pulse in pulses)
