"""The interface of metrics of ranked lists. A metric is a function of each target's rank, or of all lists at once."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.config.registry import METRICS
from llmrec.errors import UserError
from llmrec.plugins import check_parameters, is_import_path

Ranks = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RecommendedLists:
    """All lists of one system on one split.

    Attributes:
        frame: `user_id, rank` (from 1)`, item_id`; ids outside the catalogue may occur.
        catalogue: all item ids, unique.
        popularity: int64 `[items]`, training interactions of each item of the catalogue.
    """

    frame: pl.DataFrame
    catalogue: pl.Series
    popularity: npt.NDArray[np.int64]

    def exposure(self, k: int) -> npt.NDArray[np.int64]:
        """Count, for each item, the lists that have it among their first k positions, int64 `[items]`."""
        return exposure(self.frame, k, self.catalogue)


def exposure(lists: pl.DataFrame, k: int, catalogue: pl.Series) -> npt.NDArray[np.int64]:
    """Count, for each catalogue item, the lists that have it among their first k positions.

    Args:
        lists: `user_id, rank` (from 1)`, item_id`; ids outside the catalogue are ignored.
        k: cutoff.
        catalogue: all item ids, unique.

    Returns:
        int64 `[items]`, in catalogue order.
    """
    shown = lists.filter(pl.col("rank") <= k).group_by("item_id").agg(pl.len().alias("shown"))
    frame = catalogue.to_frame("item_id").join(shown, on="item_id", how="left", maintain_order="left")
    counts: npt.NDArray[np.int64] = frame["shown"].fill_null(0).cast(pl.Int64).to_numpy()
    return counts


@dataclass(frozen=True)
class Metric(ABC):
    """One metric, with a value at each cutoff k of `eval.k`. Create a `RankMetric` or a `ListMetric`.

    Attributes:
        name: prefix of its column, as in `hr@10`.
        title: its name in prose.
        formula: plain text.
        source: the publication that introduced it.
        value: the function that computes it.
    """

    name: str
    title: str
    formula: str
    source: str
    value: Callable[..., Any]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(f"metric {self.name!r}: name it in small letters, digits and _, as in my_metric")


@dataclass(frozen=True)
class RankMetric(Metric):
    """A metric that is the mean over users of a function of the target's rank; it has bootstrap intervals.

    Attributes:
        value: `(ranks, k) -> values`, from int64 `[n]` (ranks from 1 to k) to float `[n]`. The value of a target
            outside the first k positions is 0.
    """

    value: Callable[[Ranks, int], npt.ArrayLike]

    def at(self, depth: int, k: int) -> Values:
        """Compute the metric for a target at each rank of a list, float64 `[depth]`; 0 beyond k.

        Args:
            depth: length of the lists.
            k: cutoff.

        Raises:
            UserError: the function does not return one finite number per rank.
        """
        values = np.zeros(depth)
        values[:k] = _numbers(self, self.value(np.arange(1, k + 1), k), (k,))
        return values


@dataclass(frozen=True)
class ListMetric(Metric):
    """A metric that is one number for all lists of a system, such as coverage; it has no interval.

    Attributes:
        value: `(lists, k) -> number`, from the first k positions of `RecommendedLists`.
    """

    value: Callable[[RecommendedLists, int], float]

    def of(self, lists: RecommendedLists, k: int) -> float:
        """Compute the metric for a system's lists.

        Raises:
            UserError: the function does not return a finite number.
        """
        return float(_numbers(self, self.value(lists, k), ()))


def load_metrics(names: Sequence[str]) -> list[RankMetric | ListMetric]:
    """Load the metrics of `eval.metrics`, in its order.

    Raises:
        UserError: a metric does not exist, a user's object is not a metric, or two metrics have one name.
    """
    metrics = []
    for name in names:
        metric = METRICS.load(name)
        if not isinstance(metric, RankMetric | ListMetric):
            raise UserError(f"eval.metrics: {name} is neither a RankMetric nor a ListMetric")
        if is_import_path(name):
            check_parameters(
                metric.value, ("ranks" if isinstance(metric, RankMetric) else "lists", "k"), name
            )
        metrics.append(metric)
    columns = [metric.name for metric in metrics]
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise UserError(f"eval.metrics: two metrics are called {repeated[0]}; give one another name")
    return metrics


def metric_title(name: str) -> str:
    """Return the title of a finished run's metric; of a user's own metric, its name."""
    return str(METRICS.load(name).title) if name in METRICS.shipped else name


def rank_metrics(metrics: Sequence[Metric]) -> list[RankMetric]:
    """Return the metrics that are functions of the target's rank."""
    return [metric for metric in metrics if isinstance(metric, RankMetric)]


def list_metrics(metrics: Sequence[Metric]) -> list[ListMetric]:
    """Return the metrics that are functions of all lists."""
    return [metric for metric in metrics if isinstance(metric, ListMetric)]


def _numbers(metric: Metric, values: Any, shape: tuple[int, ...]) -> Values:
    remedy = f"return {'one number a rank' if shape else 'one number'}"
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"metric {metric.name} returns {type(values).__name__}; {remedy}") from None
    if numbers.shape != shape:
        raise UserError(f"metric {metric.name} returns shape {list(numbers.shape)}; {remedy}, {list(shape)}")
    if not np.isfinite(numbers).all():
        raise UserError(f"metric {metric.name} returns numbers that are not finite; {remedy}")
    return numbers
