# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage in the network, on one machine: real servers that can hang.

All of them run in a network of their own, which only this process and its
children see, at their usual ports: enter() it first.
"""

import ctypes
import os
import shutil
import signal
import uuid
from contextlib import suppress
from pathlib import Path

from . import process
from .patterns import BLOCK, seed_at
from .process import run
from .servers import HoldFs, make_image

SIZE = 256 << 20
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000


class NotHere(Exception):
    """What the host lacks."""


def enter():
    """From now on this process has a network, and a /run, of its own."""
    if os.geteuid():
        raise NotHere("a network of its own needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
        raise NotHere("no network of its own: "
                      + os.strerror(ctypes.get_errno()))
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "none", "/run")
    run("ip", "link", "set", "lo", "up")
    # Names are looked up for whoever has another address than 127.0.0.1.
    run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")


def need(*programs):
    """Raise NotHere if a program is missing."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for program in programs:
        if not shutil.which(program, path=path):
            raise NotHere(f"there is no {program}: run "
                          "scripts/install-deps --storage")


def listens(port):
    """Whether somebody listens at a port."""
    sockets = [line.split() for name in ("tcp", "tcp6")
               for line in Path("/proc/net", name).read_text().splitlines()]
    return any(words[1].endswith(f":{port:04X}") and words[3] == "0A"
               for words in sockets)


