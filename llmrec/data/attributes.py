"""The tables beside the log: what the items and the users are."""

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
    """Metadata of the items of a log.

    An item without metadata, or without a title, is called `item <id>`. Of several rows with one id the
    first is kept. Rows of items that nobody chose are dropped. All are counted.

    Args:
        table: the card's description.
        files: its files.
        ids: item ids of the log.
        scratch: folder for rewritten copies.

    Returns:
        One row per id, in the order of `ids`, as docs/contract.md has it; and the counts.

    Raises:
        UserError: an unreadable file, an empty id, or titles that are all empty.
    """
    found, report = _attributes(table, "item", files, ids, scratch)
    if len(found) and found["title"].null_count() == len(found):
        raise UserError(
            f"{files[0]}: column {table.columns['title']!r} is empty; correct `columns` in the card"
        )
    report["without_title"] = found["title"].null_count()
    items = bare_items(ids).drop("title").join(found, on="item_id", how="left", maintain_order="left")
    title = pl.coalesce("title", pl.format("item {}", "item_id")).alias("title")
    return items.with_columns(title), report


def bare_items(ids: pl.Series) -> pl.DataFrame:
    """Items of a dataset that has no metadata, each called `item <id>`."""
    return pl.DataFrame({"item_id": ids}).with_columns(title=pl.format("item {}", "item_id"))


def read_users(table: Table, files: list[Path], ids: pl.Series, scratch: Path) -> tuple[pl.DataFrame, Report]:
    """Attributes of the users of a log, one row per id that has any; and the counts, as for items."""
    return _attributes(table, "user", files, ids, scratch)


def _attributes(
    table: Table, key: str, files: list[Path], ids: pl.Series, scratch: Path
) -> tuple[pl.DataFrame, Report]:
    found, report = _first_of_each(table, key, files, ids, scratch)
    columns = {f"{key}_id": found[f"{key}_id"]}
    for name in found.columns[1:]:
        columns[name], counts = _tidy(found[name], table.split_on.get(name))
        report |= {f"{name}_{what}": count for what, count in counts.items()}
    return pl.DataFrame(columns), report


def _first_of_each(
    table: Table, key: str, files: list[Path], ids: pl.Series, scratch: Path
) -> tuple[pl.DataFrame, Report]:
    """Rows whose id is in the log, the first of each, `<key>_id` in front."""
    parts = read.scan(table, files, scratch)
    frame = read.combined(parts)
    identifier = read.identifier(pl.col(key), frame.collect_schema()[key])
    others = [name for name in (*table.columns, *table.flags) if name != key]
    keyed = frame.select(identifier.alias("id"), *others)
    wanted = keyed.filter(pl.col("id").is_in(ids.implode()))
    totals = keyed.select(rows=pl.len(), empty=pl.col("id").null_count(), ids=pl.col("id").n_unique())
    found, total = read.collect(parts, table, wanted, totals)
    rows, empty, distinct = total.row(0)
    if not rows:
        raise UserError(f"{files[0]}: no rows in it")
    if empty and getattr(table, "without_id", "error") == "error":
        where = read.first_bad(parts, identifier.is_null(), key)
        raise UserError(f"{where}: an empty {key} id (column {table.columns[key]!r})")
    distinct -= empty > 0
    first = found.unique("id", keep="first", maintain_order=True).rename({"id": f"{key}_id"})
    return first, {
        "without_metadata": len(ids) - len(first),
        "without_interactions": distinct - len(first),
        "duplicate_rows": rows - empty - distinct,
        "without_id": empty,
    }


def _tidy(values: pl.Series, separator: str | None) -> tuple[pl.Series, Report]:
    """One column made fit: lists of labels, prices, clean text. Other types stay."""
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
        what: sum(getattr(one, what) for one in cleaned)
        for what in ("unescaped", "control_characters", "clipped")
    }
    return pl.Series(name, [one.text for one in cleaned], dtype=pl.String), counts


def _progress(values: pl.Series) -> Any:
    return tqdm(values.to_list(), desc=f"cleaning {values.name}", delay=2, leave=False)
