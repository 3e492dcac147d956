"""The lock of a run folder: one process writes at a time, and others are told which stage is running there."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llmrec import layout
from llmrec.errors import UnfinishedRunError, UserError
from llmrec.progress.durations import format_duration

LOCK = ".lock"
"""File of a run folder that is locked while a process writes the run; it names the stage, and since when it runs."""

_held: set[Path] = set()
"""Run folders that this process has locked."""


@dataclass(frozen=True)
class RunningStage:
    """What another process does in a run.

    Attributes:
        stage: name of the stage; None between two stages, and for commands that run none.
        since: when the stage started.
    """

    stage: str | None
    since: datetime | None

    def __str__(self) -> str:
        """Return words for a message, such as `the stage sft is running since 14:05 (12 min 3 s)`."""
        if self.stage is None or self.since is None:
            return "another llmrec process writes this run"
        seconds = (datetime.now().astimezone() - self.since).total_seconds()
        start = self.since.astimezone().strftime("%H:%M" if seconds < 12 * 3600 else "%Y-%m-%d %H:%M")
        return f"the stage {self.stage} is running since {start} ({format_duration(max(0.0, seconds))})"


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Lock a run folder inside the block, so that no second process writes to it.

    Raises:
        UserError: another process has the lock.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{run}: {_read(run)}; wait until it has ended, or use run=NAME") from None
        file.truncate(0)
        _held.add(run.resolve())
        try:
            yield
        finally:
            _held.discard(run.resolve())


def note_stage(run: Path, stage: str | None) -> None:
    """Write down for other processes which stage starts now in a run that this one has locked; None: none."""
    if run.resolve() in _held:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        (run / LOCK).write_text(f"{stage} {now}\n" if stage is not None else "", "utf-8")


def running_stage(run: Path) -> RunningStage | None:
    """Return what another process does in a run; None if no other process writes it."""
    if run.resolve() in _held:
        return None
    try:
        with (run / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(run)
    except OSError:  # no lock file, or a file system without locks
        pass
    return None


def unfinished(run: Path, stage: str = "sft") -> UnfinishedRunError:
    """Return the error for a run without a stage that is needed: what is running there, or what finishes it.

    Args:
        run: the run folder.
        stage: name of the stage that is not finished.
    """
    running = running_stage(run)
    if running is not None:
        return UnfinishedRunError(f"{run}: no finished {stage} stage yet: {running}; wait until it has ended")
    remedy = f"; {finish_command(run)} goes on where it stopped" if (run / layout.RECIPE).is_file() else ""
    return UnfinishedRunError(f"{run}: no finished {stage} stage there{remedy}")


def finish_command(run: Path) -> str:
    """Return the command that runs all stages of a run that are not done, as its own recipe has them."""
    name = layout.shown_name(run)
    folder = layout.runs_root() / name if name == run.name else run
    return shlex.join(["llmrec", "run", str(folder / layout.RECIPE), f"run={name}"])


def _read(run: Path) -> RunningStage:
    with contextlib.suppress(OSError, ValueError):
        stage, _, since = (run / LOCK).read_text("utf-8").strip().partition(" ")
        return RunningStage(stage, datetime.fromisoformat(since))
    return RunningStage(None, None)
