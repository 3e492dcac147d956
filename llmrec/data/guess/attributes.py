"""Guesses the tables beside the log: which describes the items, which the users, and what their columns mean."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from llmrec.data.guess import names
from llmrec.data.guess.choices import Choose, Question, choose_among
from llmrec.data.guess.columns import Column, depends_on
from llmrec.data.guess.files import FoundTable
from llmrec.data.guess.interactions import LogGuess, share_found, title_in_log
from llmrec.data.guess.sheets import Sheet
from llmrec.data.tables import read
from llmrec.data.tables.notes import quiet
from llmrec.data.words import MISSING, labels, prices
from llmrec.errors import UserError

Role = Literal["item", "user"]
_MOST_KEYS = 3
_MOST_ATTRIBUTES = 8
_MANY_VALUES = 50


@dataclass(frozen=True)
class TableGuess:
    """A table beside the log and what its columns mean.

    Attributes:
        sheet: the table.
        columns: meaning → column; `item` or `user` is the key.
        share: share of the log's ids that are in the table.
        split_on: meaning → sign, for lists that are written as text.
        decimal: sign before the cents of prices, if it is a comma.
        notes: lines for the user.
    """

    sheet: Sheet
    columns: dict[str, Column]
    share: float
    split_on: dict[str, str] = field(default_factory=dict)
    decimal: Literal[","] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Key:
    sheet: Sheet
    column: Column
    share: float
    score: float


def guess_items(
    log: LogGuess, sheets: list[Sheet], choose: Choose, scratch: Path
) -> tuple[TableGuess | None, list[str]]:
    """Choose the table of the items and its columns; the log itself, if it holds titles. Also lines for the user."""
    key, notes = _key("item", log, sheets, choose, scratch)
    if key is not None:
        title = _title(key.sheet, key.column, choose)
        if title is not None:
            return _described(key, title, notes), []
        notes.append(
            f"{key.sheet.path}: no column with titles, so items have no text; if one holds titles, name it in the "
            "card (items.columns.title)"
        )
    title = title_in_log(log)
    if title is None:
        return None, notes or [
            "no file describes the items, so they have no titles; if you have such a file, add `items` to the card"
        ]
    # The log's other columns change with each interaction: only those that belong to the item describe it.
    return _described(_Key(log.sheet, log.columns["item"], 1, 3), title, notes, log), []


def guess_users(
    log: LogGuess, items: TableGuess | None, sheets: list[Sheet], choose: Choose, scratch: Path
) -> tuple[TableGuess | None, list[str]]:
    """Choose the table of the users and the columns that tell something of them, without names and addresses."""
    rest = [sheet for sheet in sheets if items is None or sheet is not items.sheet]
    key, notes = _key("user", log, rest, choose, scratch)
    if key is None:
        return None, notes
    if not key.sheet.found.has_header:
        return None, [
            f"{key.sheet.path}: describes users, but no line names its columns; add `users` by hand"
        ]
    columns = {"user": key.column}
    left_out = []
    for column in key.sheet.columns:
        name = meaning_of(column.name)
        if column is key.column or column.is_empty or column.is_time or name in ("", *columns):
            continue
        if names.is_personal(column.name):
            left_out.append(column.name)
        elif (
            column.distinct <= max(_MANY_VALUES, 0.1 * len(column.values))
            and len(columns) <= _MOST_ATTRIBUTES
        ):
            columns[name] = column
    if left_out:
        notes.append(
            f"{key.sheet.path}: {', '.join(map(repr, left_out))} may name a person and stays out of the card"
        )
    return (TableGuess(key.sheet, columns, key.share, notes=notes), []) if len(columns) > 1 else (None, notes)


def meaning_of(name: str) -> str:
    """Return a column's name as the name of a meaning, free of those that llmrec writes."""
    meaning = "_".join(names.words_of(name))
    return f"{meaning}_" if meaning in ("user", "item", "user_id", "item_id") else meaning


