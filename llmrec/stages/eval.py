"""The eval stage: metrics of the run's models and of the baselines, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import collaborative, data, decode, dpo, grpo, ids, tasks, tiger, zero_shot

if TYPE_CHECKING:
    from llmrec.config import Recipe


def baseline_files(recipe: Recipe) -> list[str]:
    """Return the files of the collaborative stage with the baselines' models."""
    from llmrec.collaborative.systems import files_of
    from llmrec.config import OWN_STAGES

    systems = [name for name in recipe.eval.baselines if name not in OWN_STAGES]
    return files_of(recipe.collaborative, systems)


def zero_shot_files(recipe: Recipe) -> list[str]:
    """Return the lists of the zero_shot stage; none if the recipe does not compare with the untuned base."""
    from llmrec.recommend.model_names import ZERO_SHOT

    return (
        [layout.zero_shot_lists(split) for split in recipe.decode.splits]
        if ZERO_SHOT in recipe.eval.baselines
        else []
    )


def tiger_files(recipe: Recipe) -> list[str]:
    """Return the model of the tiger stage; none if the recipe does not compare with it."""
    from llmrec.recommend.model_names import TIGER

    return [layout.TIGER] if TIGER in recipe.eval.baselines else []


def external(recipe: Recipe) -> list[Path]:
    """Files outside the run that the stage reads: source files of own metrics, and lists made elsewhere."""
    from llmrec.plugins import source_files

    lists = [path for path in map(Path, recipe.eval.lists.values()) if path.is_file()]
    return [*source_files(recipe.eval.metrics), *lists]


def run(context: StageContext) -> None:
    """Write `eval/metrics.json`, `eval/per_user.parquet`, and the baselines' lists under `decode/`.

    It also writes `eval/tasks.json` if the recipe has tasks, and `eval/gate.json` if the run has aligned models.

    Raises:
        UserError: a split has no targets, or lists are malformed.
    """
    from llmrec.evaluate.evaluation import evaluate

    evaluate(context)


STAGE = Stage(
    name="eval",
    help="Compute metrics for the model and the baselines.",
    version=3,
    recipe_keys=("data.history", "decode.splits", "decode.users", "data.mask_seen", "eval"),
    reads=(
        data.STAGE,
        Input(collaborative.STAGE, baseline_files),
        ids.STAGE,
        dpo.STAGE,
        grpo.STAGE,
        decode.STAGE,
        Input(zero_shot.STAGE, zero_shot_files),
        Input(tiger.STAGE, tiger_files),
        Input(tasks.STAGE, tasks.answer_files),
    ),
    owns=("eval",),
    run=run,
    external=external,
    start_seconds=3,
)
