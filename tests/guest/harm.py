# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of no harm have in common: storage, two machines, steps."""

import os
from dataclasses import dataclass, field

from harness import sides
from harness.guest import Disk
from harness.process import wait_until
from harness.servers import SIZE, make_image
from harness.sides import Side

# make check-harm sets it: everything, not only some
ALL = os.environ.get("HARM") == "all"

HALF = SIZE // 2
# Longer than a disk is held that hangs, so that its healthy half is not given up
HANGS = 8
# By when what hangs would have been refused
FROZEN = 10
EVERYTHING = (0, 2 * SIZE)
UPPER = (HALF, HALF)


@dataclass
class PortDisk(Disk):
    """A disk, and an empty slot for another."""

    def arguments(self):
        return ["-device", "pcie-root-port,id=above"] + super().arguments()


@dataclass
class Storage:
    """What the disk is on; rules are those of hold-fs."""

    rules: list = field(default_factory=list)
    everything: bool = False            # also what concerns the file itself
    loads: tuple = (("disk", 0), ("other", 0))
    # Requests are given up after one; 30 is the default
    driver: dict = field(default_factory=lambda: {"io_timeout": 30})
    limit: int = sides.LIMIT
    latency: float = 0                  # of its slowest request, in seconds
    aios: tuple = ("threads", "io_uring")

    def weather(self, server):
        """What Side wants."""
        def change(bad):
            server.resume()
            if bad and self.everything:
                server.pause_all()
            for rule in self.rules if bad else []:
                server.rule(*rule)
        return change


def slow(seconds, ops="rw"):
    """Every request of a kind takes so long."""
    return Storage([(ops, *EVERYTHING, "delay", int(seconds * 1000))],
                   latency=seconds)


def disks(server, rig, aio, cancel, locked):
    """The disk that all is about, and one on a file that never hangs."""
    other = {"driver": "file", "aio": aio, "cache": {"direct": True},
             "filename": str(make_image(rig.directory / "other-disk"))}
    disk = {**server.blockdev(aio), "discard": "unmap",
            "locking": "auto" if locked else "off"}
    return (PortDisk("disk", disk, cancel=cancel),
            Disk("other", other, cancel=cancel))


def boot_both(two_rigs, storage, aio):
    """Both machines, side by side, with their load."""
    both = []
    for rig, cancel in zip(two_rigs, (False, True)):
        server = rig.hold_fs()
        guest = rig.launch(*disks(server, rig, aio, cancel,
                                  storage.everything))
        both.append(Side(rig, guest, cancel, storage.weather(server),
                         server.held))
    for side in both:
        side.guest.wait_booted()
        side.guest.load_driver(**storage.driver)
        assert side.guest.has_cancel("disk") == side.cancel
        side.load(*storage.loads)
    for side in both:
        side.begin()
    return both


def query(side):
    """Everything that only asks."""
    for name in ("query-block", "query-blockstats", "query-named-block-nodes",
                 "query-jobs", "query-status"):
        side.guest.qmp.command(name)
    side.guest.qmp.command("human-monitor-command",
                           **{"command-line": "info block -v"})


def stop(side):
    """The VM stands still for a moment."""
    side.guest.qmp.command("stop")
    side.guest.qmp.command("cont")


def add_node(side):
    """A node that has nothing to do with the disk."""
    side.guest.qmp.command("blockdev-add", driver="null-co",
                           **{"node-name": "null", "read-zeroes": True})
    side.guest.qmp.command("blockdev-add", driver="raw", file="null",
                           **{"node-name": "above"})
    side.guest.qmp.command("blockdev-del", **{"node-name": "above"})
    side.guest.qmp.command("blockdev-del", **{"node-name": "null"})


def plug(side, **device):
    """A device comes, and goes."""
    qmp = side.guest.qmp
    before = qmp.deleted("new")
    qmp.command("device_add", id="new", bus="above", **device)
    wait_until(lambda: side.guest.run(
        "ls /sys/bus/pci/devices | grep ^0000:01 || :"),
        "the guest to see the device", sides.LIMIT)
    qmp.command("device_del", id="new")
    wait_until(lambda: qmp.deleted("new") > before, "the device to go",
               sides.LIMIT)


