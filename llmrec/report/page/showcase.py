"""Ten example users: their history, their recommendations, and the held-out target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec import layout
from llmrec.data.examples import evaluation_examples, load_items
from llmrec.errors import shortened
from llmrec.evaluate.lists import read_lists

LONGEST_TITLE = 110


def draw_users(
    run: Path, system: str, split: str, protocol: dict[str, Any], users: int = 10, shown: int = 8, k: int = 10
) -> list[dict[str, Any]]:
    """Draw evaluated users at random with the protocol's seed, and look up the titles of their items.

    Args:
        run: the run folder.
        system: the system whose lists are shown.
        split: `valid` or `test`.
        protocol: the protocol of `eval/metrics.json`.
        users: number of users to draw.
        shown: number of last history items to show.
        k: number of list items to show.

    Returns:
        Per user `user`, `earlier` (number of history items that are not shown), `history`, `target`, `items` (title,
        and whether it is the target), `hit` (rank of the target in the list, or None) and `chosen_before` (how often
        the target occurs in the history).
    """
    examples = evaluation_examples(run, split, protocol["users"], protocol["seed"])
    count = min(users, len(examples))
    rows = np.random.default_rng(protocol["seed"]).choice(len(examples), count, replace=False)
    sample = examples[np.sort(rows)].cast({"user_id": pl.String})
    lists = read_lists(run / layout.lists(system, split)).filter(pl.col("rank") <= k)
    ranked = lists.join(sample, on="user_id", how="semi").sort("user_id", "rank")
    list_of = dict(ranked.group_by("user_id").agg("item_id").iter_rows())
    names = titles(run)
    cards = []
    for user, history, target in sample.select("user_id", "history", "target").iter_rows():
        listed = list_of.get(user, [])
        cards.append(
            {
                "user": user,
                "earlier": max(0, len(history) - shown),
                "history": [names.get(item, item) for item in history[-shown:]],
                "target": names.get(target, target),
                "items": [{"title": names.get(item, item), "hit": item == target} for item in listed],
                "hit": listed.index(target) + 1 if target in listed else None,
                "chosen_before": history.count(target),
            }
        )
    return cards


def titles(run: Path) -> dict[str, str]:
    """Return the title of every item, shortened to at most `LONGEST_TITLE` characters."""
    frame = load_items(run).select(pl.col("item_id").cast(pl.String), "title")
    return {item: shortened(title or item, LONGEST_TITLE) for item, title in frame.iter_rows()}
