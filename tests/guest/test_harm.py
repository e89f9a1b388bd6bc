# SPDX-License-Identifier: GPL-2.0-or-later
"""No harm: whatever works with cancel=off works with cancel=on.

The same script of commands, with the guest reading, writing and flushing all the
time, on two machines that differ in nothing but that, on storage that is slow,
hangs in part, fails, or hangs while nobody uses it. When on is worse than off
the test fails; harness/sides.py has the rule. make check-harm tries all storage,
and what is in check_harm.py; otherwise it is a few.
"""

import errno

import pytest

import harm
from harm import ALL, FROZEN, HALF, HANGS, UPPER, Storage, slow
from harness import sides

pytestmark = pytest.mark.usefixtures("need_fuse")

STORAGE = {
    "healthy": Storage(),
    "slow, 0.1 s": slow(0.1),
    "slow, 1 s": slow(1),
    "slow, 2 s": slow(2),
    "slow flush, 7 s": slow(7, "f"),
    "slow discard, 20 s": slow(20, "d"),
    # With threads FUSE would have all writes wait for one
    "half hangs": Storage([("rwdz", *UPPER, "hold")],
                          loads=(("disk", 0), ("other", 0),
                                 ("disk", HALF, "ETIMEDOUT")),
                          driver={"io_timeout": HANGS}, limit=FROZEN,
                          aios=("io_uring", "native")),
    "half fails": Storage([("rwdz", *UPPER, "fail", errno.EIO)],
                          loads=(("disk", 0), ("other", 0),
                                 ("disk", HALF, "EIO")),
                          driver={"io_timeout": 5}),
    "idle, and hangs": Storage([], everything=True, loads=(("other", 0),),
                               driver={"io_timeout": HANGS}, limit=FROZEN),
}
SHORT = ("healthy", "slow, 1 s", "half hangs")


def script(storage):
    """The steps, in an order in which one that fails leaves the next alone."""
    some = [("query", harm.query), ("stop, cont", harm.stop), ("node", harm.add_node),
            ("device", harm.plug_device), ("backup, cancel", harm.backup),
            ("migrate to file", harm.migrate)]
    more = [("disk", harm.plug_disk), ("discard", harm.discard),
            ("mirror, cancel", harm.mirror), ("resize", harm.resize),
            ("stop again", harm.stop),
            ("system_reset", harm.reset(storage.driver),
             150 if storage.limit == sides.LIMIT else 60),
            ("snapshot, commit", harm.snapshot)]
    ends = [("data", harm.verify, 150), ("guest's shutdown", harm.shut_down)]
    steps = some + (more if ALL or not storage.rules else []) + ends
    return [(name, action, *(limit or [storage.limit]))
            for name, action, *limit in steps]


@pytest.mark.parametrize("name, aio", [
    (name, aio) for name in (STORAGE if ALL else SHORT)
    for aio in STORAGE[name].aios[:None if ALL else 1]])
def test_storage(two_rigs, report, name, aio):
    """One kind of storage."""
    storage = STORAGE[name]
    off, on = harm.boot_both(two_rigs, storage, aio)
    sides.run((off, on), script(storage))
    harm.compare(f"{name} ({aio})", off, on, report, storage.latency)
