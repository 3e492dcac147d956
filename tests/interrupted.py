"""Ctrl-C, as a terminal sends it: to all processes of a command."""

import os
import signal
import time

import psutil

PATIENCE = 60
"""Seconds in which the others notice, on a busy machine, that the first process has ended."""


def interrupt_when(process, happened):
    """Interrupt a process that `shop.start` has started, once something has happened.

    Returns:
        Its exit code, what it has printed on stderr, and the commands of its processes that do not end with it.
    """
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate()
    latest = time.monotonic() + PATIENCE
    while (left := session(process.pid)) and time.monotonic() < latest:
        time.sleep(0.01)
    return process.returncode, told, left


def session(leader):
    """The commands of the processes of a session that have not ended."""
    found = []
    for one in psutil.process_iter():
        try:
            if os.getsid(one.pid) == leader and one.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(one.cmdline()))
        except (psutil.Error, ProcessLookupError):  # it has just ended
            continue
    return [command for command in found if command]  # one that ends has none


def spawned(process):
    """Whether a process has started another by `multiprocessing`, Python's tracker of shared memory aside."""
    return any("spawn_main" in command for command in session(process.pid))
