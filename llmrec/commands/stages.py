"""`llmrec run` and the stage commands: plan, estimate, execute, and show the results."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llmrec import artifacts, estimate, layout, pipeline
from llmrec.artifacts import SINGLE_PROCESS, Workers
from llmrec.config import Recipe, load_recipe, validate
from llmrec.errors import UserError
from llmrec.files import read_json


def resolve(name: str, overrides: list[str]) -> tuple[Recipe, Path]:
    """Return the recipe with its overrides, and its run folder (`run=NAME`, or the recipe's name).

    Raises:
        UserError: the recipe, an override or the run's name is invalid.
    """
    run_names = [text.removeprefix("run=") for text in overrides if text.startswith("run=")]
    recipe = load_recipe(name, [text for text in overrides if not text.startswith("run=")])
    return recipe, artifacts.run_folder(run_names[-1] if run_names else recipe.name)


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


def align(name: str, overrides: list[str], method: str, dry_run: bool) -> None:
    """Run a recipe with an alignment method added to its `align`, up to the report with the gate's verdict.

    Raises:
        UserError: the recipe is invalid, or a stage fails.
    """
    recipe, folder = resolve(name, overrides)
    if method not in recipe.align:
        recipe = validate(Recipe, recipe.model_dump(mode="json") | {"align": [*recipe.align, method]}, name)
    _run_or_plan(recipe, folder, "report", dry_run)


def _run_or_plan(
    recipe: Recipe, folder: Path, until: str, dry_run: bool, workers: Workers = SINGLE_PROCESS
) -> None:
    if dry_run:
        _show_plan(recipe, folder, until)
    else:
        run_stages(recipe, folder, until, workers)
        _show_results(folder, until)


def run_stages(
    recipe: Recipe, folder: Path, until: str, workers: Workers = SINGLE_PROCESS, records: bool = True
) -> None:
    """Print an estimate of the pending stages' cost, then run them up to `until`.

    Args:
        recipe: the resolved recipe.
        folder: the run folder.
        until: name of the last stage to run.
        workers: processes that train together.
        records: whether the recipe becomes the run's `recipe.yaml`.
    """
    pending, plan = _plan(recipe, folder, until)
    for line in [plan.summary(), *plan.load_notice(), *plan.shortages(folder)] if pending else []:
        print(f"{folder}: {line}", file=sys.stderr)
    names = [stage.name for stage in pipeline.stages_of(recipe, until)]

    def estimate_again() -> None:
        left, counted = _plan(recipe, folder, until)
        if left:
            print(f"{folder}: {counted.summary()}", file=sys.stderr)

    announcer = _Announcer(pending, names, estimate_again)
    pipeline.execute(recipe, folder, until, announcer, workers, records)


def _plan(recipe: Recipe, folder: Path, until: str) -> tuple[list[str], estimate.Plan]:
    """Return the names of the pending stages, and the plan with their cost."""
    pending = pipeline.pending(recipe, folder, until)
    stages = [stage for stage in pipeline.stages_of(recipe, until) if stage.name in pending]
    return pending, estimate.plan(recipe, folder, stages)


def _show_plan(recipe: Recipe, folder: Path, until: str) -> None:
    pending, plan = _plan(recipe, folder, until)
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
            self._print(stage, "done before, skipped")

    def _print(self, stage: str, text: str) -> None:
        number = self.names.index(stage) + 1
        print(f"[{number}/{len(self.names)}] {stage:<13} {text}", file=sys.stderr, flush=True)


def _show_results(folder: Path, until: str) -> None:
    """Print the metrics, the gate's verdict, the report's path and the next command, if `until` reaches them."""
    if until not in ("eval", "report"):
        return
    from llmrec.evaluate import gate
    from llmrec.report import tables
    from llmrec.screen import show

    metrics = read_json(folder / layout.METRICS)
    for split in metrics["protocol"]["splits"]:
        show(tables.metrics_table(metrics, split))
    for line in gate.sentences(read_json(folder / layout.GATE)) if (folder / layout.GATE).is_file() else []:
        print(f"gate: {line}")
    if until == "report":
        print(f"report: {folder / layout.PAGE}")
        print(f"try:    {next_command(folder)}")


def next_command(folder: Path) -> str:
    """Return a command that recommends to the first evaluated user of a run, quoted for the shell."""
    import polars as pl

    user = str(pl.scan_parquet(folder / layout.PER_USER).select("user_id").first().collect().item())
    run = folder.name if folder == artifacts.runs_root() / folder.name else str(folder)
    return shlex.join(["llmrec", "recommend", run, "--user", user])
