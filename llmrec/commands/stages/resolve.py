"""Which recipe and which run folder a command's arguments mean."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from llmrec import artifacts, assets, layout, pipeline
from llmrec.config import Recipe, load_recipe, load_recipe_of_run
from llmrec.errors import UserError
from llmrec.progress.run_lock import unfinished


def split_run_name(overrides: list[str]) -> tuple[str | None, list[str]]:
    """Return the NAME of the last override `run=NAME`, None if there is none, and all other overrides."""
    names = [text.removeprefix("run=") for text in overrides if text.startswith("run=")]
    return names[-1] if names else None, [text for text in overrides if not text.startswith("run=")]


def resolve(name: str, overrides: list[str]) -> tuple[Recipe, Path]:
    """Return the recipe with its overrides, and its run folder (`run=NAME`, or the recipe's name).

    Raises:
        UserError: the recipe, an override or the run's name is invalid.
    """
    run, others = split_run_name(overrides)
    recipe = load_recipe(name, others)
    return recipe, layout.run_folder(recipe.name if run is None else run)


def resolve_run(name: str, overrides: list[str]) -> tuple[Recipe, Path, tuple[str, ...]]:
    """Return a recipe, its run folder, and the stages to take as they are: those of a finished run, or of a recipe.

    A finished run goes before a shipped recipe of its name, unless `run=NAME` is given. With `run=NAME`, a finished
    run is the parent of a new one.

    Raises:
        UserError: neither run nor recipe has the name, or an override is invalid.
    """
    new, others = split_run_name(overrides)
    is_recipe = name.endswith((".yaml", ".yml")) or name in assets.names("recipes")
    finished = None if name.endswith((".yaml", ".yml")) else _finished_run(name, is_recipe)
    if finished is None or (new is not None and is_recipe):
        return *resolve(name, overrides), ()
    if new is not None:
        recipe = load_recipe_of_run(finished, [f"parent={finished}", *others])
        return recipe, layout.run_folder(new), ()
    if is_recipe:
        print(f"{finished}: with the run's own recipe; run=NAME takes the recipe {name}", file=sys.stderr)
    recipe = _without_lost_parent(load_recipe_of_run(finished, others))
    _check_kept(recipe, finished, [text.partition("=")[0] for text in others])
    if others:
        kept = f"{finished.name}: its recipe keeps {shlex.join(others)}"
        print(f"{kept}; with run=NAME they are another run's", file=sys.stderr)
    return recipe, finished, pipeline.KEPT


def _finished_run(name: str, is_recipe: bool) -> Path | None:
    """Return the folder of a run with a finished sft stage; None if there is none, but a recipe of that name."""
    try:
        folder = artifacts.find_run(name)
    except UserError:
        if is_recipe:
            return None
        hint = layout.run_hint(name, assets.names("recipes"))
        raise UserError(f"no run and no recipe named {name!r} ({hint})") from None
    if artifacts.read_manifest(folder, "sft") is not None:
        return folder
    if is_recipe:
        return None
    raise unfinished(folder)


def _without_lost_parent(recipe: Recipe) -> Recipe:
    """Return a finished run's recipe without a parent that no longer exists: the run has its files."""
    try:
        artifacts.parent_of(recipe)
    except UserError:
        return recipe.model_copy(update={"parent": None})
    return recipe


def _check_kept(recipe: Recipe, run: Path, keys: list[str]) -> None:
    """Raise a UserError for an override of a stage that a command on a finished run takes as it is."""
    kept = [stage for stage in pipeline.STAGES if stage.name in pipeline.KEPT]
    # Trackers change no weights. By masked lists the systems are chosen from which IDs and teachers come.
    fixed = {"seed", "data.mask_seen", *(key for stage in kept for key in stage.recipe_keys_under(recipe))}
    fixed.discard("track")
    for key in keys:
        if any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in fixed):
            command = shlex.join(["llmrec", "run", str(run / layout.RECIPE), f"{key}=…", "run=NAME"])
            raise UserError(
                f"{key}: {run.name} is trained, and its data, IDs and SFT stay as they are; train another: {command}"
            )
