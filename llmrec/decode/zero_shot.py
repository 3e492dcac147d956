"""The zero_shot stage: lists of the base as it was before training, a baseline for what training adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrec.artifacts import StageContext, write_json
from llmrec.config import Recipe
from llmrec.errors import UserError

SYSTEM = "zero_shot"


def list_file(split: str) -> str:
    """Where the lists of a split lie in a run folder."""
    return f"{SYSTEM}/lists-{split}.parquet"


def files(recipe: Recipe) -> list[str]:
    """What the stage eval reads of this one: nothing where the baseline is not asked for."""
    return [list_file(split) for split in recipe.decode.splits] if SYSTEM in recipe.eval.baselines else []


def external(recipe: Recipe) -> list[Path]:
    """Files outside the run that the stage reads: the prompt file, and a local base model."""
    from llmrec import assets
    from llmrec.models.base import external as base_files

    return [assets.find("prompts", recipe.eval.zero_shot.task), *base_files(recipe.base)]


def run(ctx: StageContext) -> None:
    """Write `zero_shot/lists-<split>.parquet` for each split of the recipe, and `zero_shot/report.json`.

    Raises:
        UserError: a base with random weights, a template that does more than name titles, or no targets.
    """
    from llmrec.data.examples import evaluation_examples
    from llmrec.decode.frozen import Frozen
    from llmrec.decode.stage import certified, ranked_lists

    recipe = ctx.recipe
    if recipe.base.model == "tiny":
        raise UserError("zero_shot: base.model=tiny has random weights: there is nothing frozen to ask")
    frozen = Frozen(ctx.run, recipe)
    report: dict[str, Any] = {"template": frozen.template.model_dump(mode="json"), "splits": {}}
    for split in recipe.decode.splits:
        examples = evaluation_examples(ctx.run, split, recipe.decode.users, recipe.seed)
        if examples.is_empty():
            raise UserError(f"data: no user has a {split} target to decode for")
        top = frozen.rank(examples)
        ranked_lists(examples["user_id"], top, frozen.items).write_parquet(ctx.work / list_file(split))
        report["splits"][split] = {"users": len(examples), "certified": certified(top)}
    write_json(ctx.work / SYSTEM / "report.json", report)
