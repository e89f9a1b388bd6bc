# SPDX-License-Identifier: GPL-2.0-or-later
"""Hours of file systems on storage that comes and goes: make check-soak.

One machine has disks on four kinds of storage, each with a file system on which
fio writes and verifies, and a fifth whose requests are given up after a
time-out. The storage gets slow, hangs in part or as a whole, and comes back;
meanwhile the host stops the machine, takes snapshots, plugs disks and writes the
machine to a file, in random order. At the end of each round all is well, and
what QEMU needs does not grow; at the end of all the file systems are consistent.

HOURS=n is how long, SEED=n repeats the order of things.
"""

import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness.guest import Disk, Heartbeat
from harness.process import wait_until
from harness.qmp import QMPError
from harness.servers import SIZE, make_image
from harness.sides import Load
from harness.tools import tools_image

HOURS = float(os.environ.get("HOURS") or "2")
SEED = os.environ.get("SEED") or str(random.randrange(1 << 32))

IO_TIMEOUT = 4
BIG = 320 << 20         # xfs wants that much
OUTAGE = 12             # seconds at most
CALM = 900              # by when all is over that has begun
# What a refusal of a command says; it is no failure
REFUSED = "storage that hangs"

FIO = ("/tools/ld.so --library-path /tools/lib /tools/fio --directory=/mnt/{} "
       "--rw=randwrite --bs=4k --size=8m --verify=crc32c --verify_fatal=1 "
       "--output-format=terse --randseed={} {} "
       "--name=direct --direct=1 --ioengine=libaio --iodepth=16 "
       "--name=buffered --ioengine=psync --fsync=128 --end_fsync=1")
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
CHECK = {"ext4": ["fsck.ext4", "-f", "-n"], "xfs": ["xfs_repair", "-n"]}

pytestmark = pytest.mark.usefixtures("need_fuse", "need_loop")


class Weather(threading.Thread):
    """What becomes of one storage until it is told to end; then it works.

    kinds are functions that make it bad, resume() undoes each.
    """

    def __init__(self, rng, kinds, resume):
        super().__init__(daemon=True)
        self._rng = random.Random(rng.random())
        self._kinds = kinds
        self._resume = resume
        self._end = threading.Event()
        self.start()

    def run(self):
        while not self._end.wait(self._rng.uniform(0.5, 4)):
            self._rng.choice(self._kinds)()
            self._end.wait(self._rng.uniform(0.3, OUTAGE))
            self._resume()

    def stop(self):
        """It works again, for good."""
        self._end.set()
        self.join(60)
        assert not self.is_alive()


