"""Makes rows of a log whose rows hold lists: a user with all items, or a list of times beside a list of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import polars as pl

from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import short, tell
from llmrec.data.tables.read import TableFile, first_bad, sample
from llmrec.data.words import list_of, object_of
from llmrec.errors import UserError

_SAMPLE = 100


def explode(parts: list[TableFile], table: Table) -> list[TableFile]:
    """Return the files of a log with one row for each entry of its lists, in order; other files as they are.

    The column `item` holds lists if its type is a list, if its text is one (`["a", "b"]`, in JSON or Python), or if
    `split_on` names a separator for it. Other columns with lists are read beside it, entry by entry; columns without
    are repeated.

    Raises:
        UserError: lists of unequal length in one row, or lists in another column than `item` alone.
    """
    return [_exploded(part, table) for part in parts]


def refuse_objects(parts: list[TableFile], table: Table) -> None:
    """Raise a UserError if users or items of a log are objects, or lists of them: their text is no id.

    `{"id": 7, "name": "Anna"}` is one. A text of CSV may look like that; it has no fields that a card could name.
    """
    for part in parts:
        if table.format_of(part.path) in ("csv", "blocks"):
            continue
        schema = part.frame.collect_schema()
        for name in ("user", "item"):
            if _are_objects(part, name, schema[name]):
                column = table.columns[name]
                raise UserError(
                    f"{part.path}: column {column!r} ({name}) holds objects; name the field that is the id, such as "
                    f"{f'{column}.id'!r}"
                )


def _are_objects(part: TableFile, name: str, dtype: pl.DataType) -> bool:
    """Whether a column holds objects or lists of objects, by its type or its first value."""
    if isinstance(dtype, pl.List | pl.Array):
        return isinstance(dtype.inner, pl.Struct)
    if dtype != pl.String:
        return isinstance(dtype, pl.Struct)
    values = sample(part, name, 1)
    if not len(values):
        return False
    entries = list_of(values[0])
    first = entries[0] if isinstance(entries, list) and entries else entries
    return isinstance(first, dict) or object_of(values[0]) is not None


def matching(parts: list[TableFile], patterns: Mapping[Literal["user", "item"], str]) -> list[TableFile]:
    """Return the files of a log with the ids that patterns find, and without rows in which one finds none.

    Args:
        parts: the files, one row an interaction.
        patterns: `user` or `item` → regular expression for the whole value; its group is the id.

    Raises:
        UserError: no row matches, or an expression that Polars cannot use.
    """
    if not patterns:
        return parts
    found = []
    for part in parts:
        groups: dict[str, pl.Expr] = {
            name: pl.col(name).cast(pl.String).str.strip_chars().str.extract(f"^(?:{pattern})$", 1)
            for name, pattern in patterns.items()
        }
        frame = part.frame.with_columns(**groups)
        matches = pl.all_horizontal(pl.col(name).is_not_null() for name in patterns)
        try:
            kept, rows = frame.select(matches.sum(), pl.len()).collect(engine="streaming").row(0)
        except pl.exceptions.PolarsError as error:
            # Polars' expressions are those of Python without looking around and back references.
            raise UserError(f"pattern: {short(str(error), 200)}") from None
        if not kept:
            raise UserError(f"{part.path}: no row has an id of the form that `pattern` in the card describes")
        if kept < rows:
            tell(
                part.path.name,
                f"{rows - kept:,} of {rows:,} rows are left out: their ids have not the form of `pattern` in the "
                "card",
            )
        found.append(replace(part, frame=frame.filter(matches), has_entries=True))
    return found


def _exploded(part: TableFile, table: Table) -> TableFile:
    schema = part.frame.collect_schema()
    kinds = {name: list_kind(part, name, dtype, table) for name, dtype in schema.items()}
    lists = [name for name, kind in kinds.items() if kind is not None]
    if not lists:
        return part
    if "item" not in lists:
        raise UserError(f"{part.path}: {lists[0]} holds lists and item does not; rows with lists need both")
    frame = part.frame.with_columns(as_list(name, kinds[name], schema[name], table) for name in lists)
    as_lists = replace(part, frame=frame)
    is_empty = pl.col("item").list.len().fill_null(0) == 0
    for name in lists:
        differs = (pl.col(name).list.len() != pl.col("item").list.len()) & ~is_empty
        place = first_bad([as_lists], differs.fill_null(False), name)
        if place is not None:
            raise UserError(f"{place[:200]}: not as many entries as item has in this row")
    rows, empty = frame.select(pl.len(), is_empty.sum().alias("empty")).collect(engine="streaming").row(0)
    left_out = f"; {empty:,} rows with an empty list are left out" if empty else ""
    tell(
        part.path.name,
        f"{rows:,} rows with lists ({', '.join(lists)}) read as one row for each entry{left_out}",
    )
    return replace(part, frame=frame.filter(~is_empty).explode(lists), has_entries=True)


def list_kind(part: TableFile, name: str, dtype: pl.DataType, table: Table) -> str | None:
    """Return how a column holds lists: by its type, as text, or separated; None if it does not."""
    if name in table.flags:
        return None
    if isinstance(dtype, pl.List | pl.Array):
        return "type"
    if name in table.split_on:
        return "separated"
    if dtype != pl.String or name in ("review", "summary"):
        return None
    texts = sample(part, name, _SAMPLE).str.strip_chars()
    is_list = len(texts) > 0 and bool((texts.str.starts_with("[") & texts.str.ends_with("]")).all())
    return "text" if is_list and all(isinstance(list_of(text), list) for text in texts) else None


def as_list(name: str, kind: str | None, dtype: pl.DataType, table: Table) -> pl.Expr:
    """Return a column as lists, by what `list_kind` says of it."""
    column = pl.col(name)
    if kind == "separated":
        separator = table.split_on[name]
        parts = column.str.strip_chars().str.split(separator)
        # Several spaces are one; between other separators an entry may be missing.
        return parts.list.eval(pl.element().filter(pl.element() != "")) if separator.isspace() else parts
    if kind == "text":
        return column.map_batches(_parsed, return_dtype=pl.List(pl.String), is_elementwise=True)
    return column.cast(pl.List(dtype.inner)) if isinstance(dtype, pl.Array) else column


def _parsed(values: pl.Series) -> pl.Series:
    """Parse lists that are written as text; a text that is none becomes a list of itself."""
    lists = []
    for value in values:
        found = list_of(value)
        found = found if isinstance(found, list) or found is None else [found]
        lists.append(None if found is None else [None if each is None else str(each) for each in found])
    return pl.Series(values.name, lists, dtype=pl.List(pl.String))
