"""Compare arms, which are variants of one recipe, by the quality of their lists on validation users.

Each arm is an ordinary run. An arm takes the stages that it shares with an earlier arm from that arm's run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from llmrec import artifacts, layout
from llmrec.config import validate
from llmrec.errors import UserError
from llmrec.evaluate.compare import ComparisonRow, compare
from llmrec.evaluate.summary import JUDGED_SPLIT, rounded
from llmrec.experiments.arms import Arm, ArmRun, ArmsFile, plan_runs
from llmrec.experiments.variants import UNTIL
from llmrec.files import read_json
from llmrec.metrics.statistics import format_estimate
from llmrec.progress.durations import format_duration
from llmrec.recommend.model_names import SFT
from llmrec.report.figures import write_figures
from llmrec.yaml_files import read_yaml

_LEADING_ZERO = re.compile(r"(?<!\d)0\.")


def run(arms: str, dry_run: bool = False, out: Path | None = None) -> dict[str, Any] | None:
    """Run the arms that are not finished, then print their table as Markdown.

    Args:
        arms: YAML file with the keys of `ArmsFile`.
        dry_run: print the commands and their cost, and run nothing.
        out: JSON file for the figures; by default `<name of the arms file>.json` in the folder of all runs.

    Returns:
        The figures as in the JSON file; None for a dry run.

    Raises:
        UserError: the file or an arm is invalid, in which case nothing has run, or an arm's run fails.
    """
    path = Path(arms)
    file = validate(ArmsFile, read_yaml(path), str(path))
    runs = plan_runs(file, path)
    if dry_run:
        print("\n".join(_plan_lines(runs)))
        return None
    print(_cost(runs), file=sys.stderr, flush=True)
    for number, arm_run in enumerate(runs, 1):
        ran = _execute(arm_run)
        value = arm_run.metrics()[file.metric]
        state = "done" if ran else "done before, skipped"
        print(
            f"[{number}/{len(runs)}] {arm_run.name} {state}: {file.metric} {value:.4f}",
            file=sys.stderr,
            flush=True,
        )
    figures = collect_figures(file, runs)
    print(markdown_table(figures))
    for caution in figures["cautions"]:
        print(f"not comparable: {caution}", file=sys.stderr)
    out = out or layout.runs_root() / f"{path.stem}.json"
    packages = [name for name in artifacts.PACKAGES if name != "llmrec"]
    write_figures(
        out, shlex.join(["llmrec", "bench", "quality", arms]), figures, *packages, seed=figures["seeds"]
    )
    print(f"figures: {out}", file=sys.stderr)
    return figures


def _cost(runs: Sequence[ArmRun]) -> str:
    """Say in one line how many runs are not finished, and what they cost."""
    lacking = [arm_run for arm_run in runs if arm_run.unfinished()]
    seconds = [arm_run.seconds() for arm_run in lacking]
    total = None if None in seconds else sum(value for value in seconds if value is not None)
    cost = f", {format_duration(total, is_estimate=True)}" if lacking else ""
    return f"{len(lacking)} of {len(runs)} runs to do{cost}"


def _plan_lines(runs: Sequence[ArmRun]) -> Iterator[str]:
    for arm_run in runs:
        unfinished = arm_run.unfinished()
        yield f"{arm_run.name}: {arm_run.arm.hypothesis}"
        if not unfinished:
            yield "  done"
            continue
        yield f"  {arm_run.shown_command(UNTIL)}"
        stages = " ".join(stage.name for stage in arm_run.stages_to_run()) or "nothing"
        taken = " ".join(name for name in arm_run.shared if name in unfinished)
        source = f"; from {arm_run.recipe.parent}: {taken}" if taken else ""
        yield f"  runs {stages} ({format_duration(arm_run.seconds(), is_estimate=True)}){source}"
    yield _cost(runs)


def _execute(arm_run: ArmRun) -> bool:
    """Run what an arm's run lacks; return whether anything ran.

    The stages before SFT have processes of their own, because a manifest records the peak memory of its process:
    that of SFT is then comparable between arms, whichever of them ran the shared stages.

    Raises:
        UserError: a command fails.
    """
    if not arm_run.unfinished():
        return False
    pending = arm_run.pending()
    earlier = pending[: pending.index("sft")] if "sft" in pending else []
    for stage in [*earlier, UNTIL]:
        done = subprocess.run(arm_run.process_of(stage), stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            raise UserError(
                f"bench quality: arm {arm_run.arm.name!r} stopped with exit code {done.returncode}, see above; the "
                f"same command again continues with `{arm_run.shown_command(stage)}`"
            )
    return True


def collect_figures(file: ArmsFile, runs: Sequence[ArmRun]) -> dict[str, Any]:
    """Collect the figures of finished arms: those of `llmrec compare`, and time and memory of SFT."""
    import torch

    of_arm = {arm.name: [arm_run for arm_run in runs if arm_run.arm == arm] for arm in file.arms}
    ordered = [arm_run.folder for group in of_arm.values() for arm_run in group]
    comparison = compare(ordered, JUDGED_SPLIT, file.metrics)
    rows = {row.runs: row for row in comparison.rows if row.system == SFT}
    return {
        "recipe": file.recipe,
        "overrides": list(file.overrides),
        "seeds": list(file.seeds),
        "split": JUDGED_SPLIT,
        "metric": file.metric,
        "threads": torch.get_num_threads(),
        "arms": [
            _figures_of(arm, of_arm[arm.name], rows[tuple(arm_run.name for arm_run in of_arm[arm.name])])
            for arm in file.arms
        ],
        "cautions": list(comparison.cautions),
    }


def _figures_of(arm: Arm, runs: Sequence[ArmRun], row: ComparisonRow) -> dict[str, Any]:
    manifests = [artifacts.read_manifest(arm_run.folder, "sft") or {} for arm_run in runs]
    systems = read_json(runs[0].folder / layout.METRICS)[JUDGED_SPLIT]
    return {
        "name": arm.name,
        "hypothesis": arm.hypothesis,
        "overrides": list(arm.overrides),
        "command": runs[0].shown_command(UNTIL),
        **{name: rounded(value) for name, value in row.values.items()},
        "users": runs[0].metrics()["users"],
        "intervals": {name: [rounded(end) for end in ends] for name, ends in row.intervals.items()},
        "deviations": {name: rounded(value) for name, value in row.deviations.items()},
        "paired_with_the_first": {
            name: [rounded(value) for value in values] for name, values in row.differences.items()
        },
        "sft_seconds": [manifest["seconds"] for manifest in manifests],
        "sft_peak_memory_mb": [manifest["peak_memory_mb"] for manifest in manifests],
        "baselines": {
            system: {name: systems[system][name] for name in row.values}
            for system in runs[0].recipe.eval.baselines
        },
        "verdict": arm.verdict,
    }


def markdown_table(figures: dict[str, Any]) -> str:
    """Format figures as a Markdown table: a row an arm, and the differences of the deciding metric."""
    arms, metric = figures["arms"], figures["metric"]
    names = list(arms[0]["intervals"])
    seconds = "SFT seconds" if len(figures["seeds"]) == 1 else "SFT seconds (mean)"
    heads = ["arm", "hypothesis", *(name.upper() for name in names)]
    heads += [f"{metric.upper()} less the first arm's", seconds, "peak MB", "verdict"]
    rows = [heads, ["---"] * len(heads)]
    for arm in arms:
        gap = arm["paired_with_the_first"].get(metric)
        cells = [f"`{arm['name']}`", arm["hypothesis"]]
        cells += [_with_interval(arm[name], *arm["intervals"][name]) for name in names]
        cells.append(_with_interval(*gap, signed=True) if gap else "")
        cells += [f"{fmean(arm['sft_seconds']):.0f}", f"{max(arm['sft_peak_memory_mb']):,}", arm["verdict"]]
        rows.append([" ".join(cell.replace("|", "\\|").split()) for cell in cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _with_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """Format as in the project's tables: `.0518 [.0496, .0544]`."""
    return _LEADING_ZERO.sub(".", format_estimate(value, (low, high), signed=signed))