def kinds_of(server):
    """How a server of hold-fs can be bad."""
    def rule(ops, start, length, action, number=0):
        return lambda: server.rule(ops, start, length, action, number)
    return [server.pause, rule("rwfdz", 0, SIZE // 2, "hold"),
            rule("w", 0, SIZE, "hold"), rule("rw", 0, SIZE, "delay", 300),
            rule("f", 0, SIZE, "delay", 2000)]


class Soak:
    """The machine, its storage and what has happened so far."""

    def __init__(self, rig, build):
        self.rig = rig
        self.rng = random.Random(SEED)
        self.done, self.refused = {}, {}    # by the names of the steps
        self.samples = []                   # (rss, threads, descriptors)
        self.number = 0                     # of files that snapshots have made
        self.filesystems = {}               # disk: (kind, image)
        self.nbd = rig.nbdkit("remote", "tired")
        self.holds = {name: rig.hold_fs(name) for name in
                      ("threads", "io-uring")}
        held, loop = rig.hold_loop()
        self.holds["native"] = held
        os.truncate(self.nbd.images["remote"], BIG)
        self._make_filesystems()
        tools = tools_image(build, "fio", Path(shutil.which("fio")))
        properties = {"cancel": "on"}
        disk = {"properties": properties}
        self.guest = rig.launch(
            Disk("remote", self.nbd.blockdev("remote"), iothread=True, **disk),
            Disk("threads", self.holds["threads"].blockdev("threads"), **disk),
            Disk("io-uring", self.holds["io-uring"].blockdev("io_uring"),
                 iothread=True, **disk),
            Disk("native", loop.blockdev("native"), **disk),
            Disk("tired", self.nbd.blockdev("tired"), **disk),
            Port("tools", {"driver": "file", "read-only": True,
                           "filename": str(tools)}, cancel=False))
        self._start()

    def _make_filesystems(self):
        images = {"remote": self.nbd.images["remote"]}
        images.update((name, server.image)
                      for name, server in self.holds.items())
        for name, image in images.items():
            kind = "xfs" if name == "remote" else "ext4"
            subprocess.run([*MAKE[kind], image], check=True)
            self.filesystems[name] = kind, image

    def _start(self):
        guest = self.guest.wait_booted()
        # For hours: nobody wants to read every request
        for events in ("virtio_blk*", "blk_cancel*"):
            guest.qmp.command("trace-event-set-state", name=events,
                              enable=False)
        guest.load_driver(io_timeout=IO_TIMEOUT, max_timeouts=0)
        guest.run(f"echo 1 > /sys/block/{guest.disk('tired')}/max_timeouts")
        guest.run("mkdir /mnt /tools; "
                  f"mount -r -t ext4 /dev/{guest.disk('tools')} /tools; "
                  "for m in libcrc32c xfs; do "
                  "insmod /lib/modules/test/$m.ko; done")
        for name, (kind, _) in self.filesystems.items():
            guest.run(f"mkdir /mnt/{name}; mount -t {kind} "
                      f"/dev/{guest.disk(name)} /mnt/{name}")

    def fio(self, number, options=""):
        """Start it on all file systems."""
        return [self.guest.start(FIO.format(name, number, options))
                for name in self.filesystems]

    def weather(self):
        """All storage is as it likes from now on."""
        threads = [Weather(self.rng, [self.nbd.pause, self.nbd.freeze],
                           self.nbd.resume)]
        return threads + [Weather(self.rng, kinds_of(server), server.resume)
                          for server in self.holds.values()]

    def step(self):
        """One thing that the host does; it may be refused."""
        steps = [self.stop, self.snapshot, self.plug, self.migrate]
        step = self.rng.choice(steps)
        name = step.__name__
        try:
            step()
            self.done[name] = self.done.get(name, 0) + 1
        except QMPError as error:
            if REFUSED not in str(error):
                raise
            self.refused[name] = self.refused.get(name, 0) + 1
            self._continue()

    def _continue(self):
        if self.guest.status() != "running":
            self.guest.qmp.command("cont")

    def stop(self):
        """The machine stands still for a moment."""
        self.guest.qmp.command("stop")
        self.guest.qmp.command("cont")

    def snapshot(self):
        """A snapshot of a disk; it is committed when all is calm."""
        name = self.rng.choice(list(self.filesystems))
        if f"top-{name}" in self._nodes():
            return
        self.number += 1
        self.guest.qmp.command("blockdev-snapshot-sync", **{
            "node-name": f"node-{name}", "snapshot-node-name": f"top-{name}",
            "snapshot-file": str(self.rig.directory / f"top-{self.number}")})

    def commit(self):
        """All snapshots go back to where they came from."""
        qmp = self.guest.qmp
        for name in self.filesystems:
            if f"top-{name}" in self._nodes():
                qmp.command("block-commit", device=f"top-{name}",
                            **{"job-id": "job"})
                wait_until(lambda: qmp.command("query-jobs")[0]["status"]
                           == "ready", "the commit", CALM)
                qmp.command("job-complete", id="job")
                wait_until(lambda: not qmp.command("query-jobs"),
                           "the commit's end", CALM)
        for path in self.rig.directory.glob("top-*"):
            path.unlink()

    def _nodes(self):
        return {node["node-name"] for node in
                self.guest.qmp.command("query-named-block-nodes")}

    def plug(self):
        """A disk comes, and goes."""
        qmp = self.guest.qmp
        if "spare" not in self._nodes():
            image = make_image(self.rig.directory / "spare")
            qmp.command("blockdev-add", driver="file", filename=str(image),
                        **{"node-name": "spare"})
        before = qmp.deleted("new")
        qmp.command("device_add", id="new", bus="above", drive="spare",
                    driver="virtio-blk-pci", cancel="on")
        wait_until(lambda: self.guest.run(
            "ls /sys/bus/pci/devices | grep ^0000:01 || :"),
            "the guest to see the disk", CALM)
        qmp.command("device_del", id="new")
        wait_until(lambda: qmp.deleted("new") > before, "the disk to go",
                   CALM)

    def migrate(self):
        """The machine is written to a file, and goes on."""
        qmp = self.guest.qmp
        state = self.rig.directory / "state"
        qmp.command("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
        qmp.command("migrate", uri=f"file:{state}")
        wait_until(lambda: qmp.command("query-migrate")["status"] in
                   ("failed", "cancelled", "completed"), "the migration", CALM)
        answer = qmp.command("query-migrate")
        state.unlink(missing_ok=True)
        self._continue()
        if answer["status"] != "completed":
            raise QMPError(answer.get("error-desc", str(answer)))

    def sample(self):
        """What QEMU needs now: kilobytes, threads, file descriptors."""
        process = Path(f"/proc/{self.guest.pid}")
        fields = dict(line.split(":", 1) for line in
                      (process / "status").read_text("ascii").splitlines())
        self.samples.append((int(fields["VmRSS"].split()[0]),
                             int(fields["Threads"]),
                             len(list((process / "fd").iterdir()))))


class Port(Disk):
    """A disk, and an empty slot for another."""

    def arguments(self):
        return ["-device", "pcie-root-port,id=above"] + super().arguments()


def one_round(soak, number):
    """Bad weather, until fio has written all; then what was written is there."""
    calls = soak.fio(number)
    tired = Load(soak.guest, "tired", 0, due="ETIMEDOUT")
    weather = soak.weather()
    begun = time.monotonic()
    while time.monotonic() < begun + 60 or \
            not all(call.done() for call in calls):
        soak.step()
        time.sleep(soak.rng.uniform(0, 5))
        if time.monotonic() > begun + 240:
            break
    for storage in weather:
        storage.stop()
    soak.guest.qmp.command("query-status")
    for call in calls:
        call.wait(CALM)
    tired.stop()
    tired.join(CALM)
    assert not tired.is_alive(), "a request was lost"
    tired.verify()
    assert not tired.errors, tired.errors
    soak.commit()
    for call in soak.fio(number, "--verify_only"):
        call.wait(CALM)
    soak.guest.run("sync; echo 3 > /proc/sys/vm/drop_caches", CALM)


def assert_flat(samples):
    """Nothing grows from the first rounds to the last ones."""
    third = max(1, (len(samples) - 1) // 3)
    for i, (what, slack) in enumerate([("KiB of memory", 64 << 10),
                                       ("threads", 16), ("descriptors", 4)]):
        first = max(sample[i] for sample in samples[:third + 1])
        last = min(sample[i] for sample in samples[-third:])
        assert last <= first + slack, f"{what}: {first} have become {last}"


def test_soak(rig, build):
    """All of it."""
    print(f"SEED={SEED}")
    end = time.monotonic() + HOURS * 3600
    soak = Soak(rig, build)
    heartbeat = Heartbeat(soak.guest)
    number = 0
    while not number or time.monotonic() < end:
        number += 1
        one_round(soak, number)
        # Pools of threads shrink when they have been idle for ten seconds
        time.sleep(12)
        soak.sample()
        print(f"round {number}: {soak.samples[-1]}, done {soak.done}, "
              f"refused {soak.refused}, longest gap "
              f"{heartbeat.longest_gap():.1f} s", flush=True)
    assert_flat(soak.samples)
    for name, (kind, image) in soak.filesystems.items():
        soak.guest.run(f"umount /mnt/{name}", CALM)
        soak.guest.run(f"blockdev --flushbufs /dev/{soak.guest.disk(name)}",
                       CALM)
    soak.guest.close()
    for name, (kind, image) in soak.filesystems.items():
        subprocess.run([*CHECK[kind], image], check=True)
