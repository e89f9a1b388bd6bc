# SPDX-License-Identifier: GPL-2.0-or-later
"""No harm, continued: what only make check-harm has time for.

Storage that is full, jobs whose target is gone, and a host that lets QEMU have
few threads, little memory, or little address space. What is tested there
besides: with cancel=on QEMU does not end.
"""

import errno

import pytest

import harm
from checks import LATEST, assert_fine, assert_timed_out, seeds, store
from harm import FROZEN, HALF, HANGS, UPPER, Storage
from harness import sides
from harness.guest import Disk, Guest
from harness.limits import Cgroup, NoCgroup, limit_address_space
from harness.process import wait_until
from harness.qmp import QMPError
from harness.servers import SIZE, Nbdkit, make_image
from harness.sides import Side

HUNG = ("one", "two", "three")

# What QEMU may have: threads, of which it has ten when it is idle, and what is
# beyond the memory and address space that it has with the guest up, all of the
# guest's memory included. With KVM that is 40 MiB more than the guest's, so this
# is the guest's memory and 200 MiB. A request in flight has a stack of 1 MiB of
# addresses, which it hardly uses; there are 300.
THREADS = 50
MEMORY = 160 << 20
ADDRESSES = 200 << 20

# QEMU looks when it begins whether there is a limit
HIGH = ["prlimit", f"--as={1 << 46}:"]

pytestmark = pytest.mark.usefixtures("need_fuse")

