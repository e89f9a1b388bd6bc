# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage in the network: what hangs comes back, commands do not stall.

One guest has a disk on each kind of server that the host has; all of them hang
at once, so that one outage tests all.  What takes longer, and Ceph, is for
"make check-storage": it sets STORAGE=all.
"""

import os
import threading
import time

import pytest

from checks import (FAR, IO_TIMEOUT, LATEST, assert_fine, assert_timed_out,
                    load, store)
from harness import network
from harness.guest import WAITS, Disk
from harness.process import wait_until
from harness.qmp import QMP, QMPError

ALL = os.environ.get("STORAGE") == "all"
NBD = {"nbd": network.TcpNbd, "nbd-tls": network.TlsNbd}
QUICK = {**NBD, "iscsi": network.Iscsi, "nfs": network.Nfs,
         "ssh": network.Ssh}
KINDS = {**QUICK, "rbd": network.Ceph}
# A server has two seconds to answer what opens or closes a connection, and
# that for each of them here, with all of QEMU waiting.
SILENCE = 8
# What has another size only by asking its server, in a thread
RESIZE_WAITS = ("rbd", "ssh")

long = pytest.mark.skipif(not ALL, reason="make check-storage has it")


@pytest.fixture(scope="module", autouse=True)
def fixture_network():
    """Servers at their usual ports, in a network of our own."""
    try:
        network.enter()
    except network.NotHere as reason:
        pytest.skip(str(reason))


class Site:
    """Servers, a guest with a disk on each, and what is done with them."""

    def __init__(self, rig, kinds, **options):
        self.rig = rig
        self.servers = {}
        for kind in kinds:
            self.servers[kind] = rig.network(kind, KINDS[kind])
        self.guest = rig.boot(
            *(Disk(kind, server.blockdev(), objects=server.objects(),
                   **options)
              for kind, server in self.servers.items()),
            io_timeout=IO_TIMEOUT)
        for kind in kinds:
            store(self.guest, kind, seed=1)
            store(self.guest, kind, seed=1, offset=FAR)

    def hang(self, how="freeze"):
        """All servers stop answering."""
        for server in self.servers.values():
            getattr(server, how)()

    def resume(self):
        """They answer again."""
        for server in self.servers.values():
            server.resume()

    def on_each(self, op, **options):
        """A request to each disk, at once."""
        return {kind: self.guest.io(kind, op, **options)
                for kind in self.servers}

    def all_timed_out(self, requests):
        """Each has come back with ETIMEDOUT."""
        for kind, request in requests.items():
            try:
                assert_timed_out(request.results(LATEST))
            except AssertionError as error:
                raise AssertionError(f"{kind}: {error}") from error

    def all_fine(self, requests):
        """Each has come back, with success."""
        for kind, request in requests.items():
            try:
                assert_fine(request.results(LATEST * 2))
            except AssertionError as error:
                raise AssertionError(f"{kind}: {error}") from error

    def works(self, kind):
        """Whether a disk works again; requests may time out before."""
        return not self.guest.io(kind, "read").result(LATEST).errno

    def all_work(self):
        """Wait until each disk works again."""
        for kind in self.servers:
            wait_until(lambda k=kind: self.works(k), f"{kind} to work again",
                       LATEST * 2)


@pytest.fixture(name="kinds")
def fixture_kinds():
    """The kinds of servers that this host has; a missing one is told."""
    kinds, missing = [], []
    for kind, server in (KINDS if ALL else QUICK).items():
        try:
            network.need(*server.NEEDS)
            kinds.append(kind)
        except network.NotHere as reason:
            missing.append(str(reason))
    if not kinds:
        pytest.skip("; ".join(missing))
    return kinds


def check_outage(site, how):
    """Requests that hang come back; the newer write prevails."""
    guest = site.guest
    # There is something to flush, but in librbd, which has no cache here.
    site.all_fine(site.on_each("write", offset=FAR, seed=1))
    waits = len(guest.traces(WAITS))
    with site.rig.alive():
        site.hang(how)
        site.all_timed_out({kind: guest.io(kind, "fsync")
                            for kind in site.servers if kind != "rbd"})
        reads = site.on_each("read", watch=True)
        site.all_timed_out(reads)
        site.all_timed_out(site.on_each("write", seed=2))
        newer = site.on_each("write", seed=3)
        guest.wait_for_trace(WAITS, waits + len(site.servers) - 1)
        for query in "query-block", "query-named-block-nodes", \
                "query-blockstats":
            guest.qmp.command(query)
        site.resume()
        for kind, write in newer.items():
            # It has waited for so long that it may have been taken back, too
            if write.result(LATEST).errno:
                wait_until(lambda k=kind: site.works(k), kind, LATEST * 2)
                assert_fine([guest.io(kind, "write", seed=3).result(LATEST)])
        site.all_work()
        site.all_fine(site.on_each("fsync"))
        for kind in site.servers:
            assert load(guest, kind) == 3, kind
            assert load(guest, kind, FAR) == 1, kind
        for kind, read in reads.items():
            assert read.changed_bytes() == 0, kind
    for kind, server in site.servers.items():
        assert server.seed() == 3, kind
        assert server.seed(FAR) == 1, kind


def test_outage(rig, kinds):
    """Servers that stop, all at once."""
    check_outage(Site(rig, kinds), "freeze")


@long
@pytest.mark.parametrize("kind", [*NBD, "iscsi", "nfs"])
def test_packets_lost(rig, kind):
    """The server's host has gone; its connection comes back."""
    network_kind(kind)
    check_outage(Site(rig, [kind]), "drop")


