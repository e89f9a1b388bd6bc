# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the guest tests.

BUILD_DIR names the build directory. What a failed test leaves behind (the
guest's console, QEMU's messages and traces, the servers' logs) stays in
BUILD_DIR/guest-tests/logs/<test>.
"""

import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
from harness import sides
from harness.build import from_environment
from harness.rig import Rig
from harness.servers import why_no_fuse, why_no_loop


# Who stops us this way (meson, after a time-out) wants no processes left over.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Let fixtures see whether their test has passed."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.passed = report.passed


@pytest.fixture(scope="session")
def build():
    """The build directory, with helpers and initramfs in it."""
    return from_environment().prepare()


def log_directory(request, build):
    """Where a test's logs are."""
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    return build.work / "logs" / name


@pytest.fixture
def rig(request, build):
    """An empty rig; whatever the test puts into it is taken down."""
    with Rig(build, log_directory(request, build)) as the_rig:
        yield the_rig
        guest = the_rig.guest
        complaints = guest.complaints() if guest else []
        assert not complaints, f"the guest's kernel said: {complaints}"
        sound = getattr(request.node, "passed", False)
    if sound:
        the_rig.discard_logs()
    else:
        print(f"logs: {the_rig.logs}", file=sys.stderr)
        for log in sorted(the_rig.logs.glob("*.log")):
            tail = log.read_text("utf-8", "replace").splitlines()[-8:]
            print(f"--- {log.name}", *tail, sep="\n", file=sys.stderr)


@pytest.fixture
def need_fuse():
    """Skip where there is no FUSE, and say so."""
    reason = why_no_fuse()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def need_loop():
    """Skip where there are no loop devices, and say so."""
    reason = why_no_loop()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def the_guest(request, build):
    """A guest without disks, for all tests of a file."""
    with Rig(build, build.work / "logs" / request.module.__name__) as rig:
        yield rig.launch().wait_booted()


@pytest.fixture
def guest(the_guest):
    """The same, and whether its kernel has complained during this test."""
    before = len(the_guest.complaints())
    yield the_guest
    new = the_guest.complaints()[before:]
    assert not new, f"the guest's kernel said: {new}"


@pytest.fixture(scope="session")
def report(build):
    """What takes the table of two machines; they are in harm.txt, with a line
    for each at the end."""
    lines = [sides.SUMMARY]

    def write(name, off, on):
        print(*sides.table(name, off.outcomes, on.outcomes), "", sep="\n",
              file=file, flush=True)
        lines.append(sides.summary(name, off.outcomes, on.outcomes))
    with open(build.work / "harm.txt", "w", encoding="utf-8") as file:
        yield write
        print(*lines, sep="\n", file=file)


@pytest.fixture
def two_rigs(request, build):
    """One for off and one for on; what they leave stays if the test fails."""
    logs = log_directory(request, build)
    with ExitStack() as stack:
        rigs = [stack.enter_context(Rig(build, logs / way))
                for way in ("off", "on")]
        yield rigs
    if getattr(request.node, "passed", False):
        for rig in rigs:
            rig.discard_logs()
