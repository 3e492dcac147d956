"""`llmrec sweep`: search settings of a recipe by the lists of validation users.

Each trial is an ordinary run. Test users are never looked at: the best settings are a command to run afterwards.
"""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from rich.markup import escape
from rich.table import Table

from llmrec import artifacts
from llmrec.errors import UserError
from llmrec.evaluate.summary import rounded
from llmrec.experiments import page
from llmrec.experiments.locks import Stopped
from llmrec.experiments.settings import SETTINGS, Sweep, can_prune, plan_sweep, trained_model
from llmrec.experiments.study import TENTHS, Outcome, SweepStudy, TrialRow, check_installed
from llmrec.experiments.trials import TrialRunner
from llmrec.experiments.variants import VariantRun
from llmrec.files import atomic_write, write_json
from llmrec.metrics.statistics import format_figure, format_interval
from llmrec.progress.durations import format_duration
from llmrec.report.figures import write_figures
from llmrec.report.screen import show

FIGURES, PAGE = "figures.json", "report.html"
"""Files of a sweep's folder."""
MOST_FAILURES = 3
"""Number of trials in a row that may fail before a worker ends, because the fault is probably not in their values."""


def run(
    recipe: str,
    settings: list[str],
    trials: int,
    metric: str,
    workers: int,
    here: int | None,
    seed: int,
    pruning: bool,
    dry_run: bool,
) -> None:
    """Run the trials that are not finished, then print their table and the best one as a command.

    Args:
        recipe: name or path of the recipe.
        settings: `key=value` of all trials, `key=low..high` and `key=value,value` of what is searched.
        trials: number of trials, with those of earlier calls.
        metric: `valid.` and a metric with its cutoff.
        workers: most trials at a time, over all processes that run this command.
        here: most trials at a time in this process; None: all of them.
        seed: seed of the sampler.
        pruning: whether trainings below the median may be stopped.
        dry_run: print what is searched and its cost, and run nothing.

    Raises:
        UserError: a setting is invalid, in which case nothing has run, or trials fail one after another.
    """
    check_installed()
    sweep = plan_sweep(recipe, settings, metric, seed, pruning)
    first = sweep.check_space()
    sweep.check_same()
    if dry_run:
        print("\n".join([*_described(sweep, first), _cost(first, trials, trials)]))
        return
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_json(sweep.folder / SETTINGS, sweep.identity())
    study = SweepStudy(sweep.folder, sweep.parameters, seed)
    lacking = trials - sum(row.outcome.state != "running" for row in study.rows())
    print("\n".join([*_described(sweep, first), _cost(first, lacking, trials)]), file=sys.stderr, flush=True)
    _run_trials(sweep, study, trials, workers, min(here or workers, workers), can_prune(first.recipe))
    _show(sweep, study.rows(), trials)


def _described(sweep: Sweep, first: VariantRun) -> Iterator[str]:
    """What is searched, and by what."""
    for parameter in sweep.parameters:
        yield f"{parameter.key}: {parameter.describe()}"
    if sweep.pruning and not can_prune(first.recipe):
        trained = trained_model(first.recipe)
        yield f"no training is pruned: {trained}.valid_lists=200 would decode lists of 200 validation users during it"


def _cost(first: VariantRun, lacking: int, trials: int) -> str:
    """Say in one line how many trials are not finished, and what they cost at most."""
    if lacking <= 0:
        return f"0 of {trials} trials to do"
    seconds = first.seconds()
    total = None if seconds is None else seconds * lacking
    share = "" if total is None else ", less what they share"
    return f"{lacking} of {trials} trials to do, {format_duration(total, is_estimate=True)}{share}"


