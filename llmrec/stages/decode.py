"""The decode stage: top-K lists of all held-out users by every model of the run, and how many are proven exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmrec import layout
from llmrec.artifacts import Input, Stage, StageContext
from llmrec.errors import UserError
from llmrec.stages import collaborative, data, dpo, grpo, ids, sft

if TYPE_CHECKING:
    import polars as pl

    from llmrec.config import Recipe

VALID = "valid"
"""The split by which aligned models are judged (`llmrec.evaluate.gate`)."""


def run(ctx: StageContext) -> None:
    """Write `decode/<model>-<split>.parquet` for each model of the run, and `decode/report.json`.

    Splits are the recipe's, and `valid` where there is an aligned model. Lists that this run or its parent holds
    already, of the same model by the same settings, are taken over; the manifest's notes name them.

    Raises:
        UserError: no sft stage, broken files, or a split without targets.
    """
    from llmrec.files import link_or_copy, write_json
    from llmrec.recommend.lists import certified_share, ranked_lists
    from llmrec.recommend.model_names import ALIGNED, SFT
    from llmrec.recommend.recommender import Recommender
    from llmrec.recommend.reuse import find_lists

    decode = ctx.recipe.decode
    recommender = Recommender.load(ctx.run, SFT, decode.device, as_trained=True)
    aligned = [model for model in recommender.run.adapters if model in ALIGNED]
    gate = [VALID] if aligned and VALID not in decode.splits else []
    examples = {split: _examples(ctx, split) for split in [*decode.splits, *gate]}
    shares: dict[str, dict[str, float | None]] = {split: {} for split in examples}
    taken: dict[str, str] = {}
    for model in [SFT, *aligned]:
        for split, rows in examples.items():
            name = layout.lists(model, split)
            found = find_lists(ctx, model, split)
            if found is not None:
                link_or_copy(found[0], ctx.work / name)
                shares[split][model], taken[name] = found[1], found[0].parents[1].name
                continue
            top = recommender.rank(rows["history"].to_list(), decode, model=model)
            ranked_lists(rows["user_id"], top, recommender.items).write_parquet(ctx.work / name)
            shares[split][model] = certified_share(top)
    if taken:
        ctx.notes["taken"] = taken
    report: dict[str, Any] = {"engine": decode.engine, "width": decode.width, "k": decode.list_length}
    report["splits"] = {
        split: {"users": len(rows), "certified": shares[split]} for split, rows in examples.items()
    }
    write_json(ctx.work / layout.DECODE_REPORT, report)


def _examples(ctx: StageContext, split: str) -> pl.DataFrame:
    from llmrec.data.examples import evaluation_examples

    examples = evaluation_examples(ctx.run, split, ctx.recipe.decode.users, ctx.recipe.seed)
    if examples.is_empty():
        raise UserError(f"data: no user has a {split} target to decode for")
    return examples


def prior_files(recipe: Recipe) -> list[str]:
    """Files of the stage collaborative that hold the prior's model."""
    from llmrec.collaborative.systems import files_of

    return files_of([recipe.decode.prior.system] if recipe.decode.prior is not None else [])


STAGE = Stage(
    name="decode",
    help="Rank the catalogue for every user, constrained to real items.",
    version=2,
    sections=("data.history", "decode"),
    reads=(
        data.STAGE,
        Input(collaborative.STAGE, prior_files),
        ids.STAGE,
        sft.STAGE,
        dpo.STAGE,
        grpo.STAGE,
    ),
    owns=("decode",),
    run=run,
    start_seconds=8,
)
