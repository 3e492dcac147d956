"""Finds evidence that a card has the columns of users and items the wrong way round."""

from __future__ import annotations

from pathlib import Path

from llmrec.data.guess import names
from llmrec.data.guess.columns import CLEAR, depends_on
from llmrec.data.source import Dataset
from llmrec.data.tables import read
from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import quiet, tell

ROWS = 5_000
"""First rows of a log that are looked at."""
LARGEST = 200_000_000
"""Bytes of a file above which its titles are not looked at: it would be read once more."""


def tell_swapped(dataset: Dataset, scratch: Path) -> None:
    """Say on stderr that users and items seem to be swapped, if the columns' names or the titles show it.

    Neither numbers of users and items nor those of their rows show it: shops have both more and fewer users than
    items.

    Args:
        dataset: the card's tables and their files.
        scratch: folder for rewritten copies.
    """
    evidence = _by_names(dataset) or _by_titles(dataset, scratch)
    if evidence is not None:
        tell(
            dataset.interactions[1][0].name,
            f"user and item seem to be swapped in the card: {evidence}; if so, exchange `columns.user` and "
            "`columns.item`",
        )


def _by_names(dataset: Dataset) -> str | None:
    columns = dataset.interactions[0].columns
    user, item = columns["user"], columns["item"]
    if names.score("item", user) >= CLEAR > names.score("user", user) and (
        names.score("user", item) >= CLEAR > names.score("item", item)
    ):
        return f"{user!r} is named like a column of items, {item!r} like one of users"
    return None


def _by_titles(dataset: Dataset, scratch: Path) -> str | None:
    """Where a log holds titles, an item has one title, and a user has many."""
    log, files = dataset.interactions
    if dataset.items is None or dataset.items[1] != files or files[0].stat().st_size > LARGEST:
        return None
    if log.join is not None:  # the users are in another file than the titles
        return None
    items = dataset.items[0]
    columns = {"user": log.columns["user"], "item": log.columns["item"], "title": items.columns["title"]}
    if columns["title"] in (columns["user"], columns["item"]):
        return None
    written = {"path": files[0].name, "columns": columns}
    table = Table.model_validate(log.model_dump(include=_WRITTEN) | written)
    with quiet():  # the data stage opens the file again, and tells
        parts = read.scan(table, files[:1], scratch)
    (head,) = read.collect(parts, table, parts[0].frame.head(ROWS))
    if depends_on(head["title"], head["user"]) and not depends_on(head["title"], head["item"]):
        title = columns["title"]
        return f"{title!r} is the same in all rows of a user, and differs in those of an item"
    return None


_WRITTEN = {"format", "separator", "header", "skip", "encoding", "quote", "escape", "missing"}
"""Keys of a table that say how its files are written."""