@long
@pytest.mark.parametrize("kind", KINDS)
def test_outage_in_iothread(rig, kind):
    """The same as test_outage, with the disk in an IOThread."""
    network_kind(kind)
    check_outage(Site(rig, [kind], iothread=True), "freeze")


def network_kind(kind):
    """Skip what the host has not."""
    try:
        network.need(*KINDS[kind].NEEDS)
    except network.NotHere as reason:
        pytest.skip(str(reason))


def refused(guest, command, **arguments):
    """Whether a command fails."""
    try:
        guest.qmp.command(command, **arguments)
    except QMPError:
        return True
    return False


def test_idle(rig, kinds):
    """Nothing is under way when the servers stop; commands need them.

    What opens a connection is refused; what closes one goes on in a thread.
    """
    site = Site(rig, kinds)
    guest = site.guest
    spare = [kind for kind in kinds if site.servers[kind].SHARED]
    for kind in spare:
        guest.qmp.command("blockdev-add", **{
            **site.servers[kind].blockdev(), "node-name": f"spare-{kind}",
            "read-only": True})
    site.hang()
    for kind, server in site.servers.items():
        with rig.alive(SILENCE):
            for query in "query-block", "query-named-block-nodes":
                guest.qmp.command(query)
            assert refused(guest, "blockdev-add", **{
                **server.blockdev(), "node-name": f"late-{kind}",
                "read-only": True}), kind
    for kind in spare:
        with rig.alive(SILENCE):
            # Closed, or refused because it would wait
            refused(guest, "blockdev-del", **{"node-name": f"spare-{kind}"})
    site.resume()
    site.all_work()
    for kind, server in site.servers.items():
        if not server.SHARED:
            continue
        wait_until(lambda s=server, k=kind: not refused(
            guest, "blockdev-add", **{**s.blockdev(), "read-only": True,
                                      "node-name": f"late-{k}"}),
            f"{kind} to be opened", LATEST)
        guest.qmp.command("blockdev-del", **{"node-name": f"late-{kind}"})


class Resize(threading.Thread):
    """block_resize of a disk's node, on its way."""

    def __init__(self, guest, kind):
        super().__init__(daemon=True)
        self.guest, self.kind = guest, kind
        self.refused = None                 # set at its end
        self.start()

    def run(self):
        self.refused = refused(
            self.guest, "block_resize", size=network.SIZE + (1 << 20),
            **{"node-name": f"node-{self.kind}"})

    def wait(self):
        """Wait for its end."""
        wait_until(lambda: not self.is_alive(), f"{self.kind}'s resize",
                   LATEST)


def test_resize(rig, kinds):
    """Idle servers hang, and a disk is to be another size.

    It is refused, or waits for the server; guest and monitor run on.
    """
    site = Site(rig, kinds)
    guest, done = site.guest, []
    site.hang()
    for kind, server in site.servers.items():
        with rig.alive(SILENCE):
            resize = Resize(guest, kind)
            if kind in RESIZE_WAITS:
                # Others go on; the disk itself takes nothing until it is over
                assert all(load(guest, other) == 1 for other in done)
                assert resize.is_alive(), kind
            else:
                resize.wait()
                assert resize.refused, kind
                assert_timed_out(guest.io(kind, "read").results(LATEST))
            server.resume()
        resize.wait()
        wait_until(lambda k=kind: site.works(k), f"{kind} to work again",
                   LATEST * 2)
        done.append(kind)


