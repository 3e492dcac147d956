"""Reads the tables beside the interaction log: metadata of items and attributes of users."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.data.tables import read
from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import short, tell
from llmrec.data.words import TEXT_LIMIT, TITLE_LIMIT, clean_text, is_missing, joined, labels, prices
from llmrec.errors import UserError
from llmrec.progress.bar import follow

Report = dict[str, int]


def read_items(
    table: Table, files: list[Path], ids: pl.Series, scratch: Path, users: pl.Series | None = None
) -> tuple[pl.DataFrame, Report]:
    """Read the metadata of a log's items.

    An item without metadata or without a title gets the title `item <id>`. If several rows have the same id, the
    first is kept. Rows of items that nobody chose are dropped. The report counts all of these.

    Args:
        table: the card's description of the table.
        files: files of the table.
        ids: item ids of the log.
        scratch: folder for rewritten copies.
        users: user ids of the log, to see whether users and items are swapped.

    Returns:
        One row per id, in the order of `ids`, with the columns of docs/contract.md; and the counts.

    Raises:
        UserError: an unreadable file, an empty id, or a title column that is empty throughout.
    """
    metadata, report = _attributes(table, "item", files, ids, scratch, users)
    _ask_for_names(table, files[0])
    if len(metadata) and metadata["title"].null_count() == len(metadata):
        raise UserError(
            f"{files[0]}: column {table.columns['title']!r} is empty; correct `columns` in the card"
        )
    report["without_title"] = metadata["title"].null_count()
    items = bare_items(ids).drop("title").join(metadata, on="item_id", how="left", maintain_order="left")
    title = pl.coalesce("title", stand_in_title()).alias("title")
    return items.with_columns(title), report


_FIELDS = ("categories", "brand", "price", "description")
"""Fields of items that later stages know, besides the title."""
_LIKE = 0.75
"""Similarity from which a field's name may be one of `_FIELDS` with a mistake."""


def _ask_for_names(table: Table, file: Path) -> None:
    """Say which fields of a card are named almost like those that later stages know."""
    missing = [name for name in _FIELDS if name not in table.columns and name not in table.flags]
    for name in (*table.columns, *table.flags):
        near = difflib.get_close_matches(name, missing, n=1, cutoff=_LIKE)
        if near and name not in _FIELDS:
            tell(file.name, f"{name!r} in the card is read as a field of your own; did you mean {near[0]!r}?")


def bare_items(ids: pl.Series) -> pl.DataFrame:
    """Return the items of a dataset without metadata, each with the title `item <id>`."""
    return pl.DataFrame({"item_id": ids}).with_columns(title=stand_in_title())


def stand_in_title() -> pl.Expr:
    """Return what stands in for the title of an item that has none, `item <id>`, from the column `item_id`."""
    return pl.format("item {}", "item_id")


def read_users(
    table: Table, files: list[Path], ids: pl.Series, scratch: Path, items: pl.Series | None = None
) -> tuple[pl.DataFrame, Report]:
    """Read the attributes of a log's users: one row per user with attributes, and the counts as for items."""
    return _attributes(table, "user", files, ids, scratch, items)


def _attributes(
    table: Table, key: str, files: list[Path], ids: pl.Series, scratch: Path, others: pl.Series | None
) -> tuple[pl.DataFrame, Report]:
    rows, report = _first_of_each(table, key, files, ids, scratch, others)
    columns = {f"{key}_id": rows[f"{key}_id"]}
    for name in rows.columns[1:]:
        columns[name], counts = _clean_column(rows[name], table, files[0].name)
        report |= {f"{name}_{problem}": count for problem, count in counts.items()}
        if name != "title" and len(rows) and _is_empty(columns[name]):
            tell(files[0].name, f"column {table.columns.get(name, name)!r} ({name}) holds no value")
    return pl.DataFrame(columns), report


def _is_empty(values: pl.Series) -> bool:
    """Whether a column holds nothing: nulls or empty lists only."""
    if isinstance(values.dtype, pl.List):
        return not values.list.len().sum()
    return values.null_count() == len(values)


def _first_of_each(
    table: Table, key: str, files: list[Path], ids: pl.Series, scratch: Path, others: pl.Series | None
) -> tuple[pl.DataFrame, Report]:
    """Read the first row of each id in the log, with `<key>_id` as the first column; and the counts."""
    parts = read.scan(table, files, scratch)
    frame = read.combined(parts)
    identifier = read.identifier(pl.col(key), frame.collect_schema()[key], table.missing)
    fields = [name for name in (*table.columns, *table.flags) if name != key]
    keyed = frame.select(identifier.alias("id"), *fields)
    wanted = keyed.filter(pl.col("id").is_in(ids.implode()))
    totals = keyed.select(rows=pl.len(), empty=pl.col("id").null_count())
    rows_in_log, total, every_id = read.collect(parts, table, wanted, totals, keyed.select("id").unique())
    rows, empty = total.row(0)
    if not rows:
        raise UserError(f"{files[0]}: no rows in it")
    if empty and table.without_id == "error":
        where = read.first_bad(parts, identifier.is_null(), key)
        raise UserError(
            f"{where}: an empty {key} id (column {table.columns[key]!r}); to drop such rows, write "
            "`without_id: drop` into the card"
        )
    present = every_id["id"].drop_nulls()
    _tell_near_ids(present, ids, key, files[0], others)
    first = rows_in_log.unique("id", keep="first", maintain_order=True).rename({"id": f"{key}_id"})
    return first, {
        "without_metadata": len(ids) - len(first),
        "without_interactions": len(present) - len(first),
        "duplicate_rows": rows - empty - len(present),
        "without_id": empty,
    }


