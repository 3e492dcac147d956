"""The sft stage: supervised fine-tuning on token trees, through TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import collaborative, data, ids

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmrec.config import Recipe


def external(recipe: Recipe) -> list[Path]:
    """Return the files outside the run that the stage reads: prompt files, and a local base or an earlier run."""
    from llmrec import assets
    from llmrec.models.base import checkpoint_files
    from llmrec.models.base import external as base_files
    from llmrec.train.sft.prepare import start_run_folder

    files = [assets.find("prompts", entry.task) for entry in recipe.prompts]
    if recipe.sft.start is None:
        return files + base_files(recipe.base)
    earlier = start_run_folder(recipe.sft.start)
    return files + [path for part in ("base", "sft") for path in checkpoint_files(earlier / part)]


def teacher_files(recipe: Recipe) -> list[str]:
    """Return the files of the collaborative stage with the teacher."""
    from llmrec.collaborative.systems import files_of

    return files_of(
        recipe.collaborative, [recipe.sft.distillation.teacher] if recipe.sft.distillation is not None else []
    )


def recipe_keys(recipe: Recipe, requested: Collection[str]) -> tuple[str, ...]:
    """Return the recipe keys that weights and log depend on; a teacher and validation lists mask seen items."""
    masks = recipe.sft.distillation is not None or recipe.sft.valid_lists is not None
    return ("data.history", *(["data.mask_seen"] if masks else []), "base", "prompts", "sft", "track")


def run(context: StageContext) -> None:
    """Fine-tune, then write `base/`, `sft/` (an adapter in the LoRA modes) and `sft/metrics.jsonl`.

    Raises:
        UserError: the base, the prompts or the settings are invalid, or the loss is not a number.
    """
    from llmrec.train.sft.fine_tune import fine_tune

    fine_tune(context)


STAGE = Stage(
    name="sft",
    help="Tune the language model on users' histories.",
    version=3,
    recipe_keys=recipe_keys,
    reads=(data.STAGE, Input(collaborative.STAGE, teacher_files), ids.STAGE),
    # Aligned adapters belong to the replaced base, so they are deleted with it.
    owns=("sft", "base", "dpo", "grpo"),
    run=run,
    external=external,
    start_seconds=20,
)
