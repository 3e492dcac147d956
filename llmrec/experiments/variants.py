"""Variants of a recipe: ordinary runs that differ by overrides, are judged on validation users, and share stages."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec import estimate, layout, pipeline
from llmrec.artifacts import Stage
from llmrec.config import Recipe, load_recipe
from llmrec.errors import UserError
from llmrec.evaluate.summary import JUDGED_SPLIT
from llmrec.files import read_json
from llmrec.metrics.metric import load_metrics, rank_metrics
from llmrec.metrics.ranking import metric_names
from llmrec.recommend.model_names import SFT

UNTIL = "eval"
"""Last stage of a variant."""
ON_VALIDATION = f"decode.splits=[{JUDGED_SPLIT}]"
"""Override of every variant."""


@dataclass(frozen=True)
class VariantRun:
    """One variant of a recipe.

    Attributes:
        name: name of the run.
        recipe: the recipe with all overrides, `parent` included.
        command: arguments of `llmrec eval`.
        shared: stages whose settings equal those of the parent.
    """

    name: str
    recipe: Recipe
    command: tuple[str, ...]
    shared: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return layout.run_folder(self.name)

    def unfinished(self) -> list[str]:
        """Return the stages that the run folder lacks."""
        return pipeline.pending(self.recipe.model_copy(update={"parent": None}), self.folder, UNTIL)

    def pending(self) -> list[str]:
        """Return the stages that neither the run folder nor the parent has."""
        return pipeline.pending(self.recipe, self.folder, UNTIL)

    def stages_to_run(self) -> list[Stage]:
        """Return the stages that are neither done nor shared with the parent, for the plan."""
        lacking = set(self.unfinished()) - set(self.shared)
        return [stage for stage in pipeline.stages_of(self.recipe, UNTIL) if stage.name in lacking]

    def seconds(self) -> float | None:
        """Estimated seconds of the stages to run; None while the size of the data is unknown."""
        values = list(estimate.plan(self.recipe, self.folder, self.stages_to_run()).seconds.values())
        return None if None in values else sum(value for value in values if value is not None)

    def process_of(self, stage: str) -> list[str]:
        """Return the arguments of a process that runs the variant up to a stage."""
        return [sys.executable, "-m", "llmrec.cli", "run", *self.command, "--until", stage]

    def shown_command(self, stage: str) -> str:
        """Return the command that runs the variant up to a stage, quoted for the shell."""
        return shlex.join(["llmrec", stage, *self.command])

    def metrics(self, system: str = SFT) -> dict[str, Any]:
        """Return a system's metrics on validation users; the variant is finished."""
        metrics: dict[str, Any] = read_json(self.folder / layout.METRICS)[JUDGED_SPLIT][system]
        return metrics


def plan_variant(
    recipe_name: str, name: str, overrides: Sequence[str], parents: Mapping[str, Recipe]
) -> VariantRun:
    """Return a variant with the parent that has the most equal stages; the first of equals.

    Args:
        recipe_name: name or path of the recipe.
        name: name of the run.
        overrides: `key=value` texts, without `run` and `parent`.
        parents: runs whose stages may be taken, with their recipes.

    Raises:
        UserError: the recipe or an override is invalid.
    """
    recipe = load_recipe(recipe_name, list(overrides))
    sharing = {parent: shared_stages(recipe, other) for parent, other in parents.items()}
    parent = max(sharing, key=lambda key: len(sharing[key]), default=None)
    shared = sharing[parent] if parent is not None else ()
    command = [recipe_name, f"run={name}", *overrides]
    if shared:
        recipe = recipe.model_copy(update={"parent": parent})
        command.append(f"parent={parent}")
    return VariantRun(name, recipe, tuple(command), shared)


def check_variant(run: VariantRun, metrics: Sequence[str]) -> None:
    """Raise an error for what the recipe's schema cannot know: files that it names, and metrics per user."""
    estimate.plan(run.recipe, run.folder, pipeline.stages_of(run.recipe, UNTIL))
    section = run.recipe.eval
    known = metric_names(section.k, rank_metrics(load_metrics(section.metrics)))
    for name in metrics:
        if name not in known:
            raise UserError(
                f"metric: {name} is not among those of eval.k and eval.metrics: {', '.join(known)}"
            )


def shared_stages(recipe: Recipe, other: Recipe) -> tuple[str, ...]:
    """Return the stages up to `eval` that are the same under two recipes, with all stages that they read."""
    others = stage_signatures(other)
    return tuple(name for name, sign in stage_signatures(recipe).items() if others.get(name) == sign)


def stage_signatures(recipe: Recipe) -> dict[str, str]:
    """Return a hash of each stage's settings, and of those of all stages that it reads, in the order of stages.

    Keys of stages decide what is really taken from a parent's run, and they need its files. This is the part of them
    that is known before anything has run.
    """
    signatures: dict[str, str] = {}
    for stage in pipeline.stages_of(recipe, UNTIL):
        parts = {
            "settings": {key: recipe.value_at(key) for key in ("seed", *stage.recipe_keys_under(recipe))},
            "reads": sorted(
                signatures[read.stage.name]
                for read in stage.inputs
                if read.is_read(recipe) and read.stage.name in signatures
            ),
        }
        signatures[stage.name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return signatures