def _key(
    role: Role, log: LogGuess, sheets: list[Sheet], choose: Choose, scratch: Path
) -> tuple[_Key | None, list[str]]:
    """Return the key that holds the log's ids of a role, if some table has one; and lines for the user."""
    ids = log.columns[role].values
    if role in log.split_on:
        ids = pl.Series([piece for value in ids for piece in value.split(log.split_on[role])])
    elif log.columns[role].is_list:
        ids = _entries(log.columns[role])
    found, notes = [], []
    for sheet in sheets:
        if sheet is log.sheet:
            continue
        for column in _candidates(role, log.columns[role], sheet):
            try:
                keys = column.values if sheet.found.is_whole else _all_ids(sheet.found, column.name, scratch)
            except UserError as error:
                notes.append(
                    f"{sheet.path}: left out, {str(error).removeprefix(f'{sheet.found.files[0]}: ')}"
                )
                break
            share = share_found(ids, keys)
            score = 2 * share + _fit(role, log.columns[role], sheet, column)
            if role == "user" and not (column.score(role) >= 1 or names.is_user_file(sheet.path)):
                continue
            if share >= 0.5 or (share > 0 and score >= 2):
                found.append(_Key(sheet, column, share, score))
            elif (
                share == 0 and score >= 1.5 and not any(note.startswith(f"{sheet.path}: ") for note in notes)
            ):
                notes.append(_no_match(role, sheet, column, ids))
    if not found:
        return None, notes
    what = f"the table that describes the {role}s"
    options = [
        f"{key.sheet.path}, by {key.column.name!r} ({key.share:.0%} of the log's {role}s)" for key in found
    ]
    question = Question("several files", what, options, 0, f"{role}s.path")
    best = found[choose_among(choose, question, [key.score for key in found])]
    return best, []


def _candidates(role: Role, of_log: Column, sheet: Sheet) -> list[Column]:
    """Return the columns of a table that can hold the ids of a role."""
    other: Role = "user" if role == "item" else "item"
    columns = [
        c for c in sheet.columns if c.can_be_id and c.distinct > 0.5 * len(c.values) and not c.is_field
    ]
    columns = [c for c in columns if not c.is_text or c.name == of_log.name or c.score(role) >= 1]
    columns = [c for c in columns if c.score(other) <= c.score(role)]
    return sorted(columns, key=lambda column: -_fit(role, of_log, sheet, column))[:_MOST_KEYS]


def _fit(role: Role, of_log: Column, sheet: Sheet, column: Column) -> float:
    """Return how well a column's name and its table's fit the ids of a role, without comparing values."""
    is_file = names.is_item_file(sheet.path) if role == "item" else names.is_user_file(sheet.path)
    is_other = names.is_user_file(sheet.path) if role == "item" else names.is_item_file(sheet.path)
    score = column.score(role) / 3 + (0.7 if is_file else 0) - (1.5 if is_other and not is_file else 0)
    score += 1 if column.has_name and column.name == of_log.name else 0
    score += 0.5 if column is sheet.columns[0] or names.words_of(column.name) == ["id"] else 0
    if role == "item":
        has_title = any(c.score("title") >= 2 and not c.is_number for c in sheet.columns if c is not column)
        return score + (1 if has_title else 0.5 if sheet.has_words else -0.5)
    return score - (0.5 if not is_file and sheet.has_words else 0)


def _entries(column: Column) -> pl.Series:
    return pl.Series([label for value in column.values for label in labels(value)], dtype=pl.String)


def _all_ids(found: FoundTable, name: str, scratch: Path) -> pl.Series:
    """Return all different ids of a column, of all rows of a table's files."""
    copies = scratch / f"ids-{len(list(scratch.iterdir()))}"
    copies.mkdir()
    try:
        with quiet():
            table = found.table({"key": name})
            parts = read.scan(table, found.files, copies)
            frame = read.combined(parts)
            ids = read.identifier(pl.col("key"), frame.collect_schema()["key"], list(MISSING))
            (rows,) = read.collect(parts, table, frame.select(ids).unique())
    finally:
        shutil.rmtree(copies, ignore_errors=True)
    return rows["key"].drop_nulls()


def _no_match(role: Role, sheet: Sheet, column: Column, ids: pl.Series) -> str:
    """Return the line for a table whose name fits and whose ids do not."""
    near = share_found(_bare(ids), _bare(column.values))
    why = (
        ""
        if not near
        else f"; {near:.0%} would be, but for leading zeros, case or `.0`: write them alike in both"
    )
    return f"{sheet.path}: left out, none of the log's {role}s is in its column {column.name!r}{why}"


