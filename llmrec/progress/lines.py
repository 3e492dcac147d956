"""Lines of progress of long work where stderr is no terminal, and so has no bars: a file, a pipe or a job's log."""

from __future__ import annotations

import sys
import time

from llmrec.progress.durations import format_duration

LINES = 10
"""Most lines of one piece of work whose length is known."""
FIRST_SECONDS = 5.0
"""Seconds of work before the first line: what is done sooner needs none."""
EARLY_SECONDS = 30.0
"""Seconds after which long work is told for the first time, before a tenth of it is done."""


class ProgressLines:
    """Prints how far a piece of work is, on stderr: at each tenth of it, and nothing on a terminal, which has bars.

    Of long work there is a line before the first tenth, so that its time is known soon. What is left is judged
    without the first unit, in which caches and kernels are made ready, as soon as there is a second.

    Work that may end early, such as a training that stops when validation no longer improves, is told after 1, 2, 4,
    8, … units instead: tenths of the most that it may take would come too late.

    Args:
        title: what is done.
        total: number of units; of work that may end early, the most.
        unit: name of a unit, such as `step`.
        may_end_early: whether the work may end before `total`.
    """

    def __init__(self, title: str, total: int, unit: str, may_end_early: bool = False) -> None:
        self.title, self.total, self.unit, self.may_end_early = title, total, unit, may_end_early
        self.start()

    def start(self, done: int = 0) -> None:
        """Begin to measure time; `done` units were done before, by a training that goes on."""
        self._before, self._start, self._has_told = done, time.monotonic(), False
        self._first: tuple[int, float] | None = None
        self._next = 1 + (0 if self.may_end_early else self._tenths(done))

    def update(self, done: int, told: str = "") -> None:
        """Print a line if one is due.

        Args:
            done: number of units that are done.
            told: further words, such as the loss.
        """
        seconds = time.monotonic() - self._start
        reached = done if self.may_end_early else self._tenths(done)
        is_due = reached >= self._next or self.wants_first
        self.count(done)
        if sys.stderr.isatty() or not is_due or seconds < FIRST_SECONDS:
            return
        self._has_told = True
        self._next = 2 * reached if self.may_end_early else reached + 1
        most = "at most " if self.may_end_early else ""
        line = f"{self.title}: {self.unit} {done:,} of {most}{self.total:,}{', ' if told else ''}{told}"
        print(f"{line}{self._rest(done)}", file=sys.stderr, flush=True)

    def count(self, done: int) -> None:
        """Note how many units are done, without a line."""
        self._first = self._first or (done, time.monotonic())

    @property
    def wants_first(self) -> bool:
        """Whether the work is long and has been counted, and nothing of it has been told."""
        is_long = time.monotonic() - self._start >= EARLY_SECONDS
        return is_long and self._first is not None and not self._has_told

    def _tenths(self, done: int) -> int:
        return done * LINES // max(1, self.total)

    def _rest(self, done: int) -> str:
        """What is left of the work, in time."""
        before, since = self._before, self._start
        if self._first is not None and done > self._first[0]:
            before, since = self._first
        each = (time.monotonic() - since) / max(1, done - before)
        if self.may_end_early:
            return f"; {format_duration(each)} each"
        left = each * (self.total - done)
        return f"; {format_duration(left, is_estimate=True)} left" if done < self.total else ""
