"""What lists are wanted for; ranked lists as tables, and the share of them that is certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from llmrec.decode.top_k import TopK


@dataclass(frozen=True)
class Requests:
    """What lists are wanted for, one row a list.

    Attributes:
        histories: item ids, oldest first.
        prompts: token ids of the same histories.
        allowed: places in trie order of the items that a list may hold; None for all items, as a row or for all rows.
        denied: places in trie order of the items that it may not hold.
    """

    histories: Sequence[Sequence[str]]
    prompts: list[list[int]]
    allowed: list[list[int] | None] | None
    denied: list[list[int]]


def certified_share(top: TopK) -> float | None:
    """Share of lists that are provably the true top-K; None where the engine seeks no proof."""
    return None if top.is_exact is None else round(float(top.is_exact.mean()), 4)


def ranked_lists(users: pl.Series, top: TopK, items: list[str]) -> pl.DataFrame:
    """Ranked lists as a table: `user_id, rank` (from 1)`, item_id, score`; empty slots left out."""
    width = top.items.shape[1]
    table = pl.DataFrame(
        {
            "user": pl.Series(range(len(users)), dtype=pl.Int64).repeat_by(width).explode(),
            "rank": pl.Series(list(range(1, width + 1)) * len(users), dtype=pl.Int32),
            "index": top.items.reshape(-1),
            "score": top.scores.reshape(-1),
        }
    ).filter(pl.col("index") >= 0)
    return table.select(
        user_id=users.gather(table["user"]),
        rank="rank",
        item_id=pl.Series(items, dtype=pl.String).gather(table["index"]),
        score="score",
    )
