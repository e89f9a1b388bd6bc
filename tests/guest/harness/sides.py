# SPDX-License-Identifier: GPL-2.0-or-later
"""The same script on two machines, with cancel=off and with cancel=on, and
what was worse with it."""

import threading
import time
from dataclasses import dataclass, field

from .guest import GuestGone, Heartbeat
from .patterns import BLOCK
from .process import Timeout, wait_until
from .qmp import QMPError

# The rule by which on is worse than off:
#
# - What works with off works with on. "Works" means: it was done within LIMIT,
#   while the storage stayed as it was.
# - QEMU does not end with on, and what the guest asked for comes back, where
#   that is so with off.
# - The guest sees no more errors, except those that are due where the storage
#   fails, and ETIMEDOUT where it hangs: its driver was told to ask for that.
# - Times decide only where they are far off, because this may be a machine
#   with other work: three times those of off, and more than a floor. That of a
#   command is twice what it may take until it is found that storage hangs.
#   Storage that is slow adds twice what it takes for a request, because one may
#   be under way or not.
LIMIT = 25
FACTOR = 3
SLOW_COMMAND = 10
SILENCE = 6
SLOW_REQUEST = 15

# What guest-io reads where nothing was written
NOTHING = -1

# After the storage was let go; a busy machine needs some of it.
RECOVERY = 90


@dataclass
class Outcome:
    """One step of the script on one side; times in seconds."""

    verdict: str        # works, refused, fails, frozen, stuck, gone
    seconds: float
    gap: float = 0      # the longest of a vCPU's heartbeat
    stall: float = 0    # the longest of the monitor's
    slowest: float = 0  # the guest's slowest request where nothing hangs
    errors: list = field(default_factory=list)      # what the guest was told
    said: str = ""      # what QEMU answered

    def __str__(self):
        return (f"{self.verdict:8}{self.seconds:6.1f}{self.gap:6.1f}"
                f"{self.stall:6.1f}{self.slowest:6.1f}{len(self.errors):4}")


def worse(off, on, latency=0):
    """In what ways one outcome is worse than the other; a list.

    latency is what the storage takes for its slowest request, in seconds.
    """
    found = []
    if off.verdict == "works" != on.verdict:
        found.append(f"{on.verdict}: {on.said}")
    elif on.verdict in ("gone", "stuck") and off.verdict != on.verdict:
        found.append(f"{on.verdict}: {on.said}")
    if len(on.errors) > len(off.errors):
        found.append(f"errors in the guest: {on.errors[:3]}")
    times = [("gap", SILENCE), ("stall", SILENCE), ("slowest", SLOW_REQUEST)]
    if off.verdict == on.verdict == "works":
        times.append(("seconds", SLOW_COMMAND))
    for name, floor in times:
        limit = FACTOR * getattr(off, name) + floor + 2 * latency
        if getattr(on, name) > limit:
            found.append(f"{name} {getattr(on, name):.1f} > {limit:.1f}")
    return found


