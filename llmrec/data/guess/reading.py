"""Reads a dataset by its card, as the data stage does, and keeps what a user wants to see of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from llmrec.config import DataSize, Filters, Split
from llmrec.data.attributes import Report, bare_items, read_items, read_users, stand_in_title
from llmrec.data.build import read_interactions
from llmrec.data.clean import clean, k_core, without_leaks
from llmrec.data.guess.doubts.swapped import tell_swapped
from llmrec.data.log import Log
from llmrec.data.source import Dataset
from llmrec.data.tables.notes import quiet

_CORE = 5
_FEWEST = 3
"""Interactions of a user that the split `leave_one_out` needs."""


@dataclass(frozen=True)
class Understood:
    """A dataset as the data stage reads it.

    Attributes:
        users: number of users.
        items: number of items.
        interactions: number of interactions that stay.
        dropped: number of rows that were left out, by reason.
        in_core: number of interactions that filters of 5 for each user and item would keep.
        short_users: number of users with fewer than 3 interactions.
        has_times: whether the log has times.
        item_report: counts of the items' table; empty without one.
        user_report: counts of the users' table; empty without one.
        untitled: number of items without a title, those that the items' table lacks included.
        untitled_interactions: number of interactions with these items.
        same_title: number of items whose title is that of another item, too.
        head: the log's first rows, in the order of the file, with what is known of their items; times as text.
    """

    users: int
    items: int
    interactions: int
    dropped: dict[str, int]
    in_core: int
    short_users: int
    has_times: bool
    item_report: Report
    user_report: Report
    untitled: int
    untitled_interactions: int
    same_title: int
    head: pl.DataFrame


def read_dataset(
    dataset: Dataset, filters: Filters, split: Split, scratch: Path, rows: int = 10
) -> Understood:
    """Read all tables of a dataset by the code of the data stage.

    Args:
        dataset: the card's tables and their files.
        filters: the card's filters, or the recipe's.
        split: the card's split, or the recipe's.
        scratch: an empty folder for rewritten copies.
        rows: number of rows of `head`.

    Raises:
        UserError: the data stage cannot read the files like this; the message names the file and row.
    """
    tell_swapped(dataset, scratch)
    read, _ = without_leaks(read_interactions(dataset, split, scratch))
    log, removed = clean(read, filters)
    items, item_report = None, Report()
    if dataset.items is not None:
        items, item_report = read_items(*dataset.items, log.items, scratch, log.users)
    user_report = Report()
    if dataset.users is not None:
        _, user_report = read_users(*dataset.users, log.users, scratch, log.items)
    user, item = log.rows["user"].to_numpy(), log.rows["item"].to_numpy()
    titles = bare_items(log.items) if items is None else items
    is_untitled = titles.select(pl.col("title") == stand_in_title()).to_series().to_numpy()
    return Understood(
        users=len(log.users),
        items=len(log.items),
        interactions=len(log.rows),
        dropped=read.dropped | {name: count for name, count in removed.items() if count},
        in_core=int(k_core(user, item, _CORE, _CORE).sum()),
        short_users=int((np.bincount(user) < _FEWEST).sum()),
        has_times=log.has_times,
        item_report=item_report,
        user_report=user_report,
        untitled=int(is_untitled.sum()),
        untitled_interactions=int(is_untitled[item].sum()),
        same_title=int(titles["title"].is_duplicated().sum()),
        head=_head(read, items, rows),
    )


LARGEST = 500_000_000
"""Bytes of a dataset's files above which nothing but the data stage reads them: it would take minutes."""


def is_small(dataset: Dataset) -> bool:
    """Whether a dataset is read quickly enough to be read for a look."""
    return sum(path.stat().st_size for path in dataset.files()) <= LARGEST


def count(dataset: Dataset, filters: Filters, split: Split) -> DataSize:
    """Return the size of a dataset; its files are read by the code of the data stage, which says nothing then.

    Args:
        dataset: the card's tables and their files.
        filters: the card's filters, or the recipe's.
        split: the card's split, or the recipe's.

    Raises:
        UserError: the log cannot be read; the message names the file and row.
    """
    with tempfile.TemporaryDirectory(prefix="llmrec-count-") as scratch, quiet():
        log, _ = without_leaks(read_interactions(dataset, split, Path(scratch)))
        log, _ = clean(log, filters)
    return DataSize(users=len(log.users), items=len(log.items), interactions=len(log.rows))


def _head(log: Log, items: pl.DataFrame | None, rows: int) -> pl.DataFrame:
    first = log.rows.head(rows)
    columns = {"user": log.users[first["user"]], "item": log.items[first["item"]]}
    if "time" in first.columns:
        columns["time"] = _shown_times(first["time"], log)
    if "rating" in first.columns:
        columns["rating"] = first["rating"]
    if "event" in first.columns:
        columns["event"] = pl.Series(
            [None if code is None else log.events[code] for code in first["event"]], dtype=pl.String
        )
    head = pl.DataFrame(columns)
    if items is None:
        return head
    known = [name for name in ("title", "categories", "brand", "price") if name in items.columns]
    described = items.select(pl.col("item_id").alias("item"), *known)
    return head.join(described, on="item", how="left", maintain_order="left")


def _shown_times(times: pl.Series, log: Log) -> pl.Series:
    if log.clock() == "positions":
        return times.cast(pl.String)
    return pl.from_epoch((times // log.unit).cast(pl.Int64)).dt.strftime("%Y-%m-%d %H:%M:%S")
