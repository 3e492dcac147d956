"""Comparison of runs: means over seeds, and differences with intervals over seeds and users."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import layout
from llmrec.assets import without_folders
from llmrec.config.former_keys import upgrade
from llmrec.errors import UserError
from llmrec.evaluate.summary import order_systems, shown_cutoff, shown_split, systems_of
from llmrec.files import read_json
from llmrec.metrics.statistics import (
    bootstrap_seeds,
    holm,
    p_values,
    percentile_interval,
)
from llmrec.progress.run_lock import unfinished
from llmrec.yaml_files import read_yaml

_UNRELATED = ("name", "description", "seed", "parent", "track")
_SEEDED = ("dpo", "grpo")
"""Sections that have their own seed."""


@dataclass(frozen=True)
class ComparisonRow:
    """One system of one group of runs. The runs of a group differ only by their seeds.

    Attributes:
        runs: names of the runs.
        system: name of the system, such as `sft`.
        values: mean over the runs, per metric.
        intervals: ends of the mean's interval over users and seeds, per metric, without those of all lists at once;
            that of a single run is over users, as in its `eval/metrics.json`.
        deviations: standard deviation over the runs (n − 1), per metric; empty for a single run.
        differences: per metric the difference to the reference and the ends of its interval. Empty for the reference
            itself and if the runs cannot be paired; without the metrics of all lists at once.
        users: number of users behind the differences.
        p: per metric the p-value of the difference, as if it were the only one.
        p_holm: the same, adjusted for all differences of the metric in the comparison (Holm 1979); none for a
            difference that is 0 for every user, because there is nothing to test.
    """

    runs: tuple[str, ...]
    system: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    deviations: dict[str, float]
    differences: dict[str, tuple[float, float, float]]
    users: int
    p: dict[str, float]
    p_holm: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        split: `valid` or `test`.
        metrics: names of the compared metrics.
        against: the system to which the other systems of the same group are compared; None compares each system to
            the same system of the first group.
        rows: one row for each group and system.
        confidence: confidence level of the intervals; 1 − confidence is the level of the tests.
        cautions: sentences on runs that are not paired with the first one, and on differences in protocol.
    """

    split: str
    metrics: tuple[str, ...]
    against: str | None
    rows: tuple[ComparisonRow, ...]
    confidence: float
    cautions: tuple[str, ...]

    def compared(self, metric: str) -> int:
        """Number of differences of a metric that are judged together: those of lists that are not the same."""
        return sum(_differs(row, metric) for row in self.rows)

    def holds(self, row: ComparisonRow, metric: str) -> bool:
        """Whether a row's difference is told from 0 when all differences of the metric are judged together."""
        return row.p_holm.get(metric, 1.0) < 1 - self.confidence

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON data; a difference is its value and the ends of its interval."""
        return asdict(self)


def compare(
    runs: Sequence[Path],
    split: str | None = None,
    metrics: Sequence[str] | None = None,
    against: str | None = None,
) -> Comparison:
    """Compare finished runs. Runs that differ only by seeds become one row.

    Differences are paired over users, so they are taken only between runs with the same split, catalogue, users and
    targets. A row of several seeds has intervals over seeds and users: each resample draws both anew. A single run
    has intervals over users alone.

    Args:
        runs: run folders.
        split: `valid` or `test`; by default test, or the first run's first split if test was not evaluated.
        metrics: names such as `ndcg@10`; by default HR and NDCG at 10, or at the largest cutoff of all runs.
        against: compare each system to this one of the same run, instead of to the same system of the first group.

    Raises:
        UserError: a run is not evaluated on the split, or lacks a metric or the system.
    """
    split = split or _default_split(runs[0])
    evaluated = [_read(folder, split) for folder in runs]
    names = tuple(metrics or _common_metrics(evaluated))
    for run in evaluated:
        missing = [name for name in names if not _is_metric_of(run, name)]
        if missing:
            raise UserError(
                f"run {run.name}: has no {missing[0]}; its eval.k is {run.protocol['k']}, "
                f"its eval.metrics are {', '.join(run.protocol['formulas'])}"
            )
        if against is not None and against not in run.systems:
            raise UserError(f"run {run.name}: has no system {against!r}; there are: {', '.join(run.systems)}")
    groups = _group_seeds(evaluated)
    rows = []
    for group in groups:
        for system in order_systems(group[0].systems):
            rows.append(_row(group, groups[0], system, names, against))
    confidence = float(evaluated[0].protocol["confidence"])
    return Comparison(
        split, names, against, tuple(_adjusted(rows, names)), confidence, tuple(_cautions(evaluated))
    )


@dataclass(frozen=True)
class _Evaluated:
    """One evaluated run, on one split.

    Attributes:
        name: name of the run.
        seeds: seeds of the recipe and of its sections, which a group's runs may differ in.
        setting: the rest of the recipe as JSON text, which a group's runs share.
        protocol: the protocol of `eval/metrics.json`.
        systems: metrics per system.
        users: rows of `eval/per_user.parquet`.
    """

    name: str
    seeds: tuple[int | None, ...]
    setting: str
    protocol: dict[str, Any]
    systems: dict[str, Any]
    users: pl.DataFrame

    @cached_property
    def targets(self) -> pl.DataFrame:
        """`user_id, target` of all users, each once."""
        return self.users.select("user_id", "target").unique()


def _read(run: Path, split: str) -> _Evaluated:
    recipe, metrics = upgrade(read_yaml(run / layout.RECIPE)), _metrics(run)
    sections = {k: v for k, v in recipe.items() if k not in _UNRELATED}
    seeds = [recipe["seed"]]
    for name in _SEEDED:
        section = dict(sections.get(name, {}))
        seeds.append(section.pop("seed", None))
        sections[name] = section
    users = pl.read_parquet(run / layout.PER_USER).filter(pl.col("split") == split)
    return _Evaluated(
        run.name,
        tuple(seeds),
        json.dumps(without_folders(sections), sort_keys=True),
        metrics["protocol"],
        systems_of(metrics, split, f"run {run.name}"),
        users,
    )


def _metrics(run: Path) -> Any:
    if not (run / layout.METRICS).is_file():
        raise unfinished(run, "eval")
    return read_json(run / layout.METRICS)


def _default_split(run: Path) -> str:
    return shown_split(_metrics(run)["protocol"]["splits"])


def _common_metrics(evaluated: Sequence[_Evaluated]) -> list[str]:
    shared = set.intersection(*(set(run.protocol["k"]) for run in evaluated))
    if not shared:
        raise UserError("compare: the runs share no cutoff; evaluate them with one eval.k")
    k = shown_cutoff(shared)
    return [f"hr@{k}", f"ndcg@{k}"]


def _group_seeds(evaluated: Sequence[_Evaluated]) -> list[list[_Evaluated]]:
    """Group runs whose recipes differ only by seeds; the order of the runs is kept."""
    groups: list[list[_Evaluated]] = []
    for run in evaluated:
        for group in groups:
            if group[0].setting == run.setting and all(other.seeds != run.seeds for other in group):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _row(
    group: list[_Evaluated], first: list[_Evaluated], system: str, names: tuple[str, ...], against: str | None
) -> ComparisonRow:
    runs = [run for run in group if system in run.systems]
    values = {name: [run.systems[system][name] for run in runs] for name in names}
    deviations = {name: stdev(numbers) for name, numbers in values.items()} if len(runs) > 1 else {}
    differences: dict[str, tuple[float, float, float]] = {}
    p: dict[str, float] = {}
    users = 0
    # A metric of all lists at once has no values per user, and so no paired difference.
    paired = tuple(name for name in names if all(name in run.users.columns for run in (*runs, *first)))
    if against is not None:
        if system != against and not any(_obstacles(run, runs[0]) for run in runs):
            differences, p, users = _differences(runs, system, runs, against, paired)
    elif group is not first and not any(_obstacles(run, first[0]) for run in (*first, *group)):
        others = [run for run in first if system in run.systems]
        differences, p, users = _differences(runs, system, others, system, paired)
    means = {name: fmean(numbers) for name, numbers in values.items()}
    return ComparisonRow(
        runs=tuple(run.name for run in runs),
        system=system,
        values=means,
        intervals=_intervals(runs, system, names),
        deviations=deviations,
        differences=differences,
        users=users,
        p=p,
    )


def _adjusted(rows: Sequence[ComparisonRow], names: Sequence[str]) -> list[ComparisonRow]:
    """Adjust the p-values of each metric over all rows that have a difference in it."""
    adjusted: list[dict[str, float]] = [{} for _ in rows]
    for name in names:
        tested = [place for place, row in enumerate(rows) if _differs(row, name)]
        for place, value in zip(tested, holm([rows[place].p[name] for place in tested]), strict=True):
            adjusted[place][name] = value
    return [replace(row, p_holm=values) for row, values in zip(rows, adjusted, strict=True)]


def _differs(row: ComparisonRow, metric: str) -> bool:
    """Whether a row has a difference that is not 0 for every user, as that of an opponent that two runs share."""
    return any(row.differences.get(metric, ()))


def _is_metric_of(run: _Evaluated, name: str) -> bool:
    return all(isinstance(system.get(name), float) for system in run.systems.values())


def _obstacles(run: _Evaluated, first: _Evaluated) -> list[str]:
    """Describe what forbids pairing two runs: another split or catalogue, or other users or targets."""
    found = [
        f"{key} is {run.protocol[key]}, in {first.name} {first.protocol[key]}"
        for key in ("split", "catalogue")
        if run.protocol[key] != first.protocol[key]
    ]
    targets, others = run.targets, first.targets
    shared = len(targets.join(others, on=["user_id", "target"]))
    if not found and not len(targets) == len(others) == shared:
        mine, other = f"{len(targets):,}", f"{len(others):,}"
        found.append(f"{shared:,} of its {mine} users and targets are among the {other} of {first.name}")
    return found


def _intervals(runs: list[_Evaluated], system: str, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Intervals of a system's means over `runs`, on the users that the runs share."""
    per_user = tuple(name for name in names if all(name in run.users.columns for run in runs))
    cells = _shared([(run, system) for run in runs], per_user) if per_user else np.empty((0, 0, 0))
    if not len(cells):
        return {}
    protocol = runs[0].protocol
    samples = bootstrap_seeds(cells, protocol["bootstrap"], protocol["seed"])
    ends = percentile_interval(samples, protocol["confidence"])
    return {name: (float(low), float(high)) for name, (low, high) in zip(per_user, ends, strict=True)}


