"""Summaries of per-user values: means, intervals, differences, slices."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from llmrec.config import Recipe
from llmrec.errors import UserError
from llmrec.evaluate.lists import is_baseline
from llmrec.metrics.statistics import Bootstrap, bootstrap_means, percentile_interval
from llmrec.recommend.model_names import ADAPTERS

Users = Mapping[str, pl.DataFrame]
JUDGED_SPLIT = "valid"
"""The split on which the gate, arms and sweeps choose; test users are for what has been chosen."""


def bootstrap_of(recipe: Recipe) -> Bootstrap:
    """Return how a recipe draws the intervals of its figures."""
    return Bootstrap(recipe.eval.bootstrap, recipe.seed, recipe.eval.confidence)


def summarise(users: Users, metrics: Sequence[str], draws: Bootstrap) -> Any:
    """Means of every system with bootstrap intervals over users.

    Args:
        users: per system a frame with the columns `metrics`, one row per user, the same users in one order; null
            leaves a user out of a metric.
        metrics: columns to average.
        draws: how the intervals are drawn.

    Returns:
        `{system: {metric: mean, …, "users": n, "intervals": {metric: [low, high]}}}`, rounded to 6 places; a metric
        without any value is None and has no interval.
    """
    samples = _samples(users, metrics, draws)
    return {
        system: _means(frame, metrics)
        | {"users": len(frame), "intervals": _intervals(samples[system], metrics, draws.confidence)}
        for system, frame in users.items()
    }


def differences(
    users: Users, pairs: Sequence[tuple[str, str]], metrics: Sequence[str], draws: Bootstrap
) -> Any:
    """Paired differences of systems over the same users, with bootstrap intervals.

    Args:
        users: as for `summarise`.
        pairs: `(system, reference)`; the difference is system − reference.
        metrics: columns to compare.
        draws: how the intervals are drawn.

    Returns:
        `{system: {reference: {metric: difference, …, "intervals": {metric: [low, high]}}}}`.
    """
    samples = _samples(users, metrics, draws)
    gaps: dict[str, Any] = {}
    for system, reference in pairs:
        per_user = users[system].select(pl.col(name) - users[reference][name] for name in metrics)
        gaps.setdefault(system, {})[reference] = _means(per_user, metrics) | {
            "intervals": _intervals(samples[system] - samples[reference], metrics, draws.confidence)
        }
    return gaps


def shown_split(splits: Sequence[str]) -> str:
    """Return the split of verdicts and comparisons: test, or the first that was evaluated."""
    return "test" if "test" in splits else splits[0]


def shown_cutoff(cutoffs: Collection[int]) -> int:
    """Return the cutoff of verdicts and comparisons: 10, or the largest one if 10 was not evaluated."""
    return 10 if 10 in cutoffs else max(cutoffs)


def order_systems(systems: Iterable[str], scores: Mapping[str, float] | None = None) -> list[str]:
    """Sort systems for display: the run's models in the order of their training, other models, then baselines.

    Args:
        systems: names of systems.
        scores: a metric of each system, by which baselines are sorted, the best first; None sorts them by name.
    """
    trained = {name: place for place, name in enumerate(ADAPTERS)}

    def place(name: str) -> tuple[bool, int, float, str]:
        score = scores[name] if scores is not None and is_baseline(name) else 0.0
        return is_baseline(name), trained.get(name, len(trained)), -score, name

    return sorted(systems, key=place)


def order_by_metric(values: Mapping[str, Mapping[str, Any]], metric: str) -> list[str]:
    """Sort the systems of one split of `eval/metrics.json` for display, baselines by a metric."""
    return order_systems(values, {name: float(of[metric]) for name, of in values.items()})


def rounded(value: Any) -> float:
    """Round a value to 6 places; negative zero becomes zero."""
    return round(float(value), 6) + 0.0


def _means(frame: pl.DataFrame, metrics: Sequence[str]) -> dict[str, Any]:
    """Means over the users for whom a metric is defined; None if it is defined for nobody."""
    columns = frame.select(metrics).to_numpy().T
    known = [column[~np.isnan(column)] for column in columns]
    return {
        name: rounded(values.mean()) if len(values) else None
        for name, values in zip(metrics, known, strict=True)
    }


def _samples(users: Users, metrics: Sequence[str], draws: Bootstrap) -> dict[str, np.ndarray]:
    """Bootstrap means `[resamples, metrics]` of each system, all from the same draws."""
    columns = np.hstack([frame.select(metrics).to_numpy() for frame in users.values()])
    means = bootstrap_means(columns, draws.resamples, draws.seed)
    return dict(zip(users, np.split(means, len(users), axis=1), strict=True))


def _intervals(samples: np.ndarray, metrics: Sequence[str], confidence: float) -> dict[str, list[float]]:
    ends = percentile_interval(samples, confidence)
    return {
        name: [rounded(low), rounded(high)]
        for name, (low, high) in zip(metrics, ends, strict=True)
        if not np.isnan(low)
    }


def systems_of(metrics: dict[str, Any], split: str, where: str) -> dict[str, Any]:
    """Return the systems of one split of `eval/metrics.json`.

    Args:
        metrics: content of the file.
        split: `valid` or `test`.
        where: name of the run, for the error message.

    Raises:
        UserError: the split was not evaluated.
    """
    splits = metrics["protocol"]["splits"]
    if split not in splits:
        raise UserError(f"{where}: split {split!r} was not evaluated; evaluated: {', '.join(splits)}")
    systems: dict[str, Any] = metrics[split]
    return systems
