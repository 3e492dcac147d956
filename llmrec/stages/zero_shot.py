"""The zero_shot stage: lists of the untuned base, a baseline that shows the gain of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec import layout
from llmrec.artifacts import Stage, StageContext
from llmrec.errors import UserError
from llmrec.stages import data

if TYPE_CHECKING:
    from llmrec.config import Recipe


def external(recipe: Recipe) -> list[Path]:
    """Return the files outside the run that the stage reads: the prompt file, and a local base model."""
    from llmrec import assets
    from llmrec.models.base import external as base_files

    return [assets.find("prompts", recipe.eval.zero_shot.task), *base_files(recipe.base)]


def run(context: StageContext) -> None:
    """Write `zero_shot/lists-<split>.parquet` for each split of the recipe, and `zero_shot/report.json`.

    With `eval.zero_shot.reasoning` it also writes `zero_shot/reasoning-<split>.parquet`, what the base wrote.

    Raises:
        UserError: the base has random weights, the template names more than titles, or a split has no targets.
    """
    import polars as pl

    from llmrec.data.examples import evaluation_examples
    from llmrec.evaluate.lists import ranked_lists
    from llmrec.files import write_json
    from llmrec.recommend.zero_shot.recommender import ZeroShotRecommender

    recipe = context.recipe
    if recipe.base.model == "tiny":
        raise UserError("zero_shot: base.model=tiny has random weights, so it is no untuned baseline")
    recommender = ZeroShotRecommender(context.run, recipe)
    report: dict[str, Any] = {"template": recommender.prompts.template.model_dump(mode="json"), "splits": {}}
    for split in recipe.decode.splits:
        examples = evaluation_examples(context.run, split, recipe.decode.users, recipe.seed)
        if examples.is_empty():
            raise UserError(f"data: no user has a {split} target to decode for")
        asked = recommender.ask(examples)
        top = recommender.rank(examples, asked.prompts)
        ranked_lists(examples["user_id"], top, recommender.items).write_parquet(
            context.work / layout.zero_shot_lists(split)
        )
        about: dict[str, Any] = {"users": len(examples), "certified": top.certified_share}
        if recipe.eval.zero_shot.examples:
            about["examples"] = asked.examples
        if asked.texts is not None:
            pl.DataFrame({"user_id": examples["user_id"], "text": asked.texts}).write_parquet(
                context.work / layout.zero_shot_reasoning(split)
            )
        report["splits"][split] = about
    write_json(context.work / layout.ZERO_SHOT_REPORT, report)


STAGE = Stage(
    name="zero_shot",
    help="Rank titles with the untuned base model, as a baseline.",
    version=1,
    recipe_keys=(
        "data.history",
        "base.model",
        "base.dtype",
        "decode.width",
        "decode.k",
        "decode.widest",
        "decode.users",
        "decode.splits",
        "data.mask_seen",
        "eval.zero_shot",
    ),
    reads=(data.STAGE,),
    owns=("zero_shot",),
    run=run,
    external=external,
    start_seconds=15,
)
