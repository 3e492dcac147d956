"""The items of a run as a list for people: ids, titles, and how often each was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec import layout
from llmrec.artifacts import base_folder
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.changes import no_changes, read_changes
from llmrec.catalogue.lookup import find_items
from llmrec.data.examples import load_items, training_histories


@dataclass(frozen=True)
class ListedItem:
    """One item of a run.

    Attributes:
        item_id: its id.
        title: its title; its id where the run has no titles.
        chosen: number of its training interactions; None if the folder has no interactions.
        state: `trained`, `added` since training, or `retired`.
    """

    item_id: str
    title: str
    chosen: int | None
    state: str


def list_items(run: Path, words: str | None = None) -> list[ListedItem]:
    """List the items of a run, an export or a merged checkpoint; the most chosen first.

    Args:
        run: the folder.
        words: keep only items whose title or id contains all these words, the closest titles first; None keeps all.

    Raises:
        UserError: the run has no finished sft stage, or its files are broken.
    """
    base = base_folder(run)
    trained = Catalogue.load(base, as_trained=True).items
    changes = read_changes(run, trained) or no_changes()
    titles = _titles(run) | dict(changes.added.select("item_id", "title").iter_rows())
    counts = _counts(run)
    added, retired = changes.added["item_id"].to_list(), set(changes.retired)
    items = [
        ListedItem(
            item,
            titles.get(item, item),
            None if counts is None else counts.get(item, 0),
            "retired" if item in retired else "added" if place >= len(trained) else "trained",
        )
        for place, item in enumerate([*trained, *added])
    ]
    items.sort(key=lambda item: -(item.chosen or 0))
    if words is None:
        return items
    by_id = {item.item_id: item for item in items}
    return [by_id[name] for name in find_items(words, {item.item_id: item.title for item in items})]


def _titles(run: Path) -> dict[str, str]:
    """Return item id → title; empty for an export or a merged checkpoint without an items table beside it."""
    if not (run / layout.ITEMS).is_file():
        return {}
    frame = load_items(run).select(pl.col("item_id").cast(pl.String), "title")
    return {item: title for item, title in frame.iter_rows() if title}


def _counts(run: Path) -> dict[str, int] | None:
    """Return item id → number of training interactions; None without interactions."""
    if not (run / layout.INTERACTIONS).is_file():
        return None
    chosen = training_histories(run).select(item=pl.col("items").explode())
    return dict(chosen.group_by("item").len().iter_rows())
