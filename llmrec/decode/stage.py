"""The decode stage: top-K lists of all held-out users by every model of the run, and how many are proven exact."""

from __future__ import annotations

from typing import Any

import polars as pl

from llmrec.artifacts import StageContext, link_or_copy, write_json
from llmrec.data.examples import evaluation_examples
from llmrec.decode.names import ALIGNED, SFT, list_file
from llmrec.decode.recommender import Recommender
from llmrec.decode.reuse import REPORT, find_lists
from llmrec.decode.tree_engine import TopK
from llmrec.errors import UserError

VALID = "valid"
"""The split by which aligned models are judged (`llmrec.evaluate.gate`)."""


def run(ctx: StageContext) -> None:
    """Write `decode/<model>-<split>.parquet` for each model of the run, and `decode/report.json`.

    Splits are the recipe's, and `valid` where there is an aligned model. Lists that this run or its parent holds
    already, of the same model by the same settings, are taken over; the manifest's notes name them.

    Raises:
        UserError: no sft stage, broken files, or a split without targets.
    """
    decode = ctx.recipe.decode
    recommender = Recommender.load(ctx.run, SFT, decode.device, as_trained=True)
    aligned = [model for model in recommender.run.adapters if model in ALIGNED]
    gate = [VALID] if aligned and VALID not in decode.splits else []
    examples = {split: _examples(ctx, split) for split in [*decode.splits, *gate]}
    shares: dict[str, dict[str, float | None]] = {split: {} for split in examples}
    taken: dict[str, str] = {}
    for model in [SFT, *aligned]:
        for split, rows in examples.items():
            name = list_file(model, split)
            found = find_lists(ctx, model, split)
            if found is not None:
                link_or_copy(found[0], ctx.work / name)
                shares[split][model], taken[name] = found[1], found[0].parents[1].name
                continue
            top = recommender.rank(rows["history"].to_list(), decode, model=model)
            ranked_lists(rows["user_id"], top, recommender.items).write_parquet(ctx.work / name)
            shares[split][model] = certified(top)
    if taken:
        ctx.notes["taken"] = taken
    report: dict[str, Any] = {"engine": decode.engine, "width": decode.width, "k": decode.length}
    report["splits"] = {
        split: {"users": len(rows), "certified": shares[split]} for split, rows in examples.items()
    }
    write_json(ctx.work / REPORT, report)


def _examples(ctx: StageContext, split: str) -> pl.DataFrame:
    examples = evaluation_examples(ctx.run, split, ctx.recipe.decode.users, ctx.recipe.seed)
    if examples.is_empty():
        raise UserError(f"data: no user has a {split} target to decode for")
    return examples


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
