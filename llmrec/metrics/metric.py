"""The interface of metrics of ranked lists: functions of each target's rank, of each user's list, or of all lists."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llmrec.config.registry import METRICS
from llmrec.errors import UserError
from llmrec.metrics.lists import RecommendedLists, Values
from llmrec.plugins import check_parameters, is_import_path

Ranks = npt.NDArray[np.int64]
Need = Literal["categories", "text_vectors"]
"""What a metric may need that not all runs have: an attribute of `ItemData`."""


@dataclass(frozen=True)
class Metric(ABC):
    """One metric, with a value at each cutoff k of `eval.k`. Create a `RankMetric`, `UserMetric` or `ListMetric`.

    Attributes:
        name: prefix of its column, as in `hr@10`.
        title: its name in prose.
        formula: plain text.
        source: the publication that introduced it.
        value: the function that computes it.
        reading: how to read its values, in a few words.
        needs: what it needs of the items; it is left out where the run does not have it.
    """

    name: str
    title: str
    formula: str
    source: str
    value: Callable[..., Any]
    reading: str = ""
    needs: tuple[Need, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(f"metric {self.name!r}: name it in small letters, digits and _, as in my_metric")
        unknown = set(self.needs) - set(get_args(Need))
        if unknown:
            raise UserError(
                f"metric {self.name}: needs {min(unknown)!r}; there are: {', '.join(get_args(Need))}"
            )


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
        values[:k] = _numbers(self, self.value(np.arange(1, k + 1), k), (k,), "rank")
        return values


@dataclass(frozen=True)
class UserMetric(Metric):
    """A metric that is the mean over users of a function of the user's list; it has bootstrap intervals.

    Attributes:
        value: `(lists, k) -> values`, from the first k positions of `RecommendedLists` to float `[users]`, in the
            order of `lists.users`. NaN leaves a user out of the mean, such as one whose list is empty.
    """

    value: Callable[[RecommendedLists, int], npt.ArrayLike]

    def of(self, lists: RecommendedLists, k: int) -> Values:
        """Compute the metric for each user, float64 `[users]`; NaN where it is not defined.

        Raises:
            UserError: the function does not return one number a user.
        """
        return _numbers(self, self.value(lists, k), (len(lists.users),), "user", may_lack=True)


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


def load_metrics(names: Sequence[str]) -> list[Metric]:
    """Load the metrics of `eval.metrics`, in its order.

    Raises:
        UserError: a metric does not exist, a user's object is not a metric, or two metrics have one name.
    """
    metrics: list[Metric] = []
    for name in names:
        metric = METRICS.load(name)
        if not isinstance(metric, RankMetric | UserMetric | ListMetric):
            raise UserError(f"eval.metrics: {name} is no RankMetric, UserMetric or ListMetric")
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


def user_metrics(metrics: Sequence[Metric]) -> list[UserMetric]:
    """Return the metrics that are functions of each user's list."""
    return [metric for metric in metrics if isinstance(metric, UserMetric)]


def list_metrics(metrics: Sequence[Metric]) -> list[ListMetric]:
    """Return the metrics that are functions of all lists."""
    return [metric for metric in metrics if isinstance(metric, ListMetric)]


def _numbers(
    metric: Metric, values: Any, shape: tuple[int, ...], each: str = "", may_lack: bool = False
) -> Values:
    """Return a function's values as numbers; `each` is what it has to return one for."""
    remedy = f"return one number a {each}" if each else "return one number"
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"metric {metric.name} returns {type(values).__name__}; {remedy}") from None
    if numbers.shape != shape:
        raise UserError(f"metric {metric.name} returns shape {list(numbers.shape)}; {remedy}, {list(shape)}")
    if not (np.isfinite(numbers) | (may_lack & np.isnan(numbers))).all():
        raise UserError(f"metric {metric.name} returns numbers that are not finite; {remedy}")
    return numbers
