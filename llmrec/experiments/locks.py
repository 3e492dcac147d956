"""Locks of files that end with the last process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

PAUSE = 0.2
"""Seconds between two looks at what another process does."""


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The sweep has been stopped: another of its trials failed, or the user interrupted it."""


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file, which is created if missing, and return it open; None if it is locked.

    Closing the file unlocks it, once the processes that inherited it have ended as well. A process that is killed
    unlocks it too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def wait_for_lock(path: Path, is_stopped: Callable[[], bool]) -> IO[str]:
    """Lock a file as soon as nobody else does.

    Raises:
        Stopped: `is_stopped` became true first.
    """
    while (file := try_lock(path)) is None:
        if is_stopped():
            raise Stopped
        time.sleep(PAUSE)
    return file
