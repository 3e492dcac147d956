"""The file of arms for `llmrec bench quality`, and the runs that follow from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from llmrec import artifacts
from llmrec.config import Recipe, Section, load_run_recipe
from llmrec.config.section import PlainName
from llmrec.errors import UserError
from llmrec.experiments.variants import ON_VALIDATION, VariantRun, check_variant, plan_variant

SET_BY_FILE = {
    "run": "the arm's name",
    "parent": "`parent`",
    "seed": "`seeds`",
    "decode.splits": "validation alone",
}
"""Override that an arms file may not hold → what sets it instead."""


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("name each once")
    return values


def _free(overrides: tuple[str, ...]) -> tuple[str, ...]:
    for text in overrides:
        key = text.partition("=")[0]
        if key in SET_BY_FILE:
            raise ValueError(f"{key} is set by {SET_BY_FILE[key]}")
    return overrides


Overrides = Annotated[tuple[str, ...], AfterValidator(_free)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_unique)]


def _at_a_cutoff(metric: str) -> str:
    if not re.fullmatch(r".+@[1-9][0-9]*", metric):
        raise ValueError("expected a metric and its cutoff, such as ndcg@10")
    return metric


class Arm(Section):
    """One variant of the recipe.

    Attributes:
        name: name of the arm, a part of its runs' names.
        hypothesis: what is expected of the arm, in one sentence.
        overrides: `key=value` as on the command line.
        verdict: what a human decided after looking at the figures, such as `keep`.
    """

    name: PlainName
    hypothesis: Annotated[str, Field(min_length=1)]
    overrides: Overrides = ()
    verdict: str = ""


class ArmsFile(Section):
    """A file of arms.

    Attributes:
        recipe: name or path of the recipe, as on the command line.
        overrides: `key=value` of all arms.
        seeds: each arm is trained once with each seed.
        metric: the metric that decides, such as `ndcg@10`. HR and NDCG at its cutoff are shown too.
        parent: a finished run whose stages are reused where settings and seed agree.
        arms: the arms. The others are compared with the first.
    """

    recipe: str
    overrides: Overrides = ()
    seeds: Seeds = (0,)
    metric: Annotated[str, AfterValidator(_at_a_cutoff)] = "ndcg@10"
    parent: str | None = None
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]

    @property
    def metrics(self) -> list[str]:
        """The columns of the table."""
        k = self.metric.rpartition("@")[2]
        return list(dict.fromkeys([f"hr@{k}", f"ndcg@{k}", self.metric]))


@dataclass(frozen=True)
class ArmRun(VariantRun):
    """One arm with one seed.

    Attributes:
        arm: the arm.
    """

    arm: Arm


def plan_runs(file: ArmsFile, path: Path) -> list[ArmRun]:
    """Return the runs of all arms, seed by seed, each with the parent that shares the most stages with it.

    A parent is the run that the file names, or an earlier arm with the same seed.

    Args:
        file: the arms.
        path: the arms file; its name is the first part of the runs' names.

    Raises:
        UserError: lists what is wrong with each arm.
    """
    problems: dict[str, dict[str, None]] = {}  # message → names of the arms that it concerns
    names = [arm.name for arm in file.arms]
    for name in names:
        if names.count(name) > 1:
            problems.setdefault("the name is used twice", {})[name] = None
    given = {} if file.parent is None else {file.parent: _recipe_of_run(file.parent)}
    runs: list[ArmRun] = []
    for seed in file.seeds:
        parents = dict(given)
        for arm in file.arms:
            overrides = [*file.overrides, *arm.overrides, ON_VALIDATION, f"seed={seed}"]
            try:
                variant = plan_variant(file.recipe, f"{path.stem}-{arm.name}-{seed}", overrides, parents)
                run = ArmRun(**vars(variant), arm=arm)
                check_variant(run, file.metrics)
            except UserError as error:
                problems.setdefault(str(error), {})[arm.name] = None
                continue
            parents[run.name] = run.recipe
            runs.append(run)
    if problems:
        told = (f"arm {', '.join(concerned)}: {message}" for message, concerned in problems.items())
        raise UserError(f"{path}: {'; '.join(told)}")
    return runs


def _recipe_of_run(name: str) -> Recipe:
    return load_run_recipe(artifacts.find_run(name, "parent"))