def plug_device(side):
    """One that has nothing to do with disks."""
    plug(side, driver="virtio-rng-pci")


def plug_disk(side):
    """Another disk, on a node that is added for it."""
    image = make_image(side.rig.directory / "spare")
    side.guest.qmp.command("blockdev-add", driver="file", filename=str(image),
                           **{"node-name": "spare"})
    plug(side, driver="virtio-blk-pci", drive="spare",
         **({"cancel": "on"} if side.cancel else {}))
    side.guest.qmp.command("blockdev-del", **{"node-name": "spare"})


def resize(side):
    """A megabyte more."""
    side.guest.qmp.command("block_resize", size=SIZE + (1 << 20),
                           **{"node-name": "node-disk"})


def discard(side):
    """A discard of the guest's."""
    (result,) = side.guest.io("disk", "discard", 4 << 20,
                              length=1 << 20).results(120)
    assert not result.errno, result


def jobs(side):
    """How many block jobs there are."""
    return len(side.guest.qmp.command("query-jobs"))


def start_job(side, command, **options):
    """Start a block job with a target of its own."""
    image = make_image(side.rig.directory / f"sink-{command}")
    side.guest.qmp.command("blockdev-add", driver="file", filename=str(image),
                           **{"node-name": f"sink-{command}"})
    side.guest.qmp.command(command, device="node-disk", sync="full",
                           target=f"sink-{command}", speed=1 << 20,
                           **{"job-id": "job", **options})


def cancel_job(side, name="job-cancel", **options):
    """Cancel a block job, and see it go."""
    side.guest.qmp.command(name, **(options or {"id": "job"}))
    wait_until(lambda: not jobs(side), "the job to go", sides.LIMIT)


def backup(side):
    """A backup begins, and is cancelled."""
    start_job(side, "blockdev-backup")
    cancel_job(side)


def mirror(side):
    """A mirror begins, and is cancelled."""
    start_job(side, "blockdev-mirror")
    cancel_job(side, "block-job-cancel", device="job", force=True)


def snapshot(side):
    """A snapshot is taken, and committed."""
    qmp = side.guest.qmp
    qmp.command("blockdev-snapshot-sync", **{
        "node-name": "node-disk", "snapshot-node-name": "snapshot",
        "snapshot-file": str(side.rig.directory / "snapshot")})
    qmp.command("block-commit", device="snapshot", **{"job-id": "job"})
    wait_until(lambda: qmp.command("query-jobs")[0]["status"] == "ready",
               "the commit", 120)
    qmp.command("job-complete", id="job")
    wait_until(lambda: not jobs(side), "the commit's end", 120)


def migrate(side):
    """The machine is written to a file, and goes on."""
    qmp = side.guest.qmp
    qmp.command("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    qmp.command("migrate", uri=f"file:{side.rig.directory / 'state'}")

    def done():
        answer = qmp.command("query-migrate")
        assert answer["status"] not in ("failed", "cancelled"), answer
        return answer["status"] == "completed"
    wait_until(done, "the migration", 120)
    (side.rig.directory / "state").unlink()
    qmp.command("cont")


def verify(side):
    """Everything that was written is there."""
    side.unload()
    side.load_elsewhere()


def reset(driver):
    """The machine boots again, its requests in flight or not."""
    return lambda side: side.reboot(driver, 150)


def shut_down(side):
    """The guest switches itself off."""
    side.shut_down(150)


def compare(name, off, on, report, latency=0):
    """Print the table; fail where on is worse."""
    report(name, off, on)
    found = [f"{step}: {reason}" for step, outcome in off.outcomes.items()
             if step in on.outcomes
             for reason in sides.worse(outcome, on.outcomes[step], latency)]
    found += [f"{step}: was not reached" for step in off.outcomes
              if step not in on.outcomes]
    found += on.guest.complaints() if not off.guest.complaints() else []
    assert not found, "with cancel=on: " + "; ".join(found)