class Load(threading.Thread):
    """Writes blocks of a disk, reads them back, flushes at times.

    Some at once where requests are answered, one where they hang. Errors of the
    name that is due do not count, nor do times where it is ETIMEDOUT.

    What it has belongs to its thread until it has been stopped, but for errors,
    which only grow, and what says otherwise.
    """

    DEPTH = 8
    COUNT = 32

    def __init__(self, guest, disk, first, due=None):
        super().__init__(daemon=True)
        self.disk = disk
        self.errors = []        # (operation, name of the error)
        self.slowest = 0.0      # taken and reset by take_slowest(); see there
        self.turns = 0          # written by its thread
        self._guest = guest
        self.first = first
        self.due = due
        self.hangs = due == "ETIMEDOUT"
        self._depth = 1 if self.hangs else self.DEPTH
        self._may_hold = {}     # offset: what seeds may be there
        self._stopping = threading.Event()
        self._begun = None      # when the present request was issued
        self.start()

    def run(self):
        while not self._stopping.is_set():
            try:
                self._turn(self.turns + 1,
                           self.turns % (self.COUNT // self._depth))
            except (GuestGone, OSError):
                return
            self.turns += 1

    def _turn(self, seed, place):
        offset = self.first + place * self._depth * BLOCK
        for write in self._io("write", offset, seed):
            if write.errno:
                self._may_hold.setdefault(write.offset, {NOTHING}).add(seed)
            else:
                self._may_hold[write.offset] = {seed}
        self._check(offset)
        if seed % 4 == 0:
            self._io("fsync")

    def _check(self, offset):
        for read in self._io("read", offset):
            expected = self._may_hold.get(read.offset, {NOTHING})
            if not read.errno and read.seed not in expected:
                self.errors.append(("read", f"{read.seed} not in {expected}"))

    def _io(self, op, offset=0, seed=0):
        """Requests at once; their results."""
        self._begun = time.monotonic()
        results = self._guest.io(
            self.disk, op, offset, seed=seed,
            count=1 if op == "fsync" else self._depth).results(900)
        self._begun = None
        for result in results:
            self.slowest = max(self.slowest, result.seconds)
            if result.errno and result.error != self.due:
                self.errors.append((op, result.error))
        return results

    def take_slowest(self):
        """Seconds of the slowest request since the last call; that of one that
        ends just now may be missed, or count twice."""
        longest, self.slowest = self.slowest, 0.0
        return 0 if self.hangs else max(longest, self.waits())

    def waits(self):
        """For how many seconds the present requests have been out."""
        begun = self._begun
        return time.monotonic() - begun if begun else 0

    def wait_turn(self):
        """Wait until what was begun after this call has ended."""
        before = self.turns
        wait_until(lambda: self.turns > before + 1, "the guest's load", LIMIT)

    def stop(self):
        """No more after the present request."""
        self._stopping.set()

    def verify(self):
        """When it has ended: what was acknowledged is there."""
        for place in range(self.COUNT // self._depth):
            self._check(self.first + place * self._depth * BLOCK)


class Step(threading.Thread):
    """One step of the script, in a thread, because it may hang."""

    def __init__(self, action):
        super().__init__(daemon=True)
        self._action = action
        self.verdict, self.said = "works", ""
        self.start()

    def run(self):
        try:
            self._action()
        except QMPError as error:
            self.said = str(error)
            self.verdict = ("refused" if "storage that hangs" in self.said
                            else "gone" if "monitor is gone" in self.said
                            else "fails")
        except (GuestGone, OSError) as error:
            self.verdict, self.said = "gone", repr(error)
        except (Timeout, RuntimeError, AssertionError) as error:
            self.verdict, self.said = "fails", str(error)


class Side:
    """One of the two machines: a guest, its storage, and its load.

    weather(True) has the storage do what this is about, weather(False) lets it
    work; held() is how many requests it holds.
    """

    def __init__(self, rig, guest, cancel, weather, held):
        self.rig, self.guest, self.cancel = rig, guest, cancel
        self.held = held
        self.outcomes = {}          # by the names of the steps
        self.loads = []
        self.weather = weather
        self._heart = None

    def load(self, *places):
        """Start the guest's load: (disk, first offset, error that is due)."""
        for place in places:
            self.guest.disk(place[0])
        self._heart = Heartbeat(self.guest)
        self.loads = [Load(self.guest, *place) for place in places]

    def load_elsewhere(self):
        """The load begins again, where nothing has been written."""
        self.load(*[(load.disk, load.first + load.COUNT * BLOCK, load.due)
                    for load in self.loads])
        self.begin()

    def begin(self):
        """From now on the storage does what this is about.

        What is to hang hangs on return, on both sides alike.
        """
        self.weather(True)
        if any(load.hangs and load.is_alive() for load in self.loads):
            wait_until(self.held, "requests to hang")

    def unload(self):
        """End the load, with the storage as it should be; see that what was
        written is there."""
        self.weather(False)
        for load in self.loads:
            load.stop()
        for load in self.loads:
            load.join(RECOVERY)
            if load.is_alive():
                raise Timeout(f"a request to {load.disk} was lost")
            load.verify()

    def _errors(self):
        return [error for load in self.loads for error in load.errors]

    def _take_times(self):
        gap = 0
        if self._heart and self.guest.ended() is None:
            try:
                gap = self._heart.longest_gap()
            except Timeout:
                gap = RECOVERY          # and it has not ended
        return {"gap": gap, "stall": self.guest.monitor.longest_stall(),
                "slowest": max((load.take_slowest() for load in self.loads),
                               default=0)}

    def attempt(self, name, action, limit=LIMIT):
        """Do one step; the storage is let go where it takes too long.

        Returns: whether there is any point in going on.
        """
        if self._is_over():
            return False
        self._take_times()
        before, begun = len(self._errors()), time.monotonic()
        step = Step(lambda: action(self))
        step.join(limit)
        froze = step.is_alive()
        if froze:
            self.weather(False)
            step.join(RECOVERY)
        verdict = ("stuck" if step.is_alive() else
                   step.verdict if step.verdict == "gone" or not froze
                   else "frozen")
        outcome = self.outcomes[name] = Outcome(
            verdict, time.monotonic() - begun, said=step.said)
        if verdict in ("gone", "stuck"):
            return False
        for key, value in self._take_times().items():
            setattr(outcome, key, value)
        outcome.errors = self._errors()[before:]
        if froze and self.guest.ended() is None:
            self.begin()
        return True

    def _is_over(self):
        return any(outcome.verdict in ("gone", "stuck")
                   for outcome in self.outcomes.values())

    def reboot(self, driver, timeout):
        """Reset the machine, and its load with it; it begins again after."""
        self.guest.forget_calls()
        self.guest.allow_reboot()
        self.guest.qmp.command("system_reset")
        self.guest.wait_rebooted(timeout)
        self.guest.load_driver(**driver)
        self.load_elsewhere()

    def shut_down(self, timeout):
        """Have the guest switch itself off, and QEMU end."""
        self.guest.start("poweroff -f")
        wait_until(lambda: self.guest.ended() is not None, "QEMU to end",
                   timeout)
        status = self.guest.ended()
        if status:
            raise GuestGone(f"exit status {status}")


def run(sides, script):
    """The script on both sides at the same time, so that both find the machine
    as busy."""
    def run_one(side):
        for name, action, *limit in script:
            if not side.attempt(name, action, *limit):
                return
    threads = [threading.Thread(target=run_one, args=(side,), daemon=True)
               for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def table(title, off, on):
    """What became of each step, side by side, as lines."""
    head = f"{'':8}{'time':>6}{'gap':>6}{'stall':>6}{'I/O':>6}{'err':>4}"
    lines = [title, f"  {'':22}{'cancel=off':38}{'cancel=on'}",
             f"  {'':22}{head:38}{head}"]
    for name in dict.fromkeys([*off, *on]):
        cells = [str(side.get(name, "")) for side in (off, on)]
        lines.append(f"  {name:22}{cells[0]:38}{cells[1]}".rstrip())
    for way, side in (("off", off), ("on", on)):
        lines += [f"  {way}, {name}: {outcome.said}{outcome.errors[:3] or ''}"
                  for name, outcome in side.items()
                  if outcome.said or outcome.errors]
    return lines


SUMMARY = (f"{'':32}{'cancel=off':34}cancel=on\n{'':32}" +
           f"{'works':8}{'time':>6}{'gap':>6}{'stall':>6} err   " * 2).rstrip()


def summary(title, off, on):
    """The same in one line, below SUMMARY."""
    line = f"{title:32}"
    for side in (off, on):
        works = sum(outcome.verdict == "works" for outcome in side.values())
        line += f"{works:>2}/{len(side):<5}"
        for name in ("seconds", "gap", "stall"):
            line += f"{max(getattr(o, name) for o in side.values()):6.1f}"
        line += f"{sum(len(o.errors) for o in side.values()):4}   "
    return line.rstrip()