def _differences(
    runs: list[_Evaluated], system: str, others: list[_Evaluated], reference: str, names: tuple[str, ...]
) -> tuple[dict[str, tuple[float, float, float]], dict[str, float], int]:
    """Differences of a system's mean over `runs` to a reference's mean over `others`, p-values, and number of users.

    If `others` is `runs`, the difference is taken within each run.
    """
    if not others or not names:
        return {}, {}, 0
    cells = _shared([(run, system) for run in runs] + [(run, reference) for run in others], names)
    # A metric that is not defined for a user in all systems leaves the user out.
    cells = np.where(np.isnan(cells).any(axis=1, keepdims=True), np.nan, cells)
    left, right = cells[:, : len(runs)], cells[:, len(runs) :]
    if not len(cells):
        return {}, {}, 0
    protocol = runs[0].protocol
    settings = (protocol["bootstrap"], protocol["seed"])
    if others is runs:
        samples = bootstrap_seeds(left - right, *settings)
    else:
        samples = bootstrap_seeds(left, *settings) - bootstrap_seeds(right, *settings, stream=1)
    gaps = np.nanmean(left, axis=(0, 1)) - np.nanmean(right, axis=(0, 1))
    ends = percentile_interval(samples, protocol["confidence"])
    differences = {
        name: (float(gap), float(low), float(high))
        for name, gap, (low, high) in zip(names, gaps, ends, strict=True)
    }
    p = dict(zip(names, map(float, p_values(gaps, samples)), strict=True))
    return differences, p, len(cells)


def _shared(systems: Sequence[tuple[_Evaluated, str]], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Metrics of the users who have the same target in all systems, float64 `[users, systems, metrics]`."""
    frames = [
        run.users.filter(pl.col("system") == system).select(
            "user_id", "target", *(pl.col(name).alias(f"{name}/{i}") for name in names)
        )
        for i, (run, system) in enumerate(systems)
    ]
    shared = frames[0]
    for frame in frames[1:]:
        shared = shared.join(frame, on=["user_id", "target"], maintain_order="left")
    values = shared.select(f"{name}/{i}" for i in range(len(systems)) for name in names).to_numpy()
    return values.astype(np.float64).reshape(-1, len(systems), len(names))


def _cautions(evaluated: Sequence[_Evaluated]) -> list[str]:
    """Describe which runs are not paired with the first, and other differences in protocol."""
    first = evaluated[0]
    cautions = []
    for run in evaluated[1:]:
        cautions += [
            f"{run.name}: not paired with {first.name}: {reason}" for reason in _obstacles(run, first)
        ]
        masks, reference = run.protocol["mask_seen"], first.protocol["mask_seen"]
        if masks != reference:
            cautions.append(f"{run.name}: mask_seen is {masks}, in {first.name} {reference}")
    return cautions
