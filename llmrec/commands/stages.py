"""`llmrec run` and the stage commands: plan, estimate, execute, and show the results."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llmrec import artifacts, assets, estimate, layout, pipeline
from llmrec.artifacts import SINGLE_PROCESS, Workers
from llmrec.config import Recipe, load_recipe, load_recipe_of_run, validate
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.models.tokenizer import check_local_tokenizer


def resolve(name: str, overrides: list[str]) -> tuple[Recipe, Path]:
    """Return the recipe with its overrides, and its run folder (`run=NAME`, or the recipe's name).

    Raises:
        UserError: the recipe, an override or the run's name is invalid.
    """
    run_names = [text.removeprefix("run=") for text in overrides if text.startswith("run=")]
    recipe = load_recipe(name, [text for text in overrides if not text.startswith("run=")])
    return recipe, layout.run_folder(run_names[-1] if run_names else recipe.name)


def run(
    name: str, overrides: list[str], until: str, dry_run: bool, processes: int = 1, shard: bool = False
) -> None:
    """Run a recipe's stages up to `until`; with `dry_run` only print the plan.

    Raises:
        UserError: the recipe is invalid, or a stage fails.
    """
    if shard and processes == 1:
        raise UserError("--shard splits the model among processes; give their number: --processes N")
    recipe, folder = resolve(name, overrides)
    if until not in pipeline.NAMES:
        raise UserError(f"--until: no stage named {until!r}; stages: {', '.join(pipeline.NAMES)}")
    _run_or_plan(recipe, folder, until, dry_run, Workers(processes, shard))


def run_later(name: str, overrides: list[str], until: str, dry_run: bool) -> None:
    """Run a stage after SFT on a finished run, or on a recipe's run.

    A command of an alignment method adds it to the recipe's `align`, and ends with the report and the gate's verdict.

    Args:
        name: a finished run's name or folder, whose own recipe then holds; or a recipe.
        overrides: `key=value` texts; `run=NAME` writes to another run.
        until: name of the stage.
        dry_run: only print the plan.

    Raises:
        UserError: neither run nor recipe has the name, an override is invalid, or a stage fails.
    """
    recipe, folder, kept = resolve_run(name, overrides)
    is_alignment = next(stage for stage in pipeline.STAGES if stage.name == until).is_alignment
    if is_alignment and until not in recipe.align:
        recipe = validate(Recipe, recipe.model_dump(mode="json") | {"align": [*recipe.align, until]}, name)
    _run_or_plan(recipe, folder, "report" if is_alignment else until, dry_run, kept=kept)


def resolve_run(name: str, overrides: list[str]) -> tuple[Recipe, Path, tuple[str, ...]]:
    """Return a recipe, its run folder, and the stages to take as they are: those of a finished run, or of a recipe.

    A finished run goes before a shipped recipe of its name, unless `run=NAME` is given. With `run=NAME`, a finished
    run is the parent of a new one.

    Raises:
        UserError: neither run nor recipe has the name, or an override is invalid.
    """
    new = [text for text in overrides if text.startswith("run=")]
    others = [text for text in overrides if text not in new]
    is_recipe = name.endswith((".yaml", ".yml")) or name in assets.names("recipes")
    finished = None if name.endswith((".yaml", ".yml")) else _finished_run(name, is_recipe)
    if finished is None or (new and is_recipe):
        return *resolve(name, overrides), ()
    if new:
        recipe = load_recipe_of_run(finished, [f"parent={finished}", *others])
        return recipe, layout.run_folder(new[-1].removeprefix("run=")), ()
    if is_recipe:
        print(f"{finished}: with the run's own recipe; run=NAME takes the recipe {name}", file=sys.stderr)
    recipe = _without_lost_parent(load_recipe_of_run(finished, others))
    _check_kept(recipe, finished, [text.partition("=")[0] for text in others])
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
    raise artifacts.unfinished(folder)


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
    # SFT may choose its weights by lists that mask seen items; other lists of these weights can still be decoded.
    # Trackers change no weights.
    free = ("decode.", "track")
    fixed = {"seed", *(key for stage in kept for key in stage.keys(recipe) if not key.startswith(free))}
    for key in keys:
        if any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in fixed):
            command = shlex.join(["llmrec", "run", str(run / layout.RECIPE), f"{key}=…", "run=NAME"])
            raise UserError(
                f"{key}: {run.name} is trained, and its data, IDs and SFT stay as they are; train another: {command}"
            )


def _run_or_plan(
    recipe: Recipe,
    folder: Path,
    until: str,
    dry_run: bool,
    workers: Workers = SINGLE_PROCESS,
    kept: tuple[str, ...] = (),
) -> None:
    if dry_run:
        _show_plan(recipe, folder, until, kept)
    else:
        run_stages(recipe, folder, until, workers, kept=kept)
        _show_results(folder, until)


def run_stages(
    recipe: Recipe,
    folder: Path,
    until: str,
    workers: Workers = SINGLE_PROCESS,
    records: bool = True,
    kept: tuple[str, ...] = (),
) -> Recipe:
    """Print an estimate of the pending stages' cost, then run them up to `until`.

    Args:
        recipe: the resolved recipe.
        folder: the run folder.
        until: name of the last stage to run.
        workers: processes that train together.
        records: whether the recipe becomes the run's `recipe.yaml`.
        kept: names of stages that are taken as they are in the run.

    Returns:
        The recipe, with numbers for keys that were `auto`.
    """
    pending, plan = _plan(recipe, folder, until, kept)
    for line in [plan.summary(), *plan.load_notice(), *plan.shortages(folder)] if pending else []:
        print(f"{folder}: {line}", file=sys.stderr)
    if recipe.sft.start is None and {"sft", "zero_shot"} & set(pending):
        check_local_tokenizer(recipe.base)  # before the stages that come first have trained anything
    names = [stage.name for stage in pipeline.stages_of(recipe, until)]

    def estimate_again() -> None:
        left, counted = _plan(recipe, folder, until, kept)
        if left:
            print(f"{folder}: {counted.summary()}", file=sys.stderr)

    announcer = _Announcer(pending, names, estimate_again)
    return pipeline.execute(recipe, folder, until, announcer, workers, records, kept)


def _plan(
    recipe: Recipe, folder: Path, until: str, kept: tuple[str, ...], counts: bool = False
) -> tuple[list[str], estimate.Plan]:
    """Return the names of the pending stages, and the plan with their cost; `counts` as `estimate.plan` has it."""
    pending = pipeline.pending(recipe, folder, until, kept)
    stages = [stage for stage in pipeline.stages_of(recipe, until) if stage.name in pending]
    return pending, estimate.plan(recipe, folder, stages, counts)


def _show_plan(recipe: Recipe, folder: Path, until: str, kept: tuple[str, ...]) -> None:
    pending, plan = _plan(recipe, folder, until, kept, counts=True)
    print(f"{recipe.name} → {folder}")
    for stage in (stage.name for stage in pipeline.stages_of(recipe, until)):
        state = f"pending   {estimate.format_duration(plan.seconds[stage])}" if stage in pending else "done"
        print(f"  {stage:<13} {state}")
    print("\n".join([plan.summary(), *plan.load_notice(), *plan.shortages(folder)]))


class _Announcer:
    """Prints one line when a stage starts and one when it ends; after `data` it calls `sizes_known`."""

    def __init__(self, pending: list[str], names: list[str], sizes_known: Callable[[], None]) -> None:
        self.pending = pending
        self.names = names
        self.sizes_known = sizes_known
        self.start = time.monotonic()

    def __call__(self, stage: str, state: str) -> None:
        if state == "running":
            self.start = time.monotonic()
            if stage in self.pending:
                self._print(stage, "running …")
        elif state == "done":
            self._print(stage, f"done in {estimate.format_duration(time.monotonic() - self.start)}")
            if stage == "data":
                self.sizes_known()
        else:
            self._print(stage, "as it is" if state == "kept" else "done before, skipped")

    def _print(self, stage: str, text: str) -> None:
        number = self.names.index(stage) + 1
        print(f"[{number}/{len(self.names)}] {stage:<13} {text}", file=sys.stderr, flush=True)


def _show_results(folder: Path, until: str) -> None:
    """Print the metrics, the gate's verdict, the report's path and the next command, if `until` reaches them."""
    if until not in ("eval", "report"):
        return
    from llmrec.evaluate import gate
    from llmrec.evaluate.summary import shown_cutoff, shown_split
    from llmrec.report import tables, verdict
    from llmrec.report.next_commands import recommend_command
    from llmrec.report.screen import show

    metrics = read_json(folder / layout.METRICS)
    for split in metrics["protocol"]["splits"]:
        show(tables.metrics_table(metrics, split))
    protocol = metrics["protocol"]
    beyond = tables.beyond_table(metrics, shown_split(protocol["splits"]), shown_cutoff(protocol["k"]))
    if beyond is not None:
        show(beyond)
    print("\n".join(verdict.summary(folder)))
    for line in gate.sentences(read_json(folder / layout.GATE)) if (folder / layout.GATE).is_file() else []:
        print(f"gate: {line}")
    if until == "report":
        print(f"report: {folder / layout.PAGE}")
        print(f"try:    {recommend_command(folder, layout.shown_name(folder))}")
