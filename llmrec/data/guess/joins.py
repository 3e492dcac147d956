"""Finds logs in two files: orders, which name the user, and order lines, which name the items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmrec.data.guess import names
from llmrec.data.guess.columns import Column
from llmrec.data.guess.files import FoundJoin
from llmrec.data.guess.interactions import pairs_of, share_found
from llmrec.data.guess.sheets import Sheet
from llmrec.data.tables.read import PREFIX

SHARE = 0.9
"""Least share of the log's values that the other table must have, if all rows of both are known."""


def with_joined_log(sheets: list[Sheet]) -> list[Sheet]:
    """Join two tables to a log, if no table has a user and an item in a row, or none by the names of its columns.

    Args:
        sheets: the tables of a folder.

    Returns:
        The tables as they are, or the joined one in place of both (`FoundTable.join`).
    """
    pairs = [pair for sheet in sheets for pair in pairs_of(sheet, sheets)]
    if any(pair.is_named for pair in pairs):
        return sheets
    for log in sheets:
        items = log.named("item")
        for other in sheets:
            users = other.named("user")
            if other is not log and items and users and (keys := _keys(log, other, [*items, *users])):
                joined = _joined(log, other, *keys)
                return [joined if sheet is log else sheet for sheet in sheets if sheet is not other]
    return sheets


def _keys(log: Sheet, other: Sheet, taken: list[Column]) -> tuple[str, str] | None:
    """Return the columns of both by which they are joined: one value a row in the other table."""
    is_whole = log.found.is_whole and other.found.is_whole
    for key in (column for column in other.keys if column not in taken):
        for column in (column for column in log.columns if column.can_be_id and column not in taken):
            named = column.name == key.name or (
                names.is_bare_id(key.name) and _names_a_row_of(other.path, column.name)
            )
            share = share_found(column.values, key.values)
            if named and (share >= SHARE or (not is_whole and share > 0)):
                return column.name, key.name
    return None


def _names_a_row_of(path: str, name: str) -> bool:
    """Whether a column is named after a row of a file: `order_id` after `orders.csv`."""
    stems = {word.removesuffix("s") for word in names.words_of(Path(path).stem)}
    return bool(stems & {word.removesuffix("s") for word in names.words_of(name)})


def _joined(log: Sheet, other: Sheet, on: str, key: str) -> Sheet:
    """Return the log with the columns of the other table, as the data stage joins them."""
    found, beside = log.found, other.found
    columns = [name for name in beside.columns if name != key]
    new = {name: PREFIX + name if name in found.columns else name for name in columns}
    rows = found.rows.join(
        beside.rows.select(key, *columns).rename(new),
        left_on=on,
        right_on=key,
        how="left",
        maintain_order="left",
    )
    # Of two long files the first rows need not meet.
    if not found.is_whole and columns:
        rows = rows.filter(rows[new[columns[0]]].is_not_null())
    join = FoundJoin(beside, on if on == key else {on: key})
    return Sheet(replace(found, rows=rows, join=join, is_whole=found.is_whole and beside.is_whole))
