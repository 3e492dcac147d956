"""Coverage and concentration of recommendations over the catalogue."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from llmrec.metrics.lists import RecommendedLists
from llmrec.metrics.metric import ListMetric

Group = Literal["head", "middle", "tail"]
SHARE = 0.2
"""Share of the training interactions that the head has, and the tail."""


def coverage(shown: np.ndarray) -> float:
    """Share of the catalogue that is recommended to somebody (Herlocker et al. 2004, section 4.1)."""
    return float(np.count_nonzero(shown) / len(shown))


def gini(shown: np.ndarray) -> float:
    """Gini index of the items' exposure, bias-corrected so that one item for all is exactly 1.

    Source: Fleder & Hosanagar, Blockbuster culture's next rise or fall, Management Science 2009.

    Args:
        shown: `int64 [items]`, how often each item is shown (`RecommendedLists.exposure`).

    Returns:
        A value from 0 (all items are shown equally often, or none at all) to 1 (one item has every position).
    """
    items, total = len(shown), shown.sum()
    if total == 0 or items == 1:
        return 0.0
    order = 2 * np.arange(1, items + 1) - items - 1
    return float(np.dot(order, np.sort(shown)) / (total * (items - 1)))


def popularity_groups(popularity: npt.ArrayLike) -> dict[Group, npt.NDArray[np.bool_]]:
    """Divide the items by popularity.

    Source: Abdollahpouri et al., User-centered evaluation of popularity bias in recommender systems, UMAP 2021.

    Args:
        popularity: int `[items]`, training interactions of each item; equal counts in catalogue order.

    Returns:
        Which items belong to each group, bool `[items]`: the `head`, the most popular items that together have at
        most 20 % of the interactions (at least one item); the `tail`, the least popular ones that together have at
        most 20 %, those without any included; and the `middle`, the rest.
    """
    counts = np.asarray(popularity, np.int64)
    order = np.argsort(-counts, kind="stable")
    total = counts.sum()
    so_far = np.cumsum(counts[order])
    is_head = so_far <= SHARE * total
    is_head[:1] = True
    is_tail = (total - so_far + counts[order] <= SHARE * total) & ~is_head
    groups: dict[Group, npt.NDArray[np.bool_]] = {}
    for name, members in (("head", is_head), ("middle", ~is_head & ~is_tail), ("tail", is_tail)):
        groups[name] = np.zeros(len(counts), bool)  # type: ignore[index]  # mypy sees a str
        groups[name][order[members]] = True  # type: ignore[index]
    return groups


def _coverage_of(group: Group, lists: RecommendedLists, k: int) -> float:
    members = popularity_groups(lists.popularity)[group]
    return coverage(lists.exposure(k)[members]) if members.any() else 0.0


COVERAGE = ListMetric(
    name="coverage",
    title="Coverage",
    formula="Coverage@k = distinct catalogue items in the first k of all lists / items in the catalogue",
    source="Herlocker et al., Evaluating collaborative filtering recommender systems, 2004, section 4.1",
    value=lambda lists, k: coverage(lists.exposure(k)),
    reading="share of the catalogue that somebody is shown",
)
GINI = ListMetric(
    name="gini",
    title="Gini",
    formula=(
        "Gini@k = Gini index of how often each catalogue item is in a first k "
        "(0: all equally often, 1: always the same one)"
    ),
    source="Fleder & Hosanagar, Blockbuster culture's next rise or fall, Management Science 2009",
    value=lambda lists, k: gini(lists.exposure(k)),
    reading="0: all items shown equally often; 1: always the same one",
)


def _group_metric(group: Group, what: str) -> ListMetric:
    return ListMetric(
        name=f"coverage_{group}",
        title=f"Coverage of the {group}",
        formula=(
            f"Coverage@k of {what}: distinct ones in the first k of all lists / their number. Head and tail have "
            "20 % of the training interactions each"
        ),
        source="Abdollahpouri et al., User-centered evaluation of popularity bias in recommender systems, UMAP 2021",
        value=partial(_coverage_of, group),
        reading=f"share of {what} that somebody is shown",
    )


COVERAGE_HEAD = _group_metric("head", "the most popular items")
COVERAGE_MIDDLE = _group_metric("middle", "the items in between")
COVERAGE_TAIL = _group_metric("tail", "the least popular items")
