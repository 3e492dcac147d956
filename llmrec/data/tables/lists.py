"""Rows that hold lists: objects in a list, and lines of ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from llmrec.errors import UserError

Row = dict[str, Any]


def nested_rows(path: Path, rows: Iterable[Row], wanted: Collection[str]) -> Iterator[Row]:
    """Yield one row for each object of a list, if wanted columns are fields of such objects.

    The column `items.id` of `{"user": 1, "items": [{"id": "a"}, {"id": "b"}]}` is `a` in one row and `b` in the next.
    Other wanted columns are repeated. Rows that have all wanted columns themselves stay as they are.

    Raises:
        UserError: a value that is not a list of objects, or fields of several lists.
    """
    dotted = [name for name in wanted if "." in name]
    for number, row in enumerate(rows, start=1):
        nested = [name for name in dotted if name not in row]
        if not nested:
            yield row
            continue
        lists = {name.partition(".")[0] for name in nested}
        if len(lists) > 1:
            raise UserError(
                f"{path}: columns of several lists ({', '.join(sorted(lists))}); map those of one"
            )
        objects = row.get(lists.pop()) or []
        if isinstance(objects, dict):
            objects = [objects]
        if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
            raise UserError(f"{path}: row {number}: {nested[0]!r} needs a list of objects")
        outer = {name: row.get(name) for name in wanted if name not in nested}
        for each in objects:
            yield outer | {name: _field(each, name.split(".")[1:]) for name in nested}


def _field(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
