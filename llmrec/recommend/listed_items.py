"""The items of a run with their titles, without any model: by name, and as a list for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec import layout
from llmrec.artifacts import base_folder
from llmrec.catalogue.changes import no_changes, read_changes
from llmrec.catalogue.lookup import SEARCHED, TitleSearch, find_items, unknown_item
from llmrec.catalogue.metadata import Metadata
from llmrec.data.examples import load_items, training_histories
from llmrec.errors import KnownNames
from llmrec.recommend.given_ids import check_not_empty


@dataclass(frozen=True)
class NamedItems:
    """The items of a run. Before its SFT these are the items of its data.

    Attributes:
        run: the run's name.
        trained: item ids, in trie order; before SFT in the order of the data.
        added: ids of the items that were added since training.
        retired: ids of items that are no longer recommended.
        titles: item id → title; an item without a title is missing.
    """

    run: str
    trained: list[str]
    added: list[str]
    retired: frozenset[str]
    titles: dict[str, str]

    @classmethod
    def load(cls, run: Path) -> NamedItems:
        """Read the items of a run, an export or a merged checkpoint.

        Raises:
            UserError: the run has no finished data stage, or its files are broken.
        """
        if _has_data_alone(run):
            trained, changes = load_items(run)["item_id"].cast(pl.String).to_list(), no_changes()
        else:
            trained = Metadata.read(base_folder(run)).items
            changes = read_changes(run, trained) or no_changes()
        return cls(
            run.name,
            trained,
            changes.added["item_id"].to_list(),
            frozenset(changes.retired),
            _titles(run) | dict(changes.added.select("item_id", "title").iter_rows()),
        )

    def title(self, item: str) -> str:
        """Return the title of an item; the id itself where there is none."""
        return self.titles.get(item) or item

    def check_history(self, history: Sequence[str]) -> None:
        """Check the item ids of a history.

        Raises:
            InvalidRequestError: it is empty, or an item is unknown.
        """
        check_not_empty(history)
        names = {*self.trained, *self.added}
        unknown = next((item for item in history if item not in names), None)
        if unknown is not None:
            titles = TitleSearch(self.titles) if len(self.titles) <= SEARCHED else None
            known = KnownNames([*self.trained, *self.added])
            raise unknown_item("history", unknown, known, titles, self.run)


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
        UserError: the run has no finished data stage, or its files are broken.
    """
    named = NamedItems.load(run)
    counts = _counts(run)
    states = dict.fromkeys(named.trained, "trained") | dict.fromkeys(named.added, "added")
    states |= dict.fromkeys(named.retired, "retired")
    items = [
        ListedItem(item, named.title(item), None if counts is None else counts.get(item, 0), state)
        for item, state in states.items()
    ]
    items.sort(key=lambda item: -(item.chosen or 0))
    if words is None:
        return items
    by_id = {item.item_id: item for item in items}
    return [by_id[name] for name in find_items(words, {item.item_id: item.title for item in items})]


def _has_data_alone(run: Path) -> bool:
    """Whether a folder is a run without a finished sft stage, whose items are those of its data."""
    trained = (layout.CATALOGUE, layout.EXPORT, layout.manifest("sft"))
    return not any((run / file).is_file() for file in trained)


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