def descendants(pid):
    """A process, and whatever it has started."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(
                int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


class Server:
    """One or more processes, one of which serves a disk."""

    PORT = None
    NEEDS = ()
    # A node can be opened twice, by writers that do not know of each other
    SHARED = True

    def __init__(self, directory, logs):
        need(*self.NEEDS)
        self.directory = directory
        self.logs = logs
        self._processes = []
        self._stopped = []
        self._dropped = False
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        """Start it; on return it serves."""
        raise NotImplementedError

    def spawn(self, name, *command):
        """Start one process of it."""
        child = process.spawn(command, self.logs / f"{name}.log")
        self._processes.append(child)
        return child

    def wait_for(self, condition, what):
        """Wait until the server has come so far."""
        def reached():
            for child in self._processes:
                if child.poll() is not None:
                    raise RuntimeError(f"{child.args} ended: see its log")
            return condition()
        process.wait_until(reached, what)

    def objects(self):
        """What the block node refers to, of QEMU's -object."""
        return []

    def seed(self, offset=0):
        """The seed of a block, as the server has it."""
        return seed_at(self.directory / "disk", offset)

    def hung(self):
        """The processes that are to be stopped."""
        return self._processes

    def freeze(self):
        """The server stops answering."""
        for child in self.hung():
            for pid in descendants(child.pid):
                os.kill(pid, signal.SIGSTOP)
                self._stopped.append(pid)

    def drop(self):
        """Its packets get lost."""
        for side in "dport", "sport":
            run("iptables", "-I", "INPUT", "-i", "lo", "-p", "tcp",
                f"--{side}", self.PORT, "-j", "DROP")
        self._dropped = True

    def resume(self):
        """Undo freeze() or drop()."""
        for pid in self._stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped = []
        if self._dropped:
            run("iptables", "-F", "INPUT")
            self._dropped = False

    release = resume

    def close(self):
        """End it."""
        self.resume()
        for child in reversed(self._processes):
            for pid in descendants(child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill(child)


class TcpNbd(Server):
    """nbdkit."""

    PORT = 10809
    NEEDS = ("nbdkit", "iptables")

    def start(self):
        image = make_image(self.directory / "disk", SIZE)
        self.spawn("nbdkit", "nbdkit", "-f", "-t", "64", "-i", "127.0.0.1",
                   "-p", self.PORT, *self.options(), "file", image)
        self.wait_for(lambda: listens(self.PORT), "nbdkit")

    def options(self):
        """nbdkit's options besides."""
        return ()

    def blockdev(self):
        """QEMU's block node."""
        return {"driver": "nbd", "server": {
            "type": "inet", "host": "127.0.0.1", "port": str(self.PORT)}}


class TlsNbd(TcpNbd):
    """nbdkit, which speaks TLS only; both sides know a key."""

    PORT = 10810
    KEY = "qemu:0123456789abcdef0123456789abcdef"

    def options(self):
        keys = self.directory / "keys.psk"
        keys.write_text(f"{self.KEY}\n")
        return "--tls=require", f"--tls-psk={keys}"

    def objects(self):
        return [{"qom-type": "tls-creds-psk", "id": "tls", "username": "qemu",
                 "dir": str(self.directory), "endpoint": "client"}]

    def blockdev(self):
        return {**super().blockdev(), "tls-creds": "tls"}


class Iscsi(Server):
    """tgt, which needs no help of the kernel's."""

    PORT = 3260
    NEEDS = ("tgtd", "tgtadm", "iptables")
    TARGET = "iqn.2026-11.example:disk"

    def start(self):
        image = make_image(self.directory / "disk", SIZE)
        control = f"TGT_IPC_SOCKET={self.directory / 'tgtd'}"
        self.spawn("tgtd", "env", control, "tgtd", "-f", "--iscsi",
                   f"portal=127.0.0.1:{self.PORT}")
        self.wait_for(lambda: listens(self.PORT), "tgtd")

        def admin(mode, operation, *options):
            run("env", control, "tgtadm", "--lld", "iscsi", "--mode", mode,
                "--op", operation, "--tid", 1, *options)
        admin("target", "new", "-T", self.TARGET)
        admin("logicalunit", "new", "--lun", 1, "-b", image)
        admin("target", "bind", "-I", "ALL")

    def blockdev(self):
        """QEMU's block node."""
        return {"driver": "iscsi", "transport": "tcp",
                "portal": f"127.0.0.1:{self.PORT}",
                "target": self.TARGET, "lun": 1}


class Nfs(Server):
    """Ganesha, which needs no NFS in the kernel, and rpcbind."""

    PORT = 2049
    NEEDS = ("ganesha.nfsd", "rpcbind", "iptables")
    CONF = """\
NFS_CORE_PARAM {{
    Bind_addr = 127.0.0.1; Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false;
}}
EXPORT {{
    Export_Id = 1; Path = {export}; Pseudo = /export; Access_Type = RW;
    Squash = None; SecType = sys; Protocols = 3; Transports = TCP;
    PrivilegedPort = false; FSAL {{ Name = VFS; }}
}}
"""

    def start(self):
        make_image(self.directory / "disk", SIZE)
        conf = self.directory / "ganesha.conf"
        conf.write_text(self.CONF.format(export=self.directory))
        for state in "/run/ganesha", "/var/lib/nfs/ganesha":
            Path(state).mkdir(parents=True, exist_ok=True)
        self.spawn("rpcbind", "rpcbind", "-f")
        self.wait_for(lambda: listens(111), "rpcbind")
        self.spawn("ganesha", "ganesha.nfsd", "-F", "-f", conf, "-L",
                   "/dev/stderr", "-p", self.directory / "pid")
        self.wait_for(lambda: listens(self.PORT), "Ganesha")

    def hung(self):
        return self._processes[1:]

    def blockdev(self):
        """QEMU's block node."""
        return {"driver": "nfs", "path": str(self.directory / "disk"),
                "server": {"type": "inet", "host": "127.0.0.1"}}


class Ssh(Server):
    """OpenSSH, with a key in an agent."""

    PORT = 22
    NEEDS = ("/usr/sbin/sshd", "ssh-keygen", "ssh-agent", "iptables")
    CONF = """\
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/key.pub
PermitRootLogin yes
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
PidFile none
"""

    def start(self):
        make_image(self.directory / "disk", SIZE)
        for key in "host", "key":
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                self.directory / key)
        conf = self.directory / "sshd_config"
        conf.write_text(self.CONF.format(directory=self.directory))
        Path("/run/sshd").mkdir(exist_ok=True)
        agent = self.directory / "agent"
        self.spawn("ssh-agent", "ssh-agent", "-D", "-a", agent)
        self.wait_for(agent.exists, "the agent")
        os.environ["SSH_AUTH_SOCK"] = str(agent)        # QEMU's, soon
        run("ssh-add", "-q", self.directory / "key")
        self.spawn("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", conf)
        self.wait_for(lambda: listens(self.PORT), "sshd")

    def hung(self):
        return self._processes[1:]

    def blockdev(self):
        """QEMU's block node."""
        return {"driver": "ssh", "user": "root",
                "path": str(self.directory / "disk"),
                "server": {"host": "127.0.0.1", "port": str(self.PORT)},
                "host-key-check": {"mode": "none"}}


