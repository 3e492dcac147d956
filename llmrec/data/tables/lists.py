"""Rows that hold lists: objects in a list, and lines of ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from llmrec.data.tables import sniff
from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import tell
from llmrec.data.tables.prepare import decoded_lines, write_copy
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


def open_sequences(table: Table, path: Path, scratch: Path) -> Path:
    """Return a copy of a file of lines `user item item …` with one row for each item, columns `user` and `item`.

    Args:
        table: the card's description of the file; `separator` null: any white space.
        path: the file, possibly gzip.
        scratch: folder for copies.

    Raises:
        UserError: an empty or unreadable file, or the wrong encoding.
    """
    encoding = sniff.encoding(table, sniff.head(path))
    rows = _pairs(path, decoded_lines(path, encoding), table.separator)
    return write_copy(path, scratch, (f"{user}{sniff.UNIT_SEPARATOR}{item}\n" for user, item in rows))


def _pairs(path: Path, lines: Iterable[str], separator: str | None) -> Iterator[tuple[str, str]]:
    """Yield the header, and the user and one item for each item of each line."""
    yield "user", "item"
    alone = 0
    for line in lines:
        user, *items = [part.strip() for part in line.removeprefix("\ufeff").split(separator)] or [""]
        alone += bool(user) and not items
        for item in items:
            yield user, item
    if alone:
        tell(path.name, f"{alone:,} lines with a user and no item are left out")
