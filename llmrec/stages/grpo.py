"""The grpo stage: alignment of the tuned model with rewards of its own rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import collaborative, data, ids, sft

if TYPE_CHECKING:
    from llmrec.config import Recipe


def external(recipe: Recipe) -> list[Path]:
    """Return the files outside the run that the stage reads: source files of the user's own rewards."""
    from llmrec.plugins import source_files

    return source_files(reward.name for reward in recipe.grpo.rewards)


def judge_files(recipe: Recipe) -> list[str]:
    """Return the files of the collaborative stage with the judge that a reward needs."""
    from llmrec.collaborative.systems import files_of

    return files_of(recipe.collaborative, [recipe.grpo.judge] if recipe.grpo.needs_judge else [])


def run(context: StageContext) -> None:
    """Align the SFT model with rewarded rollouts; write `grpo/`, a pure LoRA adapter, and its log.

    Raises:
        UserError: a reward fails, there are no prompts, the loss is not a number, or memory is exhausted.
    """
    from llmrec.train.alignment.grpo import align_by_rewards

    align_by_rewards(context)


STAGE = Stage(
    name="grpo",
    help="Align the tuned model with rewards of its own lists. The gate judges it on validation users.",
    version=2,
    recipe_keys=(
        "data.history",
        "data.mask_seen",
        "decode.reasoning",
        "sft.mode",
        "sft.qlora",
        "grpo",
        "track",
    ),
    reads=(data.STAGE, Input(collaborative.STAGE, judge_files), ids.STAGE, sft.STAGE),
    owns=("grpo",),
    run=run,
    external=external,
    is_alignment=True,
    start_seconds=20,
)