class Ceph(Server):
    """A monitor and two OSDs, in memory.

    With one copy of each object a stopped OSD is a part of the disk that hangs.
    """

    NEEDS = ("ceph-mon", "ceph-osd", "ceph", "rbd", "monmaptool")
    SHARED = False
    # Nobody is to find out that an OSD has stopped, also by the lease of reads
    CONF = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:3300
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd heartbeat grace = 7200
mon allow pool size one = true
mon warn on pool no redundancy = false
run dir = {directory}
admin socket = {directory}/$name.$pid.asok
pid file = {directory}/$name.pid
log file = {directory}/$name.log
mon data = {directory}/mon
osd data = {directory}/osd$id
osd objectstore = memstore
memstore device bytes = 1073741824
osd class load list = *
osd class default list = *
"""

    def start(self):
        self.conf = self.directory / "ceph.conf"
        fsid = str(uuid.uuid4())
        self.conf.write_text(self.CONF.format(fsid=fsid,
                                              directory=self.directory))
        conf = ("-c", self.conf)
        (self.directory / "mon").mkdir()
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a",
            "[v2:127.0.0.1:3300]", self.directory / "monmap")
        run("ceph-mon", *conf, "--mkfs", "-i", "a", "--monmap",
            self.directory / "monmap")
        self.spawn("ceph-mon", "ceph-mon", "-f", *conf, "-i", "a")
        for number in range(2):
            osd = str(uuid.uuid4())
            run("ceph", *conf, "osd", "new", osd)
            (self.directory / f"osd{number}").mkdir()
            run("ceph-osd", *conf, "-i", number, "--mkfs", "--osd-uuid", osd)
            self.spawn(f"ceph-osd{number}", "ceph-osd", "-f", *conf, "-i",
                       number)
        run("ceph", *conf, "osd", "pool", "create", "rbd", 8, 8)
        run("ceph", *conf, "osd", "pool", "set", "rbd", "size", 1,
            "--yes-i-really-mean-it")
        run("rbd", *conf, "pool", "init", "rbd")
        run("rbd", *conf, "create", "--size", SIZE >> 20, "--image-feature",
            "layering,exclusive-lock,object-map,fast-diff", "disk")

    def hung(self):
        return self._processes[1:]

    def freeze_half(self):
        """Stop one of the two OSDs."""
        pid = self._processes[1].pid
        os.kill(pid, signal.SIGSTOP)
        self._stopped.append(pid)

    def drop(self):
        raise NotImplementedError("its ports are many")

    def blockdev(self):
        """QEMU's block node, without the library's cache of writes."""
        return {"driver": "rbd", "pool": "rbd", "image": "disk",
                "conf": str(self.conf), "cache": {"direct": True}}

    def seed(self, offset=0):
        copy = self.directory / "export"
        copy.unlink(missing_ok=True)
        run("rbd", "-c", self.conf, "export", "--no-progress", "disk", copy)
        return seed_at(copy, offset, BLOCK)


class StorageDaemon(Server):
    """A qemu-storage-daemon with a file that can hang, and one that cannot."""

    def __init__(self, build, directory, logs, aio, cancel=True):
        self._program = build.root / "qemu/storage-daemon/qemu-storage-daemon"
        self._aio = aio
        self._cancel = cancel
        self._held = HoldFs(build.prepare_hold_fs(), directory,
                            logs / "hold-fs.log")
        self.monitor = directory / "qsd-qmp"
        super().__init__(directory, logs)

    def start(self):
        option = ["cancel=on"] if self._cancel else []
        nodes = []
        for name, image in (("disk", self._held.path),
                            ("other", make_image(self.directory / "other"))):
            nodes += ["--blockdev",
                      f"file,node-name={name},filename={image},"
                      f"aio={self._aio},cache.direct=on"]
            nodes += ["--export", ",".join(
                [f"nbd,id={name},node-name={name},name={name},writable=on",
                 *option])]
        self.spawn("qsd", self._program, "--nbd-server",
                   f"addr.type=unix,addr.path={self.directory}/qsd,"
                   "max-connections=0", "--chardev",
                   f"socket,id=qmp,path={self.monitor},server=on,wait=off",
                   "--monitor", "chardev=qmp", *nodes)
        self.wait_for(self.monitor.exists, "qemu-storage-daemon")

    def blockdev(self, name="disk"):
        """QEMU's block node for one of the files."""
        return {"driver": "nbd", "export": name, "server": {
            "type": "unix", "path": f"{self.directory}/qsd"}}

    def freeze(self):
        self._held.pause()

    def resume(self):
        self._held.release()

    release = resume

    def seed(self, offset=0):
        return seed_at(self._held.image, offset)

    def close(self):
        super().close()
        self._held.close()
