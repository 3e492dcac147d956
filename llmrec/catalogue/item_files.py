"""Reads files of items that join a trained run's catalogue: by the run's card, or by llmrec's own column names."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import polars as pl

from llmrec import layout
from llmrec.data.attributes import read_items
from llmrec.data.card import load_card
from llmrec.data.source import items_table
from llmrec.data.tables import read
from llmrec.data.tables.described import Items, Table, columns_in
from llmrec.data.tables.notes import listed, quiet, tell
from llmrec.errors import UserError
from llmrec.files import read_json

LIST_SEPARATOR = "|"
"""Separator of lists in files with llmrec's own column names."""


def read_new_items(path: Path, like: pl.DataFrame, by_card: Items | None = None) -> pl.DataFrame:
    """Read a file of items, cleaned as in the data stage, with the columns of a run's items.

    The file has the columns that the card names, as an export of the same shop has, and is written as the card says;
    or llmrec's own: `item_id`, `title` and other fields of `data/items.parquet`. Where both fit, the one with more
    columns is taken. Fields without a column are left out, and a line says so.

    Args:
        path: the file: CSV, JSON lines or Parquet.
        like: the run's items.
        by_card: what the run's card says of the items' file, if it says anything.

    Returns:
        One row an item, `item_id, title` and further fields.

    Raises:
        UserError: the file is unreadable or has no column of ids, or an id is empty or repeated.
    """
    if not path.is_file():
        raise UserError(f"--add: no such file: {path}")
    with tempfile.TemporaryDirectory() as scratch:
        table = _table(path, like, by_card, Path(scratch))
        with quiet():  # read_items opens the file again, and tells
            parts = read.scan(table, [path], Path(scratch))
        frame = read.combined(parts)
        identifier = read.identifier(pl.col("item"), frame.collect_schema()["item"], table.missing)
        names = read.collect(parts, table, frame.select(item_id=identifier))[0]["item_id"]
        if table.without_id == "drop":
            names = names.drop_nulls()
        if names.is_empty() or names.has_nulls():
            where = read.first_bad(parts, identifier.is_null(), "item")
            raise UserError(f"{where}: every item needs an id" if where else f"{path}: no items in it")
        if names.is_duplicated().any():
            raise UserError(f"{path}: item {names.filter(names.is_duplicated())[0]!r} occurs twice")
        items, _ = read_items(table, [path], names, Path(scratch))
    known = items.select(name for name in items.columns if name in like.columns)
    return known.cast({name: like.schema[name] for name in known.columns}, strict=False)


def items_in_card(run: Path) -> Items | None:
    """Return what the card that is kept in a run says of the items' file; None if it says nothing."""
    card, report = run / layout.CARD, run / layout.DATA_REPORT
    if not card.is_file() or not report.is_file():
        return None
    try:
        return items_table(load_card(str(card)), read_json(report)["origin"])
    except UserError as error:  # a card of an earlier version; the run is used without it
        tell("--add", f"the run's card is not used: {error}")
        return None


def _table(path: Path, like: pl.DataFrame, by_card: Items | None, scratch: Path) -> Table:
    """Return the description of a file by which more of its columns are understood."""
    own = _own_table(path, like, scratch)
    card = None if by_card is None else _by_card(path, by_card, scratch)
    if card is None and own is None:
        names = f", or {by_card.columns['item']!r} as in the run's card" if by_card is not None else ""
        raise UserError(f"{path}: no column 'item_id'{names} (it has {listed(_columns(path, scratch))})")
    if card is None or by_card is None:
        return cast(Table, own)
    if own is not None:
        # A header that the card gives fits any file with as many columns, one with our names too.
        if card.header is not True or len(card.columns) + len(card.flags) < len(own.columns):
            return own
        if card.columns == own.columns:
            card = card.model_copy(update={"split_on": own.split_on | card.split_on})
    named = by_card.columns | {meaning: listed(columns) for meaning, columns in by_card.flags.items()}
    understood = card.columns | card.flags
    for meaning, column in named.items():
        if meaning == "title" and understood["title"] != column:
            tell(path.name, f"no column {column!r}; the id stands for the title")
        elif meaning not in understood:
            tell(path.name, f"no column {column!r}; {meaning} is left out")
    return card


def _columns(path: Path, scratch: Path) -> list[str]:
    """Return the names of the columns of a file that is written in the usual way."""
    with quiet():
        return read.column_names(Table(path=path.name, columns={}), path, scratch, {"item_id"})


def _own_table(path: Path, like: pl.DataFrame, scratch: Path) -> Table | None:
    """Return the description of a file with llmrec's own names; None if it has no `item_id`, or cannot be read so."""
    try:
        columns = _columns(path, scratch)
    except UserError:
        return None
    if "item_id" not in columns:
        return None
    fields = [name for name in like.columns if name in columns and name not in ("item_id", "title")]
    lists = [name for name in fields if isinstance(like.schema[name], pl.List)]
    return Table(
        path=path.name,
        columns={"item": "item_id", "title": "title" if "title" in columns else "item_id"}
        | {name: name for name in fields},
        split_on=dict.fromkeys(lists, LIST_SEPARATOR),
    )


def _by_card(path: Path, table: Items, scratch: Path) -> Items | None:
    """Return a card's description of the items' file for a new file, with the columns that it has.

    None if the file has no column of ids by that description, or is not readable so.
    """
    table = table.model_copy(update={"path": path.name, "format": _format(path, table)})
    named = {meaning: columns_in(text) for meaning, text in table.columns.items()} | table.flags
    try:
        with quiet():
            columns = set(read.column_names(table, path, scratch, set(named["item"])))
    except UserError:
        return None
    there = {meaning for meaning, names in named.items() if columns.issuperset(names)}
    if "item" not in there:
        return None
    kept = {meaning: text for meaning, text in table.columns.items() if meaning in there}
    return table.model_copy(
        update={
            "columns": {"title": table.columns["item"]} | kept,
            "split_on": {meaning: sign for meaning, sign in table.split_on.items() if meaning in there},
            "flags": {meaning: names for meaning, names in table.flags.items() if meaning in there},
        }
    )


def _format(path: Path, table: Items) -> str | None:
    """Return the format of a new file: that of its ending, unless the card names another form of it."""
    try:
        by_ending = Table(path=path.name, columns={}).format_of(path)
    except UserError:
        return table.format
    return table.format if (table.format, by_ending) == ("loose_jsonl", "jsonl") else by_ending
