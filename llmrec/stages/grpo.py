"""The grpo stage: the tuned model aligned by rewards of its own rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import collaborative, data, ids, sft

if TYPE_CHECKING:
    from llmrec.config import Recipe


def external(recipe: Recipe) -> list[Path]:
    """Files outside the run that the stage reads: source files of the user's own rewards."""
    from llmrec.train.alignment.rewards import source_files

    return source_files(reward.name for reward in recipe.grpo.rewards)


def judge_files(recipe: Recipe) -> list[str]:
    """Files of the stage collaborative that hold the judge a reward asks."""
    from llmrec.collaborative.systems import files_of

    return files_of([recipe.grpo.judge] if recipe.grpo.needs_judge else [])


def run(context: StageContext) -> None:
    """Align the SFT model with rewarded rollouts; write `grpo/`, a pure LoRA adapter, and its log.

    Raises:
        UserError: a reward that is broken, no prompts, a loss that is no number, or no memory left.
    """
    from llmrec.train.alignment.grpo import align_by_rewards

    align_by_rewards(context)


STAGE = Stage(
    name="grpo",
    help="Align the tuned model by rewards of its own lists, and judge it on validation.",
    version=1,
    sections=("data.history", "decode.mask_seen", "sft.mode", "sft.qlora", "grpo", "track"),
    reads=(data.STAGE, Input(collaborative.STAGE, judge_files), ids.STAGE, sft.STAGE),
    owns=("grpo",),
    run=run,
    external=external,
    is_alignment=True,
    start_seconds=20,
)
