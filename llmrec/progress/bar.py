"""How far a piece of work is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar, cast

from tqdm import tqdm

from llmrec.progress.lines import ProgressLines

Value = TypeVar("Value")

DELAY = 1.0
"""Seconds of work before a bar is shown."""
UPDATES = 1000
"""How often `follow` counts: an update costs as much as the work on a short text."""


_with_lines: list[object] = []
"""The work that prints lines now, if any; nested work prints none."""


@contextlib.contextmanager
def without_lines() -> Iterator[None]:
    """Work in the block prints no lines: it is a part of work that prints its own, such as a training."""
    part = object()
    _with_lines.append(part)
    try:
        yield
    finally:
        _with_lines.remove(part)


class Progress:
    """Shows how far a piece of work is while the block inside it runs.

    On a terminal it is a bar, which goes when the work ends. Elsewhere it is lines (`ProgressLines`). Work
    that is done in one go has none, and of nested pieces of work only the outermost with more than one unit has any.

    Args:
        title: what is done.
        total: number of units; of work that may end early, the most.
        unit: name of a unit, such as `user`.
        may_end_early: whether the work may end before `total`.
        has_lines: whether lines are printed where there is no bar.
    """

    def __init__(
        self, title: str, total: int, unit: str, may_end_early: bool = False, has_lines: bool = True
    ) -> None:
        self.total, self.done = total, 0
        self._lines = ProgressLines(title, total, unit, may_end_early)
        self._may_print, self._prints = has_lines and total > 1, False
        units = unit if unit.isupper() else f"{unit}s"
        self._bar = tqdm(total=total, desc=title, unit=f" {units}", leave=False, delay=DELAY, disable=None)

    def __enter__(self) -> Progress:
        self._prints = self._may_print and not _with_lines
        if self._prints:
            _with_lines.append(self)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._prints:
            _with_lines.remove(self)

    def rename(self, title: str) -> None:
        """Give the bar another title, for the next part of the work."""
        self._bar.set_description(title)

    def update(self, more: int = 1, told: str = "") -> None:
        """Count units as done.

        Args:
            more: number of units.
            told: further words, such as the loss.
        """
        self.done += more
        if told:
            self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(more)
        if self._prints and more < self.total:
            self._lines.update(self.done, told)


def follow(values: Iterable[Value], title: str, unit: str, total: int | None = None) -> Iterator[Value]:
    """Yield values, and show how many are done; see `Progress`.

    Args:
        values: what is worked on.
        title: what is done.
        unit: name of a value, such as `user`.
        total: number of values; None for the length of `values`.
    """
    if total is None:
        total = len(cast(Sized, values))
    often = max(1, total // UPDATES)
    with Progress(title, total, unit) as progress:
        for number, value in enumerate(values, 1):
            yield value
            if number % often == 0:
                progress.update(often)
