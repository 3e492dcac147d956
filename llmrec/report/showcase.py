"""Ten users as people would see them: what they chose, what they are recommended, what they chose next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec import layout
from llmrec.data.examples import evaluation_examples, load_items
from llmrec.evaluate.lists import read_lists

LONGEST_TITLE = 110


def draw_users(
    run: Path, system: str, split: str, protocol: dict[str, Any], users: int = 10, shown: int = 8, k: int = 10
) -> list[dict[str, Any]]:
    """Draw evaluated users at random, by the protocol's seed, and put titles to their items.

    Args:
        run: the run folder.
        system: whose lists to show.
        split: `valid` or `test`.
        protocol: of `eval/metrics.json`.
        users: how many to draw.
        shown: how many items of the end of each history to show.
        k: how many items of each list to show.

    Returns:
        Per user `user, earlier` (history items left out)`, history, target, items` (title and whether it is
        the target) and `hit` (rank of the target within the list, or None).
    """
    examples = evaluation_examples(run, split, protocol["users"], protocol["seed"])
    drawn = np.random.default_rng(protocol["seed"]).choice(len(examples), min(users, len(examples)), False)
    chosen = examples[np.sort(drawn)].cast({"user_id": pl.String})
    lists = read_lists(run / layout.lists(system, split)).filter(pl.col("rank") <= k)
    tops = lists.join(chosen, on="user_id", how="semi").sort("user_id", "rank")
    top_of = dict(tops.group_by("user_id").agg("item_id").iter_rows())
    names = titles(run)
    cards = []
    for user, history, target in chosen.select("user_id", "history", "target").iter_rows():
        listed = top_of.get(user, [])
        cards.append(
            {
                "user": user,
                "earlier": max(0, len(history) - shown),
                "history": [names.get(item, item) for item in history[-shown:]],
                "target": names.get(target, target),
                "items": [{"title": names.get(item, item), "hit": item == target} for item in listed],
                "hit": listed.index(target) + 1 if target in listed else None,
            }
        )
    return cards


def titles(run: Path) -> dict[str, str]:
    """Title of every item, cut to a line or two."""
    frame = load_items(run).select(pl.col("item_id").cast(pl.String), "title")
    return {item: _shortened(title or item) for item, title in frame.iter_rows()}


def _shortened(title: str) -> str:
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1].rstrip() + "…"