def _run_trials(sweep: Sweep, study: SweepStudy, trials: int, workers: int, here: int, prunes: bool) -> None:
    """Run trials in threads until all are finished.

    Raises:
        UserError: trials fail one after another, or one stops for another reason than its values.
    """
    stop = threading.Event()
    runner = TrialRunner(sweep, study, sweep.pruning and prunes, stop.is_set)

    def work() -> None:
        failures = 0
        while (claim := study.claim(trials, workers, stop.is_set)) is not None:
            print(f"trial {claim.number}: {_values(claim.values)}", file=sys.stderr, flush=True)
            outcome = runner.run(claim)
            study.finish(claim, outcome)
            result = _told(outcome, sweep.metric)
            print(f"trial {claim.number}: {result}", file=sys.stderr, flush=True)
            failures = failures + 1 if outcome.state == "failed" else 0
            if failures == MOST_FAILURES:
                raise UserError(f"sweep: {failures} trials failed one after another; the last: {result}")

    with ThreadPoolExecutor(here) as pool:
        futures = [pool.submit(work) for _ in range(here)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for error in [future.exception() for future in futures]:
        if error is not None and not isinstance(error, Stopped):
            raise error


def _values(values: dict[str, str]) -> str:
    return " ".join(shlex.quote(f"{key}={value}") for key, value in values.items())


def _told(outcome: Outcome, metric: str) -> str:
    """What came of a trial, in a few words."""
    if outcome.value is not None:
        return f"{metric} {format_figure(outcome.value)}"
    if outcome.state == "pruned":
        return f"pruned after {100 * max(outcome.curve) // TENTHS} % of its training"
    return f"failed: {outcome.about['message']}" if outcome.state == "failed" else outcome.state


def _show(sweep: Sweep, rows: Sequence[TrialRow], trials: int) -> None:
    """Print the table and the best trial as a command; write the page and the figures.

    Raises:
        UserError: no trial is complete.
    """
    ranked = sorted(rows, key=_rank)
    best = ranked[0]
    if best.outcome.value is None:
        raise UserError(
            f"sweep: none of {len(rows)} trials is complete; the last: {_told(rows[-1].outcome, '')}"
        )
    show(_table(sweep, ranked))
    figures = {
        "recipe": sweep.recipe,
        "metric": f"valid.{sweep.metric}",
        "parameters": [parameter.as_json() for parameter in sweep.parameters],
        "best": best.number,
        "best_command": best_command(sweep, best),
        "trials": [_figures(row) for row in rows],
    }
    write_figures(sweep.folder / FIGURES, sweep.command(trials), figures, "torch", "optuna", seed=sweep.seed)
    with atomic_write(sweep.folder / PAGE) as partial:
        partial.write_text(page.render(sweep.name, sweep.command(trials), figures), "utf-8")
    print(f"best:   {figures['best_command']}")
    print(f"page:   {sweep.folder / PAGE}")


def _rank(row: TrialRow) -> tuple[bool, float, int]:
    """Order of trials: by value, the largest first; those without one last."""
    value = row.outcome.value
    return value is None, -(value or 0.0), row.number


def _figures(row: TrialRow) -> dict[str, Any]:
    outcome = row.outcome
    value = None if outcome.value is None else rounded(outcome.value)
    curve = {tenth / TENTHS: rounded(ndcg) for tenth, ndcg in sorted(outcome.curve.items())}
    about = {"number": row.number, "values": row.values, "state": outcome.state, "value": value}
    return about | {"curve": curve} | dict(outcome.about)


def _table(sweep: Sweep, ranked: Sequence[TrialRow]) -> Table:
    """Format the trials, the best first; the others that have no value stand last."""
    metric = sweep.metric.upper()
    table = Table(title=f"{sweep.name}: {metric} of validation users")
    table.add_column("trial", justify="right")
    for parameter in sweep.parameters:
        table.add_column(parameter.key, justify="right")
    table.add_column(metric, justify="right")
    table.add_column("interval")
    table.add_column("seconds", justify="right")
    for row in ranked:
        about = row.outcome.about
        ends = escape(format_interval(about["interval"])) if "interval" in about else ""
        value = row.outcome.value
        shown = _told(row.outcome, "") if value is None else format_figure(value)
        seconds = f"{about['seconds']:.0f}" if "seconds" in about else ""
        table.add_row(str(row.number), *row.values.values(), shown, ends, seconds)
    return table


def best_command(sweep: Sweep, row: TrialRow) -> str:
    """Return the command that evaluates a trial's settings on test users, with the trial's training if it has one."""
    trial = sweep.run_name(row.number)
    arguments = [sweep.recipe, *sweep.overrides_of(row.values), f"run={sweep.name}-best"]
    try:
        artifacts.find_run(trial)
        arguments.append(f"parent={trial}")
    except UserError:  # removed
        pass
    return shlex.join(["llmrec", "run", *arguments])
