"""The pipeline: all stages in order, the selection that a recipe needs, and their execution."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec import artifacts, assets, layout
from llmrec.artifacts import Stage
from llmrec.errors import UserError
from llmrec.files import atomic_write
from llmrec.progress.run_lock import lock
from llmrec.stages import (
    collaborative,
    data,
    decode,
    dpo,
    eval,
    grpo,
    ids,
    pairs,
    report,
    sft,
    tasks,
    tiger,
    zero_shot,
)

if TYPE_CHECKING:
    from llmrec.config import Recipe

MODULES = (data, collaborative, ids, sft, pairs, dpo, grpo, decode, zero_shot, tiger, tasks, eval, report)
STAGES: tuple[Stage, ...] = tuple(module.STAGE for module in MODULES)
NAMES = tuple(stage.name for stage in STAGES)
KEPT = ("data", "ids", "sft")
"""Stages that commands on a finished run take as they are."""
LATER = NAMES[NAMES.index("sft") + 1 :]
"""Stages whose commands take a finished run."""


def for_recipe(recipe: Recipe) -> tuple[Stage, ...]:
    """Return all stages with `requested` set: the files of a stage that other stages read under a recipe.

    Some stages make only requested files: the collaborative stage trains only the systems that others read.
    """
    requested: dict[str, set[str]] = {name: set() for name in NAMES}
    for stage in STAGES:
        for read in stage.inputs:
            requested[read.stage.name] |= set(read.files(recipe) if read.files is not None else ())
    return tuple(replace(stage, requested=frozenset(requested[stage.name])) for stage in STAGES)


def stages_of(recipe: Recipe, until: str = "report") -> tuple[Stage, ...]:
    """Return the stages that `until` needs under a recipe, and `until` itself, in order.

    An alignment stage is included only if the recipe's `align` names it, or if it is `until`.
    """
    skipped = {stage.name for stage in STAGES if stage.is_alignment} - {*recipe.align, until}
    wanted, needed = {until}, []
    for stage in reversed(for_recipe(recipe)):
        if stage.name in wanted:
            wanted |= {read.stage.name for read in stage.inputs if read.is_read(recipe)} - skipped
            needed.append(stage)
    return tuple(reversed(needed))


def execute(
    recipe: Recipe,
    run: Path,
    until: str = "report",
    announce: Callable[[str, str], None] = lambda stage, word: None,
    workers: artifacts.Workers = artifacts.SINGLE_PROCESS,
    records: bool = True,
    kept: Collection[str] = (),
) -> Recipe:
    """Run a recipe's stages up to `until`; skip those that are done.

    Args:
        recipe: the resolved recipe.
        run: the run folder; it is created if missing.
        until: name of the last stage to run.
        announce: called with a stage's name and `running`, `done`, `skipped` or `kept`.
        workers: processes that train together.
        records: whether the recipe becomes the run's `recipe.yaml`; a preview leaves an existing one as it is.
        kept: names of stages that are taken as they are in the run, whatever has changed since.

    Returns:
        The recipe, with numbers for keys that were `auto` if the data stage is among the stages.

    Raises:
        UserError: an unknown stage, or a stage fails.
    """
    if until not in NAMES:
        raise UserError(f"no stage named {until!r}; stages: {', '.join(NAMES)}")
    with lock(run):
        if records or not (run / layout.RECIPE).is_file():
            _record(recipe, run)
        for name in [stage.name for stage in stages_of(recipe, until)]:
            if name in kept:
                announce(name, "kept")
            else:
                announce(name, "running")
                # Anew, because a stage's keys follow from the recipe, which the data stage may have completed.
                stage = next(stage for stage in for_recipe(recipe) if stage.name == name)
                ran = artifacts.run_stage(stage, recipe, run, workers, NAMES)
                announce(name, "done" if ran else "skipped")
            if name == data.STAGE.name and recipe.auto:
                recipe = with_sizes(recipe, run)
                if records:
                    _record(recipe, run)
    return recipe


def with_sizes(recipe: Recipe, *folders: Path) -> Recipe:
    """Return a recipe with numbers for its keys that are `auto`, if the data stage of a folder has counted."""
    if not recipe.auto:
        return recipe
    from llmrec.config import DataSize, sized

    size = next(filter(None, map(DataSize.counted, folders)), None)
    return recipe if size is None else sized(recipe, size)


def _record(recipe: Recipe, run: Path) -> None:
    """Write the recipe and a copy of the dataset's card into the run, so that its name and licence stay known."""
    import yaml

    with atomic_write(run / layout.RECIPE) as partial:
        partial.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), "utf-8")
    try:
        card = assets.find("data_prep", recipe.data.card).read_bytes()
    except (UserError, OSError):  # the data stage reports it if it needs the card
        return
    with atomic_write(run / layout.CARD) as partial:
        partial.write_bytes(card)


def pending(recipe: Recipe, run: Path, until: str = "report", kept: Collection[str] = ()) -> list[str]:
    """Return the stages that `execute` would run. A stage that reads files of a pending stage is pending too."""
    found: list[str] = []
    parent = artifacts.parent_of(recipe)
    recipe = with_sizes(recipe, run, *([parent] if parent is not None else []))
    for stage in stages_of(recipe, until):
        if stage.name in kept:
            continue
        is_stale = any(read.stage.name in found and read.is_read(recipe) for read in stage.inputs)
        if is_stale or not artifacts.would_skip(stage, recipe, run):
            found.append(stage.name)
    return found
