"""The road: which stages there are, in what order, and what each depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml

from llmrec import artifacts
from llmrec.artifacts import Stage
from llmrec.collaborative.stage import needed
from llmrec.config import Recipe
from llmrec.errors import UserError

METHODS = ("dpo", "grpo")
"""Stages that are on the road only where a recipe's `align` names them; those done before stay."""
STAGES = (
    Stage(
        name="data",
        version=1,
        reads=(),
        sections=("data.card", "data.root", "data.filters", "data.split"),
        function="llmrec.data.stage:run",
        owns=("data",),
        external="llmrec.data.stage:external",
    ),
    Stage(
        name="collaborative",
        version=1,
        reads=("data",),
        sections=("collaborative",),
        function="llmrec.collaborative.stage:run",
        owns=("collaborative",),
    ),
    Stage(
        name="ids",
        version=2,
        reads=("data", "collaborative"),
        sections=("ids",),
        function="llmrec.ids.stage:run",
        owns=("ids",),
        external="llmrec.ids.stage:external",
        partly={"collaborative": "llmrec.collaborative.stage:files_for_ids"},
    ),
    Stage(
        name="sft",
        version=1,
        reads=("data", "collaborative", "ids"),
        sections=("data.history", "base", "prompts", "sft", "track"),
        function="llmrec.train.sft:run",
        # What stands on an earlier base goes with it.
        owns=("sft", "base", *METHODS),
        external="llmrec.train.sft:external",
        partly={"collaborative": "llmrec.collaborative.stage:files_for_sft"},
    ),
    Stage(
        name="pairs",
        version=1,
        reads=("data", "collaborative", "ids", "sft"),
        sections=("data.history", "pairs"),
        function="llmrec.train.pairs:run",
        owns=("pairs",),
        partly={"collaborative": "llmrec.collaborative.stage:files_for_pairs"},
    ),
    Stage(
        name="dpo",
        version=1,
        reads=("data", "collaborative", "ids", "sft", "pairs"),
        sections=("data.history", "decode.mask_seen", "pairs", "sft.mode", "sft.qlora", "dpo", "track"),
        function="llmrec.train.dpo:run",
        owns=("dpo",),
        partly={"collaborative": "llmrec.collaborative.stage:files_for_pairs"},
    ),
    Stage(
        name="grpo",
        version=1,
        reads=("data", "collaborative", "ids", "sft"),
        sections=("data.history", "decode.mask_seen", "sft.mode", "sft.qlora", "grpo", "track"),
        function="llmrec.train.grpo:run",
        owns=("grpo",),
        external="llmrec.train.rewards:external",
        partly={"collaborative": "llmrec.collaborative.stage:files_for_grpo"},
    ),
    Stage(
        name="decode",
        version=2,
        reads=("data", "collaborative", "ids", "sft", *METHODS),
        sections=("data.history", "decode"),
        function="llmrec.decode.stage:run",
        owns=("decode",),
        partly={"collaborative": "llmrec.collaborative.stage:files_for_decode"},
    ),
    Stage(
        name="zero_shot",
        version=1,
        reads=("data",),
        sections=(
            "data.history",
            "base.model",
            "base.dtype",
            "decode.width",
            "decode.k",
            "decode.widest",
            "decode.users",
            "decode.splits",
            "decode.mask_seen",
            "eval.zero_shot",
        ),
        function="llmrec.decode.zero_shot:run",
        owns=("zero_shot",),
        external="llmrec.decode.zero_shot:external",
    ),
    Stage(
        name="tasks",
        version=1,
        reads=("data", "sft"),
        sections=("data.history", "eval.tasks"),
        function="llmrec.evaluate.asking:run",
        owns=("tasks",),
        external="llmrec.evaluate.asking:external",
    ),
    Stage(
        name="eval",
        version=1,
        reads=("data", "collaborative", "ids", *METHODS, "decode", "zero_shot", "tasks"),
        sections=("data.history", "decode.splits", "decode.users", "decode.mask_seen", "eval"),
        function="llmrec.evaluate.stage:run",
        owns=("eval",),
        partly={
            "collaborative": "llmrec.collaborative.stage:files_for_eval",
            "zero_shot": "llmrec.decode.zero_shot:files",
            "tasks": "llmrec.evaluate.asking:files",
        },
    ),
    Stage(
        name="report",
        version=1,
        reads=("data", "ids", "sft", *METHODS, "decode", "tasks", "eval"),
        sections=("name", "description"),
        function="llmrec.evaluate.report:run",
        owns=("report",),
        partly={"tasks": "llmrec.evaluate.asking:files"},
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


def stages_of(recipe: Recipe, until: str = "report") -> tuple[Stage, ...]:
    """The stages that lead to `until` under a recipe, in order; what none of them reads is left out.

    Of the alignment methods, those that `align` names are trained, and `until` itself.

    The stage collaborative depends on the settings of what it trains, and on no others.
    """
    trained = tuple(f"collaborative.{name}" for name in needed(recipe))
    left_out = set(METHODS) - {*recipe.align, until}
    wanted, road = {until}, []
    for stage in reversed(STAGES):
        if stage.name in wanted:
            wanted |= {name for name in stage.reads if stage.files(name, recipe) != set()} - left_out
            road.append(replace(stage, sections=trained) if stage.name == "collaborative" else stage)
    return tuple(reversed(road))


def execute(
    recipe: Recipe,
    run: Path,
    until: str = "report",
    announce: Callable[[str, str], None] = lambda stage, word: None,
    workers: artifacts.Workers = artifacts.ALONE,
) -> None:
    """Run a recipe's stages up to `until`, skipping what is done.

    Args:
        recipe: the resolved recipe.
        run: the run folder; made if missing.
        until: name of the last stage to run.
        announce: called with a stage's name and `running`, `done`, or `skipped`.
        workers: processes that train together.

    Raises:
        UserError: unknown stage, or what a stage raises.
    """
    if until not in NAMES:
        raise UserError(f"no stage named {until!r}; stages: {', '.join(NAMES)}")
    with artifacts.lock(run):
        with artifacts.atomic_write(run / "recipe.yaml") as partial:
            partial.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), "utf-8")
        for stage in stages_of(recipe, until):
            announce(stage.name, "running")
            ran = artifacts.run_stage(stage, recipe, run, workers)
            announce(stage.name, "done" if ran else "skipped")


def pending(recipe: Recipe, run: Path, until: str = "report") -> list[str]:
    """Stages that `execute` would run. Once one is pending, all that read its files are taken to be."""
    waiting: list[str] = []
    for stage in stages_of(recipe, until):
        stale = any(name in waiting and stage.files(name, recipe) != set() for name in stage.reads)
        if stale or not artifacts.would_skip(stage, recipe, run):
            waiting.append(stage.name)
    return waiting
