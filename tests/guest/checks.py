# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test programs have in common."""

import errno

from harness.patterns import BLOCK, seed_at

# Seconds. Short, because most tests wait for it.
IO_TIMEOUT = 3

# By when a timed-out request must be back at the latest. The block layer
# rounds its timer up by about 1.2 s; the rest is for a busy machine. The
# storage stays silent for longer: it is resumed only after that.
LATEST = 40


def assert_timed_out(results, io_timeout=IO_TIMEOUT):
    """Every request ended with ETIMEDOUT, not before its time."""
    for result in results:
        assert result.errno == errno.ETIMEDOUT, result
        assert result.seconds > io_timeout * 0.9, result


def assert_fine(results, seed=None):
    """Every request succeeded; reads and writes with this seed's data."""
    for result in results:
        assert result.errno == 0, result
        if seed is not None:
            assert result.seed == seed, result


def store(guest, disk, seed, offset=0, count=1):
    """Write blocks durably; on return they are acknowledged."""
    results = guest.io(disk, "write", offset, count=count,
                       seed=seed).results()
    results += guest.io(disk, "fsync").results()
    assert_fine(results)


def load(guest, disk, offset=0):
    """Read one block; return the seed that it was written with."""
    result = guest.io(disk, "read", offset).result()
    assert_fine([result])
    return result.seed


def seeds(image, offset=0, count=1):
    """The seeds in an image's blocks, as the host sees them, as a set."""
    return {seed_at(image, offset + i * BLOCK) for i in range(count)}
