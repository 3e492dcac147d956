"""Metrics as tables for the terminal: one run's systems, or several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import polars as pl
from rich.table import Table

from llmrec.artifacts import read_json
from llmrec.errors import UserError
from llmrec.evaluate.summary import order_systems
from llmrec.metrics.statistics import paired_difference
from llmrec.yaml_files import read_yaml

_UNRELATED = ("name", "description", "seed", "parent", "track")


@dataclass(frozen=True)
class Row:
    """One system of one group of runs, the runs of a group differing by seed alone.

    Attributes:
        runs: names of the runs.
        system: such as `sft`.
        values: mean over the runs, per metric.
        deviations: standard deviation over the runs (n − 1), per metric; empty for a single run.
        differences: per metric the difference to the first group's same system and the ends of its paired
            interval, over the users that all runs share; empty for the first group.
        users: how many users that difference rests on.
    """

    runs: tuple[str, ...]
    system: str
    values: dict[str, float]
    deviations: dict[str, float]
    differences: dict[str, tuple[float, float, float]]
    users: int


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: the split, the metrics compared, a row per group and system, and cautions."""

    split: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    cautions: tuple[str, ...]


def metrics_table(metrics: dict[str, Any], split: str) -> Table:
    """HR and NDCG of every system of a run on one split, the best value of each column in bold.

    Args:
        metrics: content of `eval/metrics.json`.
        split: `valid` or `test`.

    Raises:
        UserError: the split was not evaluated.
    """
    systems = _split(metrics, split, "metrics")
    names = [f"{measure}@{k}" for measure in ("hr", "ndcg") for k in metrics["protocol"]["k"]]
    table = Table(title=f"{split} split, full catalogue")
    table.add_column("system")
    for name in [*names, "users", "invalid"]:
        table.add_column(name.upper() if "@" in name else name, justify="right")
    best = {name: max(values[name] for values in systems.values()) for name in names}
    for system in order_systems(systems):
        values = systems[system]
        cells = [_emphasised(values[name], best[name]) for name in names]
        table.add_row(system, *cells, str(values["users"]), str(values["invalid"]))
    return table


def compare(runs: Sequence[Path], split: str = "test", metrics: Sequence[str] | None = None) -> Comparison:
    """Compare finished runs on the users they share; runs that differ only by seed become one row.

    Args:
        runs: run folders; the first one's group is what the others are compared to.
        split: `valid` or `test`.
        metrics: names such as `ndcg@10`; by default HR and NDCG at 10, or at the largest cutoff of all runs.

    Raises:
        UserError: a run that is not evaluated on the split, or lacks a metric.
    """
    evaluated = [_read(run, split) for run in runs]
    names = tuple(metrics or _common_metrics(evaluated))
    for one in evaluated:
        missing = [name for name in names if name not in one.users.columns]
        if missing:
            raise UserError(f"run {one.name}: has no {missing[0]}; its eval.k is {one.protocol['k']}")
    groups = _group_seeds(evaluated)
    rows = []
    for group in groups:
        for system in order_systems(group[0].systems):
            rows.append(_row(group, groups[0], system, names))
    return Comparison(split, names, tuple(rows), tuple(_cautions(evaluated)))


def comparison_table(comparison: Comparison) -> Table:
    """Lay a comparison out as a table: means (± deviation over seeds) and paired differences."""
    table = Table(title=f"{comparison.split} split; Δ against the first run, paired over users")
    table.add_column("run")
    table.add_column("system")
    for name in comparison.metrics:
        table.add_column(name.upper(), justify="right")
        table.add_column("Δ", justify="right")
    for row in comparison.rows:
        label = row.runs[0] if len(row.runs) == 1 else f"{row.runs[0]} … ({len(row.runs)} seeds)"
        cells = []
        for name in comparison.metrics:
            spread = f" ± {row.deviations[name]:.4f}" if row.deviations else ""
            cells.append(f"{row.values[name]:.4f}{spread}")
            cells.append(_signed(*row.differences[name]) if row.differences else "")
        table.add_row(label, row.system, *cells)
    table.caption = "\n".join(comparison.cautions) or None
    return table


@dataclass(frozen=True)
class _Evaluated:
    name: str
    seed: int
    setting: str
    protocol: dict[str, Any]
    systems: dict[str, Any]
    users: pl.DataFrame