@pytest.mark.parametrize("kind", ["iscsi", "ssh"])
def test_resize_control(rig, kind):
    """Without cancel= everything waits for the server."""
    network_kind(kind)
    site = Site(rig, [kind], cancel=False)
    site.hang()
    site.guest.monitor.longest_stall()
    resize = Resize(site.guest, kind)
    wait_until(lambda: site.guest.monitor.silent_for() > SILENCE,
               "the monitor to fall silent", LATEST)
    assert resize.is_alive()
    site.resume()
    resize.wait()
    site.all_work()


@long
def test_quit_idle(rig, kinds):
    """QEMU ends though no server answers.

    But for NBD: its flush always goes to the server, and is waited for.
    """
    site = Site(rig, [kind for kind in kinds if kind not in NBD])
    site.hang()
    begun = time.monotonic()
    site.guest.qmp.command("quit")
    assert site.guest.wait_exit(LATEST) == 0
    # Not because they have been resumed meanwhile
    assert time.monotonic() - begun < LATEST


@long
def test_reset(rig, kinds):
    """The machine is reset, and its guest boots again."""
    site = Site(rig, kinds)
    guest = site.guest
    guest.allow_reboot()
    site.hang()
    requests = site.on_each("write", seed=2)
    for kind in kinds:
        wait_until(lambda k=kind: guest.in_flight(k), f"{kind}'s write")
    guest.qmp.command("system_reset")
    guest.wait_rebooted()
    del requests
    site.resume()
    guest.forget_disks()
    guest.load_driver(io_timeout=IO_TIMEOUT)
    site.all_work()
    for kind in kinds:
        assert load(guest, kind, FAR) == 1, kind


@long
def test_part_of_a_cluster(rig):
    """One of two OSDs stops: what the other holds works all the time."""
    network_kind("rbd")
    site = Site(rig, ["rbd"])
    guest, cluster = site.guest, site.servers["rbd"]
    offsets = range(0, network.SIZE, network.SIZE // 64)
    for offset in offsets:
        assert_fine([guest.io("rbd", "write", offset, seed=4).result()])
    assert_fine([guest.io("rbd", "fsync").result()])
    with rig.alive():
        cluster.freeze_half()
        sound = None
        for _ in range(4):
            reads = [(offset, guest.io("rbd", "read", offset))
                     for offset in offsets]
            fine = [offset for offset, read in reads
                    if not read.result(LATEST).errno]
            sound = sound or fine
            assert fine and fine == sound
        cluster.resume()
        site.all_work()


@long
def test_job(rig):
    """A backup asks which objects there are while the cluster hangs."""
    network_kind("rbd")
    site = Site(rig, ["rbd"])
    guest, cluster = site.guest, site.servers["rbd"]
    with rig.alive():
        guest.qmp.command("blockdev-add", **{
            "driver": "null-co", "node-name": "target", "size": network.SIZE})
        cluster.freeze()
        guest.qmp.command("blockdev-backup", **{
            "job-id": "job", "device": "node-rbd", "target": "target",
            "sync": "full"})
        assert_timed_out(guest.io("rbd", "read").results(LATEST))
        guest.qmp.command("block-job-cancel", device="job", force=True)
        cluster.resume()
        wait_until(lambda: not guest.qmp.command("query-block-jobs"),
                   "the job to end")


@pytest.mark.usefixtures("need_fuse")
@pytest.mark.parametrize("aio", [pytest.param("native"),
                                 pytest.param("threads", marks=long),
                                 pytest.param("io_uring", marks=long)])
def test_storage_daemon(rig, build, aio):
    """A file of its that hangs leaves its other export and its monitor alone.

    More requests than it takes to block what submits them.
    """
    server = rig.network(
        "qsd", lambda directory, logs: network.StorageDaemon(
            build, directory, logs, aio))
    guest = rig.boot(Disk("disk", server.blockdev()),
                     Disk("other", server.blockdev("other")),
                     io_timeout=IO_TIMEOUT)
    store(guest, "disk", seed=1, count=32)
    monitor = QMP(server.monitor)
    with rig.alive():
        server.freeze()
        assert_timed_out(guest.io("disk", "write", seed=2,
                                  count=32).results(LATEST))
        store(guest, "other", seed=5)
        assert load(guest, "other") == 5
        assert monitor.command("query-block-exports")
        server.resume()
        wait_until(lambda: not guest.io("disk", "read").result(LATEST).errno,
                   "the disk to work again")
    monitor.close()
