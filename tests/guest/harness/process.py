# SPDX-License-Identifier: GPL-2.0-or-later
"""Child processes that never outlive us, and waiting for conditions."""

import contextlib
import subprocess
import time


class Timeout(Exception):
    """A condition did not come true in time."""


def wait_until(condition, what, timeout=60, interval=0.02):
    """Poll until condition() is true, and return its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Timeout(f"waited {timeout} s for {what}")
        time.sleep(interval)


def run(*command, timeout=60, **options):
    """The output of a command that works."""
    done = subprocess.run([str(word) for word in command], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          encoding="utf-8", timeout=timeout, **options)
    if done.returncode:
        raise RuntimeError(f"{command}: exit status {done.returncode}\n"
                           f"{done.stdout}{done.stderr}")
    return done.stdout.strip()


def spawn(argv, log, death_signal="KILL"):
    """Start a program that gets a signal if we die, however that happens.

    To be called from the main thread: the kernel ties the signal to the thread
    that forks.
    """
    command = ["setpriv", "--pdeathsig", death_signal, "--"]
    with open(log, "wb") as output:
        return subprocess.Popen(
            command + [str(arg) for arg in argv], stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def terminate(process, grace=10):
    """Ask a program to end, insist, and reap it."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    kill(process)


def kill(process):
    """Kill a program and reap it."""
    if process.poll() is None:
        process.kill()
    process.wait(60)