def _bare(ids: pl.Series) -> pl.Series:
    """Return ids without what often differs between two files: case, `.0` and leading zeros."""
    return ids.str.to_lowercase().str.replace(r"\.0$", "").str.replace(r"^0+(.)", "${1}")


def _title(sheet: Sheet, key: Column, choose: Choose) -> Column | None:
    """Return the column of the titles: by its name, else the text that differs most from row to row."""
    others = [
        column
        for column in sheet.columns
        if column is not key and not column.is_empty and not column.is_field
    ]
    named = [
        c
        for c in others
        if c.score("title") >= 1 and not c.is_list and (c.is_text or c.score("title") >= 2.8)
    ]
    if named:
        scores = [column.score("title") + 0.3 * column.is_text for column in named]
        first = named[scores.index(max(scores))]
        # A second column with the same words is no choice.
        named = [column for column in named if column is first or not _is_copy(column, first)]
        options = [f"{column.name!r} ({column.values[0][:40]!r}, …)" for column in named]
        question = Question(sheet.path, "the column of the title", options, 0, "items.columns.title")
        return named[choose_among(choose, question, [c.score("title") + 0.3 * c.is_text for c in named])]
    texts = [
        c
        for c in others
        if c.is_text and c.length < 300 and not c.score("brand") and not c.score("categories")
    ]
    texts = [column for column in texts if column.distinct > 0.5 * len(column.values)]
    return max(texts, key=lambda column: column.distinct, default=None)


def _is_copy(one: Column, other: Column) -> bool:
    pairs = pl.DataFrame({"one": one.raw.cast(pl.String), "other": other.raw.cast(pl.String)}).drop_nulls()
    return len(pairs) > 0 and (pairs["one"] == pairs["other"]).sum() > 0.8 * len(pairs)


def _described(key: _Key, title: Column, notes: list[str], log: LogGuess | None = None) -> TableGuess:
    """Add categories, brand, price and description to an item table's key and title."""
    columns = {"item": key.column, "title": title}
    free = [c for c in key.sheet.columns if c not in columns.values() and not c.is_empty]
    # Of objects only the names of categories are taken: `genres.name`.
    free = [
        c for c in free if not c.is_field or (c.is_entry and min(map(c.score, ("categories", "title"))) >= 1)
    ]
    if log is not None:
        free = [column for column in free if column not in log.columns.values() and column is not log.clock]
        free = [column for column in free if depends_on(column.raw, key.column.raw)]
    for role in ("categories", "brand", "price", "description"):
        fitting = [column for column in free if column.score(role) >= 1 and _is_possible(role, column)]
        if fitting:
            columns[role] = max(fitting, key=lambda column: (column.score(role), column.length))
            free.remove(columns[role])
    if "categories" not in columns:
        lists = [c for c in free if c.is_text and c.length < 200 and c.list_sign in ("&gt;", ">", "|")]
        columns |= {"categories": lists[0]} if lists else {}
    split_on = {}
    if "categories" in columns and (sign := columns["categories"].list_sign):
        split_on["categories"] = sign
    decimal: Literal[","] | None = None
    if "price" in columns and _has_comma(columns["price"], key.sheet):
        decimal = ","
    return TableGuess(key.sheet, columns, key.share, split_on, decimal, notes)


def _is_possible(role: str, column: Column) -> bool:
    """Whether a column's values can have a meaning of an item."""
    if role == "price":
        return not column.is_list and column.decimal is not None
    if role == "categories":
        return not column.has_decimals and not column.nested and column.length < 500
    if role == "brand":
        return column.is_text and not column.is_list
    return column.is_text or column.is_list


def _has_comma(price: Column, sheet: Sheet) -> bool:
    """Whether a comma stands before the cents: some prices show it, or none does and the file is European."""
    amounts = prices(price.values.to_list())
    if amounts.decimal == ",":
        return True
    return (
        amounts.doubtful is not None and not amounts.is_sure and sheet.found.written.get("separator") == ";"
    )