def _tell_near_ids(
    present: pl.Series, ids: pl.Series, key: str, file: Path, others: pl.Series | None
) -> None:
    """Say how many ids of the log are in a table but for leading zeros, case or `.0`.

    Args:
        present: distinct ids of the table.
        ids: distinct ids of the log.
        key: `item` or `user`.
        file: the table's first file.
        others: distinct ids of the log's other side, users for items and items for users; None if not known.

    Raises:
        UserError: the table has no id of the log at all.
    """
    lacking = ids.filter(~ids.is_in(present.implode()))
    if lacking.is_empty():
        return
    unused = present.filter(~present.is_in(ids.implode()))
    bare = pl.col("id").str.to_lowercase().str.replace(r"\.0$", "").str.replace(r"^0+(.)", "${1}")
    here, log = (pl.DataFrame({"id": names}).with_columns(bare=bare) for names in (unused, lacking))
    near = here.join(log, on="bare").select(here="id", log="id_right").sort("here", "log")
    pair = f", such as {near['here'][0]!r} here and {near['log'][0]!r} in the log" if len(near) else ""
    if len(lacking) == len(ids):
        why = f"the log has {key} ids such as {ids[0]!r}"
        if len(near):
            why = "they differ in leading zeros, case or `.0`"
        way = f"correct `columns.{key}` in the card, or the ids"
        if others is not None and 2 * others.is_in(present.implode()).sum() > len(others):
            other = "user" if key == "item" else "item"
            why = f"but the log's {other}s are: {key} and {other} seem to be swapped in the card"
            pair, way = "", "exchange `columns.user` and `columns.item` of `interactions`"
        raise UserError(short(f"{file}: no {key} of the log is in it{pair}; {why}; {way}"))
    if len(near):
        count = near["log"].n_unique()
        tell(
            file.name, f"{count:,} {key} ids differ from the log's in leading zeros, case or `.0` only{pair}"
        )


def _clean_column(values: pl.Series, table: Table, where: str) -> tuple[pl.Series, Report]:
    """Clean one column: lists of labels, prices or text. Columns of other types are returned unchanged."""
    name, dtype, separator = values.name, values.dtype, table.split_on.get(values.name)
    if name == "categories" or separator is not None:
        flat = [labels(value, separator, table.missing) for value in _progress(values)]
        _hint_at_separator(flat, name, separator, where)
        return pl.Series(name, flat, dtype=pl.List(pl.String)), {}
    if name == "price":
        return _clean_prices(values, table, where)
    if dtype != pl.String and not isinstance(dtype, pl.List):
        return values, {}
    limit = TITLE_LIMIT if name in {"title", "brand"} else TEXT_LIMIT
    raw = values.to_list()
    words = sum(
        isinstance(value, str) and bool(value.strip()) and is_missing(value, table.missing) for value in raw
    )
    texts = [None if is_missing(value, table.missing) else joined(value, table.missing) for value in raw]
    cleaned = [clean_text(text, limit) for text in _progress(pl.Series(name, texts, dtype=pl.String))]
    counts = {
        problem: sum(getattr(text, problem) for text in cleaned)
        for problem in ("unescaped", "control_characters", "clipped")
    }
    counts |= _present(markup=sum(text.markup for text in cleaned), missing_words=words)
    if words:
        tell(
            where,
            f"{words:,} words such as None or NULL in {name} are read as missing values; if they are real words, "
            "write `missing: []` into the card",
        )
    return pl.Series(name, [text.text for text in cleaned], dtype=pl.String), counts


def _present(**counts: int) -> Report:
    """Return the counts that are not zero, so the report of data without such values stays as it was."""
    return {name: count for name, count in counts.items() if count}


def _clean_prices(values: pl.Series, table: Table, where: str) -> tuple[pl.Series, Report]:
    """Return amounts and the number of values that hold none; say how a doubtful sign was read."""
    decimal = getattr(table, "decimal", None)
    read_prices = prices(list(_progress(values)), decimal, table.missing)
    if read_prices.unread:
        tell(where, f"{read_prices.unread:,} of {len(values):,} prices are no amount and are left out")
    if read_prices.decimal == "," and decimal is None:
        tell(
            where,
            "prices are read with a comma before the cents; if it separates thousands, write `decimal: .` "
            "into the card",
        )
    elif read_prices.doubtful is not None and not read_prices.is_sure:
        tell(
            where,
            f"prices such as {read_prices.doubtful!r} are read with a point before the cents; if it separates "
            "thousands, write `decimal: ','` into the card",
        )
    return pl.Series(values.name, read_prices.amounts, dtype=pl.Float32), _present(unread=read_prices.unread)


def _hint_at_separator(flat: list[list[str]], name: str, separator: str | None, where: str) -> None:
    """Say that labels look like several labels in one text, if half of them do."""
    found = [label for each in flat for label in each]
    for sign in () if separator is not None else (" > ", "|", ";", " / "):
        joint = [label for label in found if sign in label]
        if joint and 2 * len(joint) >= len(found):
            key = f"`split_on: {{{name}: {sign.strip()!r}}}`"
            tell(
                where,
                f"{name}: {joint[0][:60]!r} is read as one label; to split it, write {key} into the card",
            )
            return


def _progress(values: pl.Series) -> Iterator[Any]:
    return follow(values.to_list(), f"cleaning {values.name}", "value")
