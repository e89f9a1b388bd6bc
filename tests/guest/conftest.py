# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the guest tests.

BUILD_DIR names the build directory. What a failed test leaves behind (the
guest's console, QEMU's messages and traces, the servers' logs) stays in
BUILD_DIR/guest-tests/logs/<test>.
"""

import re
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
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


@pytest.fixture
def rig(request, build):
    """An empty rig; whatever the test puts into it is taken down."""
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    with Rig(build, build.work / "logs" / name) as the_rig:
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