# The upper half is full; what reads its end hangs.
FULL = Storage([("w", *UPPER, "fail", errno.ENOSPC),
                ("r", SIZE - HALF // 2, HALF // 2, "hold")],
               driver={"io_timeout": HANGS}, limit=FROZEN)


def full(side, hung=None):
    """The storage is full, which stops the VM, until there is room.

    The guest sees nothing of it.
    """
    def stopped():
        return side.guest.status() == "io-error"
    write = side.guest.io("disk", "write", HALF, seed=9, count=4)
    wait_until(stopped, "the VM to stop", 2 * sides.LIMIT)
    harm.query(side)
    if not hung:
        side.guest.qmp.command("cont")
        wait_until(stopped, "the VM to stop again", sides.LIMIT)
    side.weather(False)
    side.guest.qmp.command("cont")
    assert_fine(write.results(sides.LIMIT))


def full_and_hangs(side):
    """The same while something else hangs."""
    read = side.guest.io("disk", "read", SIZE - HALF // 2)
    wait_until(side.held, "the read to hang")
    full(side, read)
    assert read.result(sides.LIMIT).error in ("", "ETIMEDOUT")


def weather_back(side):
    """It is full again."""
    side.begin()


@pytest.mark.parametrize("aio", ["threads", "io_uring", "native"])
def test_full(two_rigs, report, aio):
    """Storage without room, with the default werror=enospc."""
    off, on = harm.boot_both(two_rigs, FULL, aio)
    sides.run((off, on), [
        ("full", full, FROZEN), ("again", weather_back),
        ("full, and hangs", full_and_hangs, FROZEN), ("data", harm.verify, 150),
        ("stop, cont", harm.stop), ("guest's shutdown", harm.shut_down, 60)])
    harm.compare(f"full ({aio})", off, on, report)


def dead_target(end, cancel, command, **options):
    """A job whose target dies, or is silent; the guest's writes may wait for it,
    until the job is cancelled."""
    def do(side):
        server, qmp = side.rig.targets.pop(), side.guest.qmp
        node, load = f"target-{len(side.rig.targets)}", side.loads[0]
        qmp.command("blockdev-add", **{
            **server.blockdev("target"), "node-name": node,
            "reconnect-delay": 3600})
        qmp.command(command, device="node-disk", target=node, sync="full",
                    **{"job-id": "job", **options})
        if options.get("copy-mode") == "write-blocking":
            wait_until(lambda: qmp.command("query-jobs")[0]["status"] ==
                       "ready", "the mirror to be ready", 60)
        end(server)
        if options.get("copy-mode") == "background":
            load.wait_turn()
        else:
            wait_until(lambda: load.waits() > 2, "the load to wait", 60)
        # Again, where the end of the connection comes after the cancel
        wait_until(lambda: not harm.jobs(side) or cancel(side, node),
                   "the job to go", sides.LIMIT, interval=0.5)
        load.wait_turn()
    return do


def force(side, _):
    """Give the job up."""
    side.guest.qmp.command("block-job-cancel", device="job", force=True)


def by_job(side, _):
    """The same with the newer command."""
    side.guest.qmp.command("job-cancel", id="job")


def yank(side, node):
    """End the connection, which is there and silent, and the job with it."""
    side.guest.qmp.command("yank", instances=[
        {"type": "block-node", "node-name": node}])


BACKUP = {"command": "blockdev-backup", "speed": 1 << 20}
COPIES = {"command": "blockdev-mirror", "copy-mode": "background",
          "speed": 1 << 20}
BLOCKS = {"command": "blockdev-mirror", "copy-mode": "write-blocking"}


def test_dead_target(two_rigs, report):
    """Targets of jobs that are gone for good."""
    steps = [
        ("backup, dies", dead_target(Nbdkit.crash, by_job, **BACKUP)),
        ("mirror, dies", dead_target(Nbdkit.crash, force, **COPIES)),
        ("active mirror, dies", dead_target(Nbdkit.crash, force, **BLOCKS)),
        ("backup, silent", dead_target(Nbdkit.pause, yank, **BACKUP)),
        ("mirror, silent", dead_target(Nbdkit.pause, yank, **COPIES)),
        ("active mirror, silent", dead_target(Nbdkit.pause, yank, **BLOCKS))]
    for rig in two_rigs:
        rig.targets = [rig.nbdkit("target", name=f"target-{i}")
                       for i in range(len(steps))]
    # The guest waits as long as it takes, as it does by default; writes whose
    # old data a backup cannot save fail
    storage = Storage(driver={"io_timeout": 5, "max_timeouts": 0},
                      loads=(("disk", 0, "EIO"), ("other", 0)))
    off, on = harm.boot_both(two_rigs, storage, "threads")
    sides.run((off, on), [
        *[(name, step, 2 * sides.LIMIT) for name, step in steps],
        ("stop, cont", harm.stop), ("data", harm.verify, 150),
        ("guest's shutdown", harm.shut_down, 60)])
    harm.compare("targets", off, on, report)


def has_orphan(guest):
    """Whether QEMU shows a disk without its device."""
    return any("(unplugged" in disk.get("qdev", "")
               for disk in guest.qmp.command("query-block"))


def refused(guest, name, **arguments):
    """Whether a command is refused because storage hangs."""
    with pytest.raises(QMPError, match="storage that hangs"):
        guest.qmp.command(name, **arguments)


def test_way_out(rig):
    """What the manual says to do when the storage never comes back."""
    server = rig.hold_fs()
    guest = rig.boot(harm.PortDisk("disk", server.blockdev("io_uring"),
                                   properties={"bus": "above"}),
                     io_timeout=HANGS)
    store(guest, "disk", seed=1)
    server.pause()
    with rig.alive():
        assert_timed_out(guest.io("disk", "mixed", seed=2, count=8)
                         .results(LATEST), HANGS)
        # Look
        (hung,) = guest.qmp.command("query-block-hung")
        assert hung["node-name"] == "node-disk"
        assert hung["stats"]["abandoned"] == 8
        # Unplug
        guest.qmp.command("device_del", id="disk")
        wait_until(lambda: guest.run("ls /sys/block | grep ^vd || :") == "",
                   "the disk to go")
        guest.forget_disks()
        wait_until(lambda: has_orphan(guest), "what is left of it")
        refused(guest, "blockdev-del", **{"node-name": "node-disk"})
        # End what hangs, where it is
        server.abort(rig.directory / "fusectl")
        wait_until(lambda: not has_orphan(guest), "QEMU to let the image go")
        assert guest.qmp.command("query-block-hung") == []
        guest.qmp.command("blockdev-del", **{"node-name": "node-disk"})
        # Replace it
        image = make_image(rig.directory / "replacement")
        guest.qmp.command("blockdev-add", driver="file", filename=str(image),
                          **{"node-name": "node-new"})
        guest.qmp.command("device_add", driver="virtio-blk-pci", id="new",
                          drive="node-new", serial="new", bus="above",
                          cancel="on")
        wait_until(lambda: guest.run("ls /sys/block | grep ^vd || :"),
                   "the disk to be there")
        store(guest, "new", seed=3)
    assert seeds(image) == {3}
    guest.qmp.command("stop")
    guest.qmp.command("cont")


def burst(count, length, told):
    """As much at once to each disk as it gets; what may come back with it."""
    def do(side):
        ios = [side.guest.io(disk, "mixed", 4 << 20, length=length, count=count)
               for disk in HUNG]
        for io in ios:
            for result in io.results(300):
                assert result.error in told, result
    return do


def iothread(side):
    """A thread more, and less."""
    side.guest.qmp.command("object-add", id="more", **{"qom-type": "iothread"})
    side.guest.qmp.command("object-del", id="more")


def script(hangs):
    """The steps; twice what needs most, because what hangs stays."""
    told = {"", "ETIMEDOUT"} if hangs else {""}
    small, large = burst(100, 4096, told), burst(32, 1 << 20, told)
    return [(name, action, 2 * FROZEN if hangs else 60)
            for name, action in (
                ("large", large), ("query", harm.query), ("small", small),
                ("large again", large), ("small again", small),
                ("stop, cont", harm.stop), ("node", harm.add_node), ("query again", harm.query),
                ("thread", iothread))] + [("data", harm.verify, 150)]


def group(controller, rig, request):
    """An empty control group, for as long as the test runs."""
    try:
        cgroup = Cgroup(rig.directory.name, controller)
    except NoCgroup as reason:
        pytest.skip(str(reason))

    def end():
        rig.close()     # QEMU ends first, and only when the storage answers
        cgroup.remove()
    request.addfinalizer(end)
    return cgroup


def boot(rig, aio, cancel, cgroup):
    """Four disks; the storage of three is the same."""
    class Limited(Guest):
        """A guest whose QEMU is in the group, and has all of its memory."""

        def _command(self, *args):
            return [*(cgroup.prefix() if cgroup else HIGH),
                    *super()._command(*args), "-mem-prealloc"]
    rig.guest_class = Limited
    if cgroup and cgroup.controller == "pids":
        cgroup.limit(THREADS)
    servers = [rig.hold_fs(name) for name in HUNG]
    disks = [Disk(name, {**server.blockdev(aio), "locking": "off"},
                  cancel=cancel) for name, server in zip(HUNG, servers)]
    other = {"driver": "file", "aio": aio, "cache": {"direct": True},
             "filename": str(make_image(rig.directory / "other-disk"))}
    return servers, rig.launch(*disks, Disk("other", other, cancel=cancel))


def limit(kind, guest, cgroup):
    """From now on there is no more than that. That of threads is there already:
    QEMU looks at it when it begins."""
    if kind == "memory":
        cgroup.limit(cgroup.count() + MEMORY)
    elif kind == "addresses":
        limit_address_space(guest.pid, ADDRESSES)


CONTROLLERS = {"threads": "pids", "memory": "memory"}


@pytest.mark.parametrize("hangs", [False, True], ids=["healthy", "hangs"])
@pytest.mark.parametrize("aio", ["threads", "io_uring", "native"])
@pytest.mark.parametrize("kind", ["threads", "memory", "addresses"])
def test_limit(request, two_rigs, report, kind, aio, hangs):
    """One kind of limit."""
    both = []
    for rig, cancel in zip(two_rigs, (False, True)):
        cgroup = None
        if kind in CONTROLLERS:
            cgroup = group(CONTROLLERS[kind], rig, request)
        servers, guest = boot(rig, aio, cancel, cgroup)

        def weather(bad, servers=servers):
            for server in servers:
                if bad and hangs:
                    server.pause()
                else:
                    server.resume()
        both.append(Side(rig, guest, cancel, weather,
                         lambda servers=servers: servers[0].held()))
        both[-1].cgroup = cgroup
    for side in both:
        side.guest.wait_booted()
        side.guest.load_driver(io_timeout=HANGS)
        side.load(("other", 0),
                  *([("one", 0, "ETIMEDOUT")] if hangs else []))
        for disk in HUNG:
            side.guest.disk(disk)
        limit(kind, side.guest, side.cgroup)
        side.begin()
    off, on = both
    sides.run(both, script(hangs))
    name = f"few {kind}, {'hangs' if hangs else 'healthy'} ({aio})"
    harm.compare(name, off, on, report)
    assert all(outcome.verdict != "gone" for outcome in on.outcomes.values())
