"""Finds logs in several files: orders, which name the user, beside their lines; or files of one person each."""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

import polars as pl

from llmrec.data.guess import names
from llmrec.data.guess.columns import Column
from llmrec.data.guess.files import ROWS, FoundJoin, FoundTable
from llmrec.data.guess.interactions import pairs_of, share_found
from llmrec.data.guess.sheets import Sheet
from llmrec.data.tables.described import FILE_FOLDER, FILE_NAME
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


def with_log_of_people(sheets: list[Sheet], folder: Path) -> list[Sheet]:
    """Join files to a log whose users are the names of the files or folders, if no table has users.

    Args:
        sheets: the tables of a folder.
        folder: the folder.

    Returns:
        The tables as they are, or the log in place of its files: at least two with the same columns and times.
    """
    if any(pairs_of(sheet, sheets) for sheet in sheets):
        return sheets
    for first in sheets:
        alike = [sheet for sheet in sheets if _is_written_alike(sheet.found, first.found)]
        if len(alike) > 1 and any(column.is_time for column in first.columns):
            log = _of_people([sheet.found for sheet in alike], folder)
            if log is not None and pairs_of(log, [log]):
                return [log, *(sheet for sheet in sheets if sheet not in alike)]
    return sheets


def _is_written_alike(one: FoundTable, other: FoundTable) -> bool:
    return one.written == other.written and one.rows.schema == other.rows.schema


def _of_people(tables: list[FoundTable], folder: Path) -> Sheet | None:
    """Return files of one person each as one log; None if no glob matches them alone."""
    paths = [found.path for found in tables]
    end = _common_start([path[::-1] for path in paths])[::-1]
    pattern = f"{glob.escape(_common_start(paths))}*{end}"
    files = sorted(path for found in tables for path in found.files)
    matches = sorted(folder / name for name in glob.glob(pattern, root_dir=folder))  # noqa: PTH207
    has_folders = len({Path(path).name for path in paths}) == 1
    if matches != files or not (has_folders or len(files) == len(tables)):
        return None
    user = FILE_FOLDER if has_folders else FILE_NAME
    names = [found.files[0].parent.name if has_folders else Path(found.path).stem for found in tables]
    few = max(1, ROWS // len(tables))
    rows = pl.concat(
        found.rows.head(few).with_columns(pl.lit(name).alias(user))
        for found, name in zip(tables, names, strict=True)
    )
    return Sheet(replace(tables[0], path=pattern, files=files, rows=rows, is_whole=False))


def _common_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    same = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(same, len(first))]
