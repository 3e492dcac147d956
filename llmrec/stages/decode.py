"""The decode stage: top-K lists of all held-out users from every model of the run, and the share proven exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmrec import layout
from llmrec.artifacts import Input, Stage, StageContext
from llmrec.errors import UserError
from llmrec.stages import collaborative, data, dpo, grpo, ids, sft

if TYPE_CHECKING:
    import polars as pl

    from llmrec.config import Recipe


def run(context: StageContext) -> None:
    """Write `decode/<model>-<split>.parquet` for each model of the run, and `decode/report.json`.

    Splits are those of the recipe, and `valid` if the run has an aligned model. Lists that exist in this run or its
    parent, made by the same model with the same settings, are reused; the manifest's notes name them.

    Raises:
        UserError: the sft stage has not run, files are broken, or a split has no targets.
    """
    from llmrec.evaluate.lists import ranked_lists
    from llmrec.evaluate.summary import JUDGED_SPLIT
    from llmrec.files import link_or_copy, write_json
    from llmrec.recommend.model_names import ALIGNED, SFT
    from llmrec.recommend.recommender import Recommender
    from llmrec.recommend.reuse import find_lists

    decode = context.recipe.decode
    recommender = Recommender.load(context.run, SFT, decode.device, as_trained=True)
    aligned = [model for model in recommender.run.adapters if model in ALIGNED]
    gate_splits = [JUDGED_SPLIT] if aligned and JUDGED_SPLIT not in decode.splits else []
    examples = {split: _examples(context, split) for split in [*decode.splits, *gate_splits]}
    shares: dict[str, dict[str, float | None]] = {split: {} for split in examples}
    reused_from: dict[str, str] = {}
    for model in [SFT, *aligned]:
        for split, rows in examples.items():
            name = layout.lists(model, split)
            existing = find_lists(context, model, split)
            if existing is not None:
                path, shares[split][model] = existing
                link_or_copy(path, context.work / name)
                reused_from[name] = path.parents[1].name
                continue
            top = recommender.rank(
                rows["history"].to_list(), decode, context.recipe.data.mask_seen, model=model
            )
            ranked_lists(rows["user_id"], top, recommender.items).write_parquet(context.work / name)
            shares[split][model] = top.certified_share
    if reused_from:
        context.notes["taken"] = reused_from
    report: dict[str, Any] = {"engine": decode.engine, "width": decode.width, "k": decode.list_length}
    report["splits"] = {
        split: {"users": len(rows), "certified": shares[split]} for split, rows in examples.items()
    }
    write_json(context.work / layout.DECODE_REPORT, report)


def _examples(context: StageContext, split: str) -> pl.DataFrame:
    from llmrec.data.examples import evaluation_examples

    examples = evaluation_examples(context.run, split, context.recipe.decode.users, context.recipe.seed)
    if examples.is_empty():
        raise UserError(f"data: no user has a {split} target to decode for")
    return examples


def prior_files(recipe: Recipe) -> list[str]:
    """Return the files of the collaborative stage with the prior's model."""
    from llmrec.collaborative.systems import files_of

    return files_of(
        recipe.collaborative, [recipe.decode.prior.system] if recipe.decode.prior is not None else []
    )


STAGE = Stage(
    name="decode",
    help="Make each user's list of the catalogue's best items.",
    version=2,
    recipe_keys=("data.history", "data.mask_seen", "decode"),
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