def _read(run: Path, split: str) -> _Evaluated:
    if not (run / "eval/metrics.json").is_file():
        raise UserError(f"run {run.name}: is not evaluated yet; run `llmrec eval` on its recipe first")
    recipe, metrics = read_yaml(run / "recipe.yaml"), read_json(run / "eval/metrics.json")
    setting = json.dumps({k: v for k, v in recipe.items() if k not in _UNRELATED}, sort_keys=True)
    users = pl.read_parquet(run / "eval/per_user.parquet").filter(pl.col("split") == split)
    systems = _split(metrics, split, f"run {run.name}")
    return _Evaluated(run.name, int(recipe["seed"]), setting, metrics["protocol"], systems, users)


def _split(metrics: dict[str, Any], split: str, where: str) -> dict[str, Any]:
    splits = metrics["protocol"]["splits"]
    if split not in splits:
        raise UserError(f"{where}: split {split!r} was not evaluated; evaluated: {', '.join(splits)}")
    systems: dict[str, Any] = metrics[split]
    return systems


def _common_metrics(evaluated: Sequence[_Evaluated]) -> list[str]:
    shared = set.intersection(*(set(one.protocol["k"]) for one in evaluated))
    if not shared:
        raise UserError("compare: the runs share no cutoff; evaluate them with one eval.k")
    k = 10 if 10 in shared else max(shared)
    return [f"hr@{k}", f"ndcg@{k}"]


def _group_seeds(evaluated: Sequence[_Evaluated]) -> list[list[_Evaluated]]:
    """Put runs together whose recipes differ by seed alone, in the order given."""
    groups: list[list[_Evaluated]] = []
    for one in evaluated:
        for group in groups:
            if group[0].setting == one.setting and all(other.seed != one.seed for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _row(group: list[_Evaluated], first: list[_Evaluated], system: str, names: tuple[str, ...]) -> Row:
    having = [one for one in group if system in one.systems]
    values = {name: [one.systems[system][name] for one in having] for name in names}
    deviations = {name: stdev(found) for name, found in values.items()} if len(having) > 1 else {}
    reference = [one for one in first if system in one.systems]
    differences: dict[str, tuple[float, float, float]] = {}
    users = 0
    if group is not first and reference and _same_items(group[0], first[0]):
        shared = _shared_users(having + reference, system, names)
        users = len(shared)
        if users:
            differences = _paired(shared, len(having), having[0].protocol, names)
    means = {name: fmean(found) for name, found in values.items()}
    return Row(tuple(one.name for one in having), system, means, deviations, differences, users)


def _same_items(one: _Evaluated, other: _Evaluated) -> bool:
    """Whether ids of the two runs can mean the same users and items."""
    return bool(one.protocol["catalogue"] == other.protocol["catalogue"])


def _shared_users(runs: list[_Evaluated], system: str, names: tuple[str, ...]) -> pl.DataFrame:
    """Users that every run has, with the same target; the metrics of run i end in `/i`."""
    frames = [
        one.users.filter(pl.col("system") == system).select(
            "user_id", "target", *(pl.col(name).alias(f"{name}/{i}") for name in names)
        )
        for i, one in enumerate(runs)
    ]
    shared = frames[0]
    for frame in frames[1:]:
        shared = shared.join(frame, on=["user_id", "target"], maintain_order="left")
    return shared


def _paired(
    shared: pl.DataFrame, count: int, protocol: dict[str, Any], names: tuple[str, ...]
) -> dict[str, tuple[float, float, float]]:
    """Differences of the first `count` runs' mean to the other runs' mean, user by user."""
    total = sum(column.startswith(f"{names[0]}/") for column in shared.columns)

    def mean(name: str, runs: range) -> pl.Expr:
        return pl.mean_horizontal(f"{name}/{i}" for i in runs).alias(name)

    left = shared.select(mean(name, range(count)) for name in names)
    right = shared.select(mean(name, range(count, total)) for name in names)
    gaps, ends = paired_difference(
        left.to_numpy(), right.to_numpy(), protocol["bootstrap"], protocol["seed"], protocol["confidence"]
    )
    return {
        name: (float(gap), float(low), float(high))
        for name, gap, (low, high) in zip(names, gaps, ends, strict=True)
    }


def _cautions(evaluated: Sequence[_Evaluated]) -> list[str]:
    """Differences in protocol that make figures incomparable, in words."""
    first = evaluated[0]
    found = []
    for one in evaluated[1:]:
        for key in ("split", "catalogue", "mask_seen", "users"):
            if one.protocol[key] != first.protocol[key]:
                found.append(
                    f"{one.name}: {key} is {one.protocol[key]}, in {first.name} {first.protocol[key]}"
                )
    return found


def _emphasised(value: float, best: float) -> str:
    return f"[bold]{value:.4f}[/bold]" if value == best > 0 else f"{value:.4f}"


def _signed(gap: float, low: float, high: float) -> str:
    return f"{gap:+.4f} \\[{low:+.4f}, {high:+.4f}]"
