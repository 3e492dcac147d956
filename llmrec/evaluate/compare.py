"""Runs side by side: means over seeds, and differences with intervals over seeds and users."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table

from llmrec import layout
from llmrec.config.former_keys import upgrade
from llmrec.errors import UserError
from llmrec.evaluate.summary import order_systems, systems_of
from llmrec.files import read_json
from llmrec.metrics.statistics import bootstrap_seeds, percentile_interval
from llmrec.yaml_files import read_yaml

_UNRELATED = ("name", "description", "seed", "parent", "track")
_SEEDED = ("dpo", "grpo")
"""Sections with a seed of their own."""


@dataclass(frozen=True)
class ComparisonRow:
    """One system of one group of runs, the runs of a group differing by seed alone.

    Attributes:
        runs: names of the runs.
        system: such as `sft`.
        values: mean over the runs, per metric.
        deviations: standard deviation over the runs (n − 1), per metric; empty for a single run.
        differences: per metric the difference to the reference and the ends of its interval, over the users that
            all runs share; empty for the reference itself, and without the metrics of all lists at once.
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
    """Runs side by side.

    Attributes:
        split: `valid` or `test`.
        metrics: those compared.
        against: the system that each group's others are compared to; None where each is compared to the first
            group's same system.
        rows: a group and a system each.
        cautions: what makes figures incomparable, in words.
    """

    split: str
    metrics: tuple[str, ...]
    against: str | None
    rows: tuple[ComparisonRow, ...]
    cautions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON data; of a difference, its value and the ends of its interval."""
        return asdict(self)


def compare(
    runs: Sequence[Path],
    split: str | None = None,
    metrics: Sequence[str] | None = None,
    against: str | None = None,
) -> Comparison:
    """Compare finished runs on the users they share; runs that differ only by seed become one row.

    A row of several seeds has intervals over seeds and users: each resample draws both anew. A single run's are
    over users alone.

    Args:
        runs: run folders.
        split: `valid` or `test`; by default test, or the first run's first split where it was not evaluated.
        metrics: names such as `ndcg@10`; by default HR and NDCG at 10, or at the largest cutoff of all runs.
        against: compare each system to this one of the same run, instead of to the first group's same system.

    Raises:
        UserError: a run that is not evaluated on the split, or lacks a metric or the system.
    """
    split = split or _default_split(runs[0])
    evaluated = [_read(run, split) for run in runs]
    names = tuple(metrics or _common_metrics(evaluated))
    for one in evaluated:
        missing = [name for name in names if not _is_metric_of(one, name)]
        if missing:
            raise UserError(
                f"run {one.name}: has no {missing[0]}; its eval.k is {one.protocol['k']}, "
                f"its eval.metrics are {', '.join(one.protocol['formulas'])}"
            )
        if against is not None and against not in one.systems:
            raise UserError(f"run {one.name}: has no system {against!r}; there are: {', '.join(one.systems)}")
    groups = _group_seeds(evaluated)
    rows = []
    for group in groups:
        for system in order_systems(group[0].systems):
            rows.append(_row(group, groups[0], system, names, against))
    return Comparison(split, names, against, tuple(rows), tuple(_cautions(evaluated)))


def comparison_table(comparison: Comparison) -> Table:
    """Lay a comparison out as a table: means (± deviation over seeds) and paired differences."""
    reference = f"{comparison.against} of the same run" if comparison.against else "the first run"
    table = Table(title=f"{comparison.split} split; Δ against {reference}, paired over users")
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
            cells.append(_signed(*row.differences[name]) if name in row.differences else "")
        table.add_row(label, row.system, *cells)
    table.caption = "\n".join(comparison.cautions) or None
    return table


@dataclass(frozen=True)
class _Evaluated:
    name: str
    seeds: tuple[int | None, ...]
    setting: str
    protocol: dict[str, Any]
    systems: dict[str, Any]
    users: pl.DataFrame


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
        json.dumps(sections, sort_keys=True),
        metrics["protocol"],
        systems_of(metrics, split, f"run {run.name}"),
        users,
    )


def _metrics(run: Path) -> Any:
    if not (run / layout.METRICS).is_file():
        raise UserError(f"run {run.name}: is not evaluated yet; run `llmrec eval` on its recipe first")
    return read_json(run / layout.METRICS)


def _default_split(run: Path) -> str:
    splits = _metrics(run)["protocol"]["splits"]
    return "test" if "test" in splits else str(splits[0])


def _common_metrics(evaluated: Sequence[_Evaluated]) -> list[str]:
    shared = set.intersection(*(set(one.protocol["k"]) for one in evaluated))
    if not shared:
        raise UserError("compare: the runs share no cutoff; evaluate them with one eval.k")
    k = 10 if 10 in shared else max(shared)
    return [f"hr@{k}", f"ndcg@{k}"]


def _group_seeds(evaluated: Sequence[_Evaluated]) -> list[list[_Evaluated]]:
    """Put runs together whose recipes differ by seeds alone, in the order given."""
    groups: list[list[_Evaluated]] = []
    for one in evaluated:
        for group in groups:
            if group[0].setting == one.setting and all(other.seeds != one.seeds for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _row(
    group: list[_Evaluated], first: list[_Evaluated], system: str, names: tuple[str, ...], against: str | None
) -> ComparisonRow:
    having = [one for one in group if system in one.systems]
    values = {name: [one.systems[system][name] for one in having] for name in names}
    deviations = {name: stdev(found) for name, found in values.items()} if len(having) > 1 else {}
    differences: dict[str, tuple[float, float, float]] = {}
    users = 0
    # A metric of all lists at once has no values of users, and so no paired difference.
    paired = tuple(name for name in names if all(name in run.users.columns for run in (*having, *first)))
    if against is not None:
        if system != against:
            differences, users = _differences(having, system, having, against, paired)
    elif group is not first and _same_items(group[0], first[0]):
        reference = [one for one in first if system in one.systems]
        differences, users = _differences(having, system, reference, system, paired)
    means = {name: fmean(found) for name, found in values.items()}
    return ComparisonRow(tuple(one.name for one in having), system, means, deviations, differences, users)


def _is_metric_of(run: _Evaluated, name: str) -> bool:
    return all(isinstance(system.get(name), float) for system in run.systems.values())


def _same_items(one: _Evaluated, other: _Evaluated) -> bool:
    """Whether ids of the two runs can mean the same users and items."""
    return bool(one.protocol["catalogue"] == other.protocol["catalogue"])


def _differences(
    runs: list[_Evaluated], system: str, others: list[_Evaluated], reference: str, names: tuple[str, ...]
) -> tuple[dict[str, tuple[float, float, float]], int]:
    """Differences of a system's mean over `runs` to a reference's over `others`, and over how many users.

    Where `others` are the same runs, each is subtracted from its own.
    """
    if not others or not names:
        return {}, 0
    cells = _shared([(one, system) for one in runs] + [(one, reference) for one in others], names)
    left, right = cells[:, : len(runs)], cells[:, len(runs) :]
    if not len(cells):
        return {}, 0
    protocol = runs[0].protocol
    settings = (protocol["bootstrap"], protocol["seed"])
    if others is runs:
        samples = bootstrap_seeds(left - right, *settings)
    else:
        samples = bootstrap_seeds(left, *settings) - bootstrap_seeds(right, *settings, stream=1)
    gaps = left.mean(axis=(0, 1)) - right.mean(axis=(0, 1))
    ends = percentile_interval(samples, protocol["confidence"])
    found = {
        name: (float(gap), float(low), float(high))
        for name, gap, (low, high) in zip(names, gaps, ends, strict=True)
    }
    return found, len(cells)


def _shared(systems: Sequence[tuple[_Evaluated, str]], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Metrics of the users that all systems have with the same target, float64 `[users, systems, metrics]`."""
    frames = [
        one.users.filter(pl.col("system") == system).select(
            "user_id", "target", *(pl.col(name).alias(f"{name}/{i}") for name in names)
        )
        for i, (one, system) in enumerate(systems)
    ]
    shared = frames[0]
    for frame in frames[1:]:
        shared = shared.join(frame, on=["user_id", "target"], maintain_order="left")
    values = shared.select(f"{name}/{i}" for i in range(len(systems)) for name in names).to_numpy()
    return values.astype(np.float64).reshape(-1, len(systems), len(names))


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


def _signed(gap: float, low: float, high: float) -> str:
    return f"{gap:+.4f} \\[{low:+.4f}, {high:+.4f}]"
