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
    """Files outside the run that the stage reads: prompt files, and a local base model or earlier run."""
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
    """Files of the stage collaborative that hold the teacher."""
    from llmrec.collaborative.systems import files_of

    return files_of([recipe.sft.distillation.teacher] if recipe.sft.distillation is not None else [])


def sections(recipe: Recipe, requested: Collection[str]) -> tuple[str, ...]:
    """Sections that the weights and the log depend on; validation lists leave out seen items as decoding does."""
    lists = ("decode.mask_seen",) if recipe.sft.valid_lists is not None else ()
    return ("data.history", "base", "prompts", "sft", "track", *lists)


def run(context: StageContext) -> None:
    """Fine-tune, then write `base/`, `sft/` (an adapter in the LoRA modes) and `sft/metrics.jsonl`.

    Raises:
        UserError: what the base, the prompts or the settings have wrong, or a loss that is no number.
    """
    from llmrec.train.sft.fine_tune import fine_tune

    fine_tune(context)


STAGE = Stage(
    name="sft",
    help="Tune the language model on users' histories.",
    version=1,
    sections=sections,
    reads=(data.STAGE, Input(collaborative.STAGE, teacher_files), ids.STAGE),
    # Aligned adapters stand on the base that is replaced, so they are deleted with it.
    owns=("sft", "base", "dpo", "grpo"),
    run=run,
    external=external,
    start_seconds=20,
)
