"""Rows that hold objects, or lists: fields of objects, objects in a list, and lines of ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl

from llmrec.data.tables import sniff
from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import tell
from llmrec.data.tables.prepare import decoded_lines, write_copy
from llmrec.errors import UserError

Row = dict[str, Any]


def nested_rows(path: Path, rows: Iterable[Row], wanted: Collection[str]) -> Iterator[Row]:
    """Yield rows whose wanted columns are fields of objects: one row for each object, where these are in a list.

    The column `items.id` of `{"user": {"id": 1}, "items": [{"id": "a"}, {"id": "b"}]}` is `a` in one row and `b` in
    the next, and `user.id` is 1 in both. Other wanted columns are repeated. Rows that have all wanted columns
    themselves stay as they are. Where the list is missing there is no row, where the object is missing no value.

    Raises:
        UserError: a value that is neither an object nor a list of objects, fields of several lists, or a field of
            objects that are nowhere.
    """
    dotted = [name for name in wanted if "." in name]
    lists: dict[str, str] = {}
    waiting: list[tuple[int, Row]] = []
    for number, row in enumerate(rows, start=1):
        nested = [name for name in dotted if name not in row]
        for name in nested:
            at = _list_of(path, number, row, name)
            if at or (at is not None and name not in lists):
                lists[name] = at
        waiting.append((number, row))
        # A row without the object does not tell whether it would be in a list.
        if all(name in lists for name in nested):
            for each in waiting:
                yield from _rows_of(path, *each, wanted, lists)
            waiting.clear()
    if waiting:
        absent = next(name for name in dotted if name not in lists)
        raise UserError(f"{path}: no object has the field {absent!r}; correct `columns` in the card")


def _list_of(path: Path, number: int, row: Row, name: str) -> str | None:
    """Return which list holds the objects of a field; "" if these are in none, None if the row does not have them."""
    value: Any = row
    names = name.split(".")
    for depth, each in enumerate(names):
        if isinstance(value, list):
            return ".".join(names[:depth])
        if value is None:
            return None
        if not isinstance(value, dict):
            raise UserError(f"{path}: row {number}: {name!r} needs a list of objects, or an object")
        value = value.get(each)
    return ""


def _rows_of(
    path: Path, number: int, row: Row, wanted: Collection[str], lists: dict[str, str]
) -> Iterator[Row]:
    """Yield one row for each object of the list of a row; the row alone if no wanted column is in a list."""
    nested = [name for name in wanted if "." in name and name not in row]
    if not nested:
        yield row
        return
    found = sorted({lists[name] for name in nested} - {""})
    if len(found) > 1:
        raise _several_lists(path, found)
    outer = {name: row.get(name) for name in wanted if name not in nested}
    outer |= {name: _field(row, name.split(".")) for name in nested if not lists[name]}
    if not found:
        yield outer
        return
    within = {name: name.removeprefix(f"{found[0]}.").split(".") for name in nested if lists[name]}
    objects = _field(row, found[0].split(".")) or []
    objects = [objects] if isinstance(objects, dict) else objects
    if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
        raise UserError(f"{path}: row {number}: {next(iter(within))!r} needs a list of objects")
    for each in objects:
        yield outer | {name: _field(each, names) for name, names in within.items()}


def _field(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def with_fields(path: Path, frame: pl.LazyFrame, wanted: Collection[str]) -> pl.LazyFrame:
    """Return a Parquet file's columns with wanted ones that are fields of objects, by the rules of `nested_rows`.

    Raises:
        UserError: fields of several lists.
    """
    schema = frame.collect_schema()
    fields: dict[str, pl.Expr] = {}
    for name in wanted:
        first, *names = name.split(".")
        if name not in schema and names and first in schema:
            field = _field_of(pl.col(first), schema[first], names)
            fields |= {} if field is None else {name: field}
    if not fields:
        return frame
    frame = frame.with_columns(**fields)
    types = frame.collect_schema()
    lists = [name for name in fields if isinstance(types[name], pl.List)]
    roots = sorted({name.partition(".")[0] for name in lists})
    if len(roots) > 1:
        raise _several_lists(path, roots)
    return frame.filter(pl.col(lists[0]).list.len() > 0).explode(lists) if lists else frame


def _several_lists(path: Path, lists: list[str]) -> UserError:
    return UserError(f"{path}: columns of several lists ({', '.join(lists)}); map those of one")


def _field_of(column: pl.Expr, dtype: pl.DataType, names: list[str]) -> pl.Expr | None:
    """Return a field of a typed column of objects, or of lists of objects; None if it has no such field."""
    if not names:
        return column
    if isinstance(dtype, pl.List):
        field = _field_of(pl.element(), cast(pl.DataType, dtype.inner), names)
        return None if field is None else column.list.eval(field)
    if not isinstance(dtype, pl.Struct):
        return None
    types = {field.name: field.dtype for field in dtype.fields}
    if names[0] not in types:
        return None
    return _field_of(column.struct.field(names[0]), cast(pl.DataType, types[names[0]]), names[1:])


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
