"""The decode stage: top-K lists of all held-out users, and how many of them are proven exact."""

from __future__ import annotations

from typing import Any

import polars as pl

from llmrec.artifacts import StageContext, write_json
from llmrec.data.examples import evaluation_examples
from llmrec.decode.recommender import Recommender
from llmrec.decode.tree_engine import TopK
from llmrec.errors import UserError

SYSTEM = "sft"


def run(ctx: StageContext) -> None:
    """Write `decode/sft-<split>.parquet` for each split of the recipe, and `decode/report.json`."""
    decode = ctx.recipe.decode
    recommender = Recommender.load(ctx.run, device=decode.device, as_trained=True)
    report: dict[str, Any] = {
        "engine": decode.engine,
        "width": decode.width,
        "k": decode.length,
        "splits": {},
    }
    for split in decode.splits:
        examples = evaluation_examples(ctx.run, split, decode.users, ctx.recipe.seed)
        if examples.is_empty():
            raise UserError(f"data: no user has a {split} target to decode for")
        top = recommender.rank(examples["history"].to_list(), decode)
        lists = ranked_lists(examples["user_id"], top, recommender.items)
        lists.write_parquet(ctx.work / "decode" / f"{SYSTEM}-{split}.parquet")
        report["splits"][split] = {"users": len(examples), "certified": certified(top)}
    write_json(ctx.work / "decode" / "report.json", report)


def certified(top: TopK) -> float | None:
    """Share of lists that are provably the true top-K; None where the engine seeks no proof."""
    return None if top.exact is None else round(float(top.exact.mean()), 4)


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
