"""The eval stage: metrics of the run's models and of the baselines, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import collaborative, data, decode, dpo, grpo, ids, tasks, zero_shot

if TYPE_CHECKING:
    from llmrec.config import Recipe


def baseline_files(recipe: Recipe) -> list[str]:
    """Files of the stage collaborative that hold baselines."""
    from llmrec.collaborative.systems import files_of

    return files_of(recipe.eval.baselines)


def zero_shot_files(recipe: Recipe) -> list[str]:
    """Lists of the stage zero_shot; none where the recipe does not compare with the untuned base."""
    from llmrec.recommend.model_names import ZERO_SHOT

    return (
        [layout.zero_shot_lists(split) for split in recipe.decode.splits]
        if ZERO_SHOT in recipe.eval.baselines
        else []
    )


def run(context: StageContext) -> None:
    """Write `eval/metrics.json`, `eval/per_user.parquet`, and the baselines' lists under `decode/`.

    Where the recipe has tasks also `eval/tasks.json`; where the run has aligned models also `eval/gate.json`.

    Raises:
        UserError: a split without targets, or malformed lists.
    """
    from llmrec.evaluate.evaluation import evaluate

    evaluate(context)


STAGE = Stage(
    name="eval",
    help="Compute metrics for the model and the baselines.",
    version=1,
    sections=("data.history", "decode.splits", "decode.users", "decode.mask_seen", "eval"),
    reads=(
        data.STAGE,
        Input(collaborative.STAGE, baseline_files),
        ids.STAGE,
        dpo.STAGE,
        grpo.STAGE,
        decode.STAGE,
        Input(zero_shot.STAGE, zero_shot_files),
        Input(tasks.STAGE, tasks.answer_files),
    ),
    owns=("eval",),
    run=run,
    start_seconds=3,
)
