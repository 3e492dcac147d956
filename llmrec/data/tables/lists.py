"""Rows that hold objects, or lists: fields of objects, objects in a list, and lines of ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from llmrec.data.tables import sniff
from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import quiet, tell
from llmrec.data.tables.prepare import decoded_lines, write_copy
from llmrec.data.words import is_missing, list_of, object_of
from llmrec.errors import UserError

Row = dict[str, Any]


def nested_rows(
    path: Path, rows: Callable[[], Iterator[Row]], wanted: Collection[str], in_rows: Collection[str]
) -> Iterator[Row]:
    """Yield rows whose wanted columns are fields of objects: one row for each object, where these are in a list.

    The column `items.id` of `{"user": {"id": 1}, "items": [{"id": "a"}, {"id": "b"}]}` is `a` in one row and `b` in
    the next, and `user.id` is 1 in both. Other wanted columns are repeated. Rows that have all wanted columns
    themselves stay as they are. Where the list is missing there is no row, where the object is missing no value.
    Objects and lists may also be written as text, in JSON or as Python writes them.

    Args:
        path: the file.
        rows: reads the file's rows from the first one on.
        wanted: names of the columns that will be read.
        in_rows: those of which each has one value a row. A list in which none of them is stays a list: `genres.name`
            of a film.

    Raises:
        UserError: a value that is neither an object nor a list of objects, fields of several lists, or a field of
            objects that are nowhere.
    """
    dotted = [name for name in wanted if "." in name]

    def opened() -> Iterator[Row]:
        return (_opened(row, dotted) for row in rows())

    with quiet():  # what is to be told of the file is told as its rows are read
        lists = _lists(path, opened(), dotted) if dotted else {}
    usual = _plan(path, wanted, dotted, lists, in_rows)
    for number, row in enumerate(opened(), start=1):
        has_none = lists.keys().isdisjoint(row)
        nested = dotted if has_none else [name for name in dotted if name not in row]
        plan = usual if has_none else _plan(path, wanted, nested, lists, in_rows)
        moved = {name: at for name in plan.checked if (at := _list_of(path, number, row, name))}
        if moved.items() - lists.items():  # one object in the rows before, a list of them in this one
            lists |= moved
            usual = plan = _plan(path, wanted, nested, lists, in_rows)
        yield from _rows_of(path, number, row, plan)


def _opened(row: Row, dotted: list[str]) -> Row:
    """Return a row with objects and lists in place of the texts that they are written as."""
    found = {}
    for first in {name.partition(".")[0] for name in dotted if name not in row}:
        if isinstance(text := row.get(first), str):
            is_object = (held := object_of(text)) is not None
            found[first] = held if is_object else None if is_missing(text) else list_of(text)
    return row | found if found else row


@dataclass(frozen=True)
class _Plan:
    """Where the wanted columns of a row are.

    Attributes:
        own: columns of the row itself.
        fields: columns that are fields of objects whose list, if there is one, stays a list; the names on the way.
        objects: names on the way to the list whose objects are a row each; none if there is no such list.
        within: columns that are fields of these objects, and the names on the way to each.
    """

    own: list[str]
    fields: dict[str, list[str]]
    objects: list[str]
    within: dict[str, list[str]]

    @property
    def checked(self) -> list[str]:
        """Fields whose place a row can show to be another; those of one list have one place."""
        return [*self.fields, *list(self.within)[:1]]


def _plan(
    path: Path, wanted: Collection[str], nested: list[str], lists: dict[str, str], in_rows: Collection[str]
) -> _Plan:
    """Return the plan of rows in which some wanted columns are fields of objects."""
    found = sorted({lists[name] for name in nested if name in in_rows} - {""})
    if len(found) > 1:
        raise _several_lists(path, found)
    within = [name for name in nested if found and lists[name] == found[0]]
    return _Plan(
        own=[name for name in wanted if name not in nested],
        fields={name: name.split(".") for name in nested if name not in within},
        objects=found[0].split(".") if found else [],
        within={name: name.removeprefix(f"{found[0]}.").split(".") for name in within},
    )


def _lists(path: Path, rows: Iterator[Row], dotted: list[str]) -> dict[str, str]:
    """Return for each field which list holds its objects, "" if none does, by the first row that tells."""
    lists: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        # A row without the object does not tell whether it would be in a list.
        found = {name: _list_of(path, number, row, name) for name in dotted if name not in lists}
        lists |= {name: at for name, at in found.items() if at is not None}
        if len(lists) == len(dotted):
            return lists
    absent = next(name for name in dotted if name not in lists)
    raise UserError(f"{path}: no object has the field {absent!r}; correct `columns` in the card")


def _list_of(path: Path, number: int, row: Row, name: str) -> str | None:
    """Return which list holds the objects of a field; "" if these are in none, None if the row does not have them."""
    if name in row:
        return ""
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


def _rows_of(path: Path, number: int, row: Row, plan: _Plan) -> Iterator[Row]:
    """Yield one row for each object of the list of a row; the row alone if no wanted column is in such a list."""
    if not plan.fields and not plan.within:
        yield row
        return
    outer = {name: row.get(name) for name in plan.own}
    outer |= {name: _field(row, names) for name, names in plan.fields.items()}
    if not plan.within:
        yield outer
        return
    objects = _field(row, plan.objects) or []
    objects = [objects] if isinstance(objects, dict) else objects
    if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
        raise UserError(f"{path}: row {number}: {next(iter(plan.within))!r} needs a list of objects")
    for each in objects:
        yield outer | {name: _field(each, names) for name, names in plan.within.items()}


def _field(value: Any, names: list[str]) -> Any:
    """Return a field of an object; that of each object, if there is a list of them on the way."""
    for place, name in enumerate(names):
        if isinstance(value, list):
            return [_field(each, names[place:]) for each in value]
        value = value.get(name) if isinstance(value, dict) else None
    return value


def with_fields(
    path: Path, frame: pl.LazyFrame, wanted: Collection[str], in_rows: Collection[str]
) -> pl.LazyFrame:
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
    places = {name: _list_of_type(schema, name) for name in fields if name in in_rows}
    lists = {name: place for name, place in places.items() if place is not None}
    if len(set(lists.values())) > 1:
        raise _several_lists(path, sorted(set(lists.values())))
    beside = [name for name in fields if lists and _list_of_type(schema, name) == next(iter(lists.values()))]
    return frame.filter(pl.col(beside[0]).list.len() > 0).explode(beside) if beside else frame


def _several_lists(path: Path, lists: list[str]) -> UserError:
    return UserError(f"{path}: columns of several lists ({', '.join(lists)}); map those of one")


def _list_of_type(schema: pl.Schema, name: str) -> str | None:
    """Return which list holds the objects of a field, by the types of a file's columns; None if none does."""
    names = name.split(".")
    dtype = schema[names[0]]
    for depth, each in enumerate(names[1:], start=1):
        if isinstance(dtype, pl.List):
            return ".".join(names[:depth])
        dtype = _types_of(dtype)[each]
    return None


def _field_of(column: pl.Expr, dtype: pl.DataType, names: list[str]) -> pl.Expr | None:
    """Return a field of a typed column of objects, or of lists of objects; None if it has no such field."""
    if not names:
        return column
    if isinstance(dtype, pl.List):
        field = _field_of(pl.element(), cast(pl.DataType, dtype.inner), names)
        return None if field is None else column.list.eval(field)
    types = _types_of(dtype)
    return _field_of(column.struct.field(names[0]), types[names[0]], names[1:]) if names[0] in types else None


def _types_of(dtype: pl.DataType) -> dict[str, pl.DataType]:
    """Return the types of the fields of objects; none for other types."""
    fields = dtype.fields if isinstance(dtype, pl.Struct) else []
    return {field.name: cast(pl.DataType, field.dtype) for field in fields}


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
