"""Says on stderr how data was understood, and keeps every message about data to one short line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

from tqdm import tqdm

from llmrec.errors import shortened

LENGTH = 300
"""Longest message about data, in characters."""

_is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)


def short(text: str, length: int = LENGTH) -> str:
    """Return a text as one line of at most `length` characters; what is cut ends in `…`."""
    return shortened(" ".join(text.split()), length)


def listed(names: Iterable[object], length: int = 80) -> str:
    """Return names as a list in one short line."""
    return short(", ".join(map(str, names)), length)


def tell(where: object, text: str) -> None:
    """Print one line on stderr that starts with what it is about. A progress bar in use is not broken by it."""
    if not _is_quiet.get():
        tqdm.write(short(f"{where}: {text}"), file=sys.stderr)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Say nothing inside, for a file that is opened once more and has told about itself then."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)
