"""A sweep as its command describes it, checked before anything runs."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec import artifacts, layout
from llmrec.config import Recipe, load_run_recipe, recipe_tree
from llmrec.errors import UserError
from llmrec.evaluate.summary import JUDGED_SPLIT
from llmrec.experiments.space import Parameter, combinations, split_settings
from llmrec.experiments.variants import ON_VALIDATION, VariantRun, check_variant, plan_variant
from llmrec.files import read_json
from llmrec.recommend.model_names import SFT

SETTINGS = "sweep.json"
"""In a sweep's folder: what its commands agree on."""
NO_TRIAL = -1
"""Number of a variant that is planned and not run."""
NOT_SEARCHED = (
    "data",
    "eval",
    "seed",
    "decode.splits",
    "align",
    "name",
    "run",
    "parent",
    "auto",
)
"""Keys, with all keys below them, that decide what is asked of which model, not how well it answers."""
SEARCHED = ("data.history",)
"""Keys below them that may be searched all the same."""


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        name: name of the sweep, and of its folder among the runs; the first part of its runs' names.
        recipe: name or path of the recipe.
        overrides: `key=value` of all trials.
        parameters: what is searched.
        metric: the metric on validation users, such as `ndcg@10`.
        seed: seed of the sampler.
        pruning: whether trainings below the median may be stopped.
        parent: a finished run whose stages may be taken; None: only those of other trials.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    metric: str
    seed: int
    pruning: bool
    parent: str | None

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return layout.runs_root() / self.name

    def run_name(self, number: int) -> str:
        """Return the name of a trial's run."""
        return f"{self.name}-{number}"

    def overrides_of(self, values: Mapping[str, str]) -> list[str]:
        """Return the overrides of a trial with these values."""
        return [*self.overrides, *(f"{key}={value}" for key, value in values.items())]

    def plan(self, number: int, values: Mapping[str, str], parent: str | None = None) -> VariantRun:
        """Return a trial as a variant of the recipe.

        Args:
            number: number of the trial.
            values: key → value of what is searched, as in an override.
            parent: a run whose stages may be taken, besides `self.parent`; None: no other.

        Raises:
            UserError: a key does not exist, or the values are invalid, alone or together.
        """
        parents: dict[str, Recipe] = {}
        for name in (parent, self.parent):
            if name is not None and name != self.run_name(number):
                with contextlib.suppress(UserError):  # removed since: its stages are computed again
                    parents[name] = load_run_recipe(artifacts.find_run(name))
        overrides = [*self.overrides_of(values), ON_VALIDATION]
        return plan_variant(self.recipe, self.run_name(number), overrides, parents)

    def check_space(self) -> VariantRun:
        """Validate the recipe with values of all that is searched; return the first of these variants.

        Raises:
            UserError: a key does not exist, or a value is not of its type.
        """
        variants = [self.plan(NO_TRIAL, values) for values in combinations(self.parameters)]
        for variant in variants:
            check_variant(variant, [self.metric])
        return variants[0]

    def command(self, trials: int) -> str:
        """Return the command of the sweep, without the number of workers."""
        settings = [*self.overrides, *(parameter.written() for parameter in self.parameters)]
        settings += [f"run={self.name}", *([f"parent={self.parent}"] if self.parent else [])]
        metric = f"{JUDGED_SPLIT}.{self.metric}"
        options = ["--trials", str(trials), "--metric", metric, "--seed", str(self.seed)]
        options += [] if self.pruning else ["--no-pruning"]
        return shlex.join(["llmrec", "sweep", self.recipe, *settings, *options])

    def identity(self) -> dict[str, Any]:
        """Return what two commands have to agree on to be one sweep, as JSON data."""
        tree = recipe_tree(self.recipe, [])[1]
        return {
            "recipe": json.loads(json.dumps(tree, default=str)),  # YAML has dates
            "settings": sorted([*self.overrides, *(parameter.written() for parameter in self.parameters)]),
            "metric": f"{JUDGED_SPLIT}.{self.metric}",
            "seed": self.seed,
            "pruning": self.pruning,
        }

    def check_same(self) -> None:
        """Raise a UserError if the folder holds a sweep that was started with other settings."""
        path = self.folder / SETTINGS
        if not path.is_file():
            return
        before = read_json(path)
        for name, value in self.identity().items():
            if before.get(name) != value:
                raise UserError(
                    f"{self.folder}: a sweep with another {name} is there, whose trials would not compare; "
                    "give this one another name: run=NAME"
                )


def plan_sweep(recipe: str, settings: Sequence[str], metric: str, seed: int, pruning: bool) -> Sweep:
    """Return a sweep; its values are not checked yet.

    Args:
        recipe: name or path of the recipe.
        settings: `key=value` of all trials, `key=low..high` and `key=value,value` of what is searched, `run=NAME` for
            the sweep's name, and `parent=RUN`.
        metric: `valid.` and a metric with its cutoff.
        seed: seed of the sampler.
        pruning: whether trainings below the median may be stopped.

    Raises:
        UserError: nothing is searched, a key may not be searched or set, or the metric is not one of validation.
    """
    found = re.fullmatch(rf"{JUDGED_SPLIT}\.(.+@[1-9][0-9]*)", metric)
    if found is None:
        never = "test users are for the final recipe alone; " if metric.startswith("test") else ""
        raise UserError(f"--metric {metric}: {never}write valid.METRIC@CUTOFF, such as valid.ndcg@10")
    fixed, parameters = split_settings(settings)
    if not parameters:
        raise UserError("sweep: nothing to search; give a key a range or choices: sft.lr=1e-4..1e-3")
    for parameter in parameters:
        if _is_at(parameter.key, NOT_SEARCHED) and not _is_at(parameter.key, SEARCHED):
            raise UserError(
                f"{parameter.key}: trials with other values of it cannot be compared; give it one value"
            )
    overrides = [text for text in fixed if not text.startswith(("run=", "parent="))]
    if any(text.startswith("decode.splits=") for text in overrides):
        raise UserError("decode.splits is set by the sweep: validation alone")
    given = dict(text.split("=", 1) for text in fixed if text not in overrides)
    name = given.get("run", f"sweep-{Path(recipe).stem}")
    if (layout.run_folder(name) / layout.RECIPE).is_file():
        raise UserError(f"run={name}: a run has this name; give the sweep another")
    if "parent" in given:
        artifacts.find_run(given["parent"], "parent")
    return Sweep(
        name, recipe, tuple(overrides), tuple(parameters), found[1], seed, pruning, given.get("parent")
    )


def trained_model(recipe: Recipe) -> str:
    """Return the model whose metric counts, which is also the stage that trains it: SFT, or the last of `align`."""
    return recipe.align[-1] if recipe.align else SFT


def can_prune(recipe: Recipe) -> bool:
    """Whether lists of validation users are decoded during the training that counts."""
    return getattr(recipe, trained_model(recipe)).valid_lists is not None


def _is_at(key: str, keys: Sequence[str]) -> bool:
    """Whether a key is one of `keys` or below one of them."""
    return any(f"{key}.".startswith(f"{other}.") for other in keys)
