"""Reads the tables beside the interaction log: metadata of items and attributes of users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from llmrec.data import read
from llmrec.data.card import Table
from llmrec.data.words import TEXT_LIMIT, TITLE_LIMIT, clean_text, joined, labels, prices
from llmrec.errors import UserError

Report = dict[str, int]


def read_items(table: Table, files: list[Path], ids: pl.Series, scratch: Path) -> tuple[pl.DataFrame, Report]:
    """Read the metadata of a log's items.

    An item without metadata or without a title gets the title `item <id>`. If several rows have the same id, the
    first is kept. Rows of items that nobody chose are dropped. The report counts all of these.

    Args:
        table: the card's description of the table.
        files: files of the table.
        ids: item ids of the log.
        scratch: folder for rewritten copies.

    Returns:
        One row per id, in the order of `ids`, with the columns of docs/contract.md; and the counts.

    Raises:
        UserError: an unreadable file, an empty id, or a title column that is empty throughout.
    """
    metadata, report = _attributes(table, "item", files, ids, scratch)
    if len(metadata) and metadata["title"].null_count() == len(metadata):
        raise UserError(
            f"{files[0]}: column {table.columns['title']!r} is empty; correct `columns` in the card"
        )
    report["without_title"] = metadata["title"].null_count()
    items = bare_items(ids).drop("title").join(metadata, on="item_id", how="left", maintain_order="left")
    title = pl.coalesce("title", pl.format("item {}", "item_id")).alias("title")
    return items.with_columns(title), report


def bare_items(ids: pl.Series) -> pl.DataFrame:
    """Return the items of a dataset without metadata, each with the title `item <id>`."""
    return pl.DataFrame({"item_id": ids}).with_columns(title=pl.format("item {}", "item_id"))


def read_users(table: Table, files: list[Path], ids: pl.Series, scratch: Path) -> tuple[pl.DataFrame, Report]:
    """Read the attributes of a log's users: one row per user with attributes, and the counts as for items."""
    return _attributes(table, "user", files, ids, scratch)


def _attributes(
    table: Table, key: str, files: list[Path], ids: pl.Series, scratch: Path
) -> tuple[pl.DataFrame, Report]:
    rows, report = _first_of_each(table, key, files, ids, scratch)
    columns = {f"{key}_id": rows[f"{key}_id"]}
    for name in rows.columns[1:]:
        columns[name], counts = _clean_column(rows[name], table.split_on.get(name))
        report |= {f"{name}_{problem}": count for problem, count in counts.items()}
    return pl.DataFrame(columns), report


def _first_of_each(
    table: Table, key: str, files: list[Path], ids: pl.Series, scratch: Path
) -> tuple[pl.DataFrame, Report]:
    """Read the first row of each id in the log, with `<key>_id` as the first column; and the counts."""
    parts = read.scan(table, files, scratch)
    frame = read.combined(parts)
    identifier = read.identifier(pl.col(key), frame.collect_schema()[key])
    others = [name for name in (*table.columns, *table.flags) if name != key]
    keyed = frame.select(identifier.alias("id"), *others)
    wanted = keyed.filter(pl.col("id").is_in(ids.implode()))
    totals = keyed.select(rows=pl.len(), empty=pl.col("id").null_count(), ids=pl.col("id").n_unique())
    rows_in_log, total = read.collect(parts, table, wanted, totals)
    rows, empty, distinct = total.row(0)
    if not rows:
        raise UserError(f"{files[0]}: no rows in it")
    if empty and getattr(table, "without_id", "error") == "error":
        where = read.first_bad(parts, identifier.is_null(), key)
        raise UserError(f"{where}: an empty {key} id (column {table.columns[key]!r})")
    distinct -= empty > 0
    first = rows_in_log.unique("id", keep="first", maintain_order=True).rename({"id": f"{key}_id"})
    return first, {
        "without_metadata": len(ids) - len(first),
        "without_interactions": distinct - len(first),
        "duplicate_rows": rows - empty - distinct,
        "without_id": empty,
    }


def _clean_column(values: pl.Series, separator: str | None) -> tuple[pl.Series, Report]:
    """Clean one column: lists of labels, prices or text. Columns of other types are returned unchanged."""
    name, dtype = values.name, values.dtype
    if name == "categories" or separator is not None:
        flat = [labels(value, separator) for value in _progress(values)]
        return pl.Series(name, flat, dtype=pl.List(pl.String)), {}
    if name == "price":
        return prices(values), {}
    if dtype != pl.String and not isinstance(dtype, pl.List):
        return values, {}
    limit = TITLE_LIMIT if name in {"title", "brand"} else TEXT_LIMIT
    cleaned = [clean_text(joined(value), limit) for value in _progress(values)]
    counts = {
        problem: sum(getattr(text, problem) for text in cleaned)
        for problem in ("unescaped", "control_characters", "clipped")
    }
    return pl.Series(name, [text.text for text in cleaned], dtype=pl.String), counts


def _progress(values: pl.Series) -> Any:
    return tqdm(values.to_list(), desc=f"cleaning {values.name}", delay=2, leave=False)
