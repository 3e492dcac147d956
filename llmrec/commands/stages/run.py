"""`llmrec run` and the stage commands: plan, estimate, execute, and show the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from llmrec import estimate, layout, pipeline
from llmrec.artifacts import SINGLE_PROCESS, Workers
from llmrec.commands.stages.named_files import missing_files
from llmrec.commands.stages.resolve import resolve, resolve_run
from llmrec.config import Recipe, validate
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.models.tokenizer import check_local_tokenizer
from llmrec.progress.durations import format_duration


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
    """Return the names of the pending stages, and the plan with their cost; `counts` as `estimate.plan` has it.

    Raises:
        UserError: a pending stage reads a file that is not there.
    """
    pending = pipeline.pending(recipe, folder, until, kept)
    for problem in missing_files(recipe, pending):
        raise UserError(problem)
    stages = [stage for stage in pipeline.stages_of(recipe, until) if stage.name in pending]
    return pending, estimate.plan(recipe, folder, stages, counts)


def _show_plan(recipe: Recipe, folder: Path, until: str, kept: tuple[str, ...]) -> None:
    pending, plan = _plan(recipe, folder, until, kept, counts=True)
    print(f"{recipe.name} → {folder}")
    for stage in (stage.name for stage in pipeline.stages_of(recipe, until)):
        state = (
            f"pending   {format_duration(plan.seconds[stage], is_estimate=True)}"
            if stage in pending
            else "done"
        )
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
            self._print(stage, f"done in {format_duration(time.monotonic() - self.start)}")
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
