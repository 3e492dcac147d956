"""Ids of items and users as a caller gives them: text, or whole numbers where the data's ids are numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, TypeAlias, TypeVar

from llmrec.errors import InvalidRequestError

Id: TypeAlias = str | int
"""An id; the number 50 is the id "50"."""
Row = TypeVar("Row")
Read = TypeVar("Read")


def as_id(value: Any, what: str) -> str:
    """Return an id as the run writes it.

    Args:
        value: text, or a whole number (NumPy's too).
        what: where the id was given, for the message.

    Raises:
        InvalidRequestError: the value is neither.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    raise InvalidRequestError(f"{what}: an id is text or a whole number, not {value!r:.60}")


def as_ids(values: Iterable[Any], what: str) -> list[str]:
    """Return a list of ids as the run writes them.

    Args:
        values: a list, tuple, array or series of ids.
        what: where the ids were given, for the message.

    Raises:
        InvalidRequestError: a single id where a list was expected, or something that is not an id.
    """
    if not _is_list(values):
        raise InvalidRequestError(f"{what}: expected a list of ids, found {values!r:.60}")
    return [as_id(value, what) for value in values]


def as_rows(
    rows: Sequence[Iterable[Any] | None] | None, count: int, what: str
) -> list[list[str] | None] | None:
    """Return one list of ids for each of `count` histories; None if no lists are given.

    Where one list was given for many histories, one list comes back for all of them.

    Raises:
        InvalidRequestError: not one list a history, or something that is not a list of ids.
    """
    if rows is None:
        return None
    if not _is_list(rows) or len(rows) != count:
        given = f"{len(rows)}" if _is_list(rows) else f"{rows!r:.60}"
        raise InvalidRequestError(f"{what}: expected a list for each of {count} histories, found {given}")
    return read_once(rows, lambda row: as_ids(row, what))


def read_once(rows: Iterable[Row | None], read: Callable[[Row], Read]) -> list[Read | None]:
    """What a function makes of each row that is there; rows that are one object are read once, and share it."""
    held = list(rows)  # an array makes a row anew each time that it is asked for
    distinct = {id(row): row for row in held if row is not None}
    found = {key: read(row) for key, row in distinct.items()}
    return [None if row is None else found[id(row)] for row in held]


def check_not_empty(history: Sequence[str]) -> None:
    """Raise an InvalidRequestError if a history has no item."""
    if not history:
        raise InvalidRequestError("the history is empty: give at least one item id")


def has_rows(values: Iterable[Any]) -> bool:
    """Whether a list holds lists of ids, and not ids; an empty list holds neither."""
    return _is_list(values) and len(list(values)) > 0 and all(_is_list(value) for value in values)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)
