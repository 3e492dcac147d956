"""Assignment of points to clusters of fixed sizes, at the least total cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import chunks

TIE = 1e-6
"""Costs that differ by at most this share of the largest cost count as equal."""
CROWDED = 0.05
"""If more than this share of the points must move, prices of a softened problem are computed first."""
SOFTNESS = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
"""Temperatures of the softened problems, as shares of the costs' standard deviation."""
STEPS = 5
"""Price updates at each temperature."""


def even_sizes(assigned: NDArray[np.int32], clusters: int) -> NDArray[np.int64]:
    """Sizes `[clusters]` that differ by at most one and sum to the number of points.

    The clusters that are largest in `assigned` get the larger size.
    """
    least, rest = divmod(len(assigned), clusters)
    largest = np.argsort(-np.bincount(assigned, minlength=clusters), kind="stable")
    sizes = np.full(clusters, least)
    sizes[largest[:rest]] += 1
    return sizes


def assign_to_sizes(
    costs: NDArray[np.float32], sizes: NDArray[np.int64], prices: NDArray[np.float64]
) -> NDArray[np.int32]:
    """The assignment of least total cost that fills every cluster exactly (up to ties and rounding).

    This is a transport problem, solved by successive shortest paths (Ahuja, Magnanti & Orlin 1993, section 9.7).
    Every point starts in the cluster of least cost + price. While a cluster has too many points, one unit moves along
    the shortest path to a cluster with free places. Each step of the path passes on the point with the smallest loss.
    The prices change so that every point stays in the cluster of least cost + price; this makes the result optimal.

    The time grows with the number of units that must move. If many must move, prices of a softened problem are
    computed first.

    Args:
        costs: `[n, clusters]`, finite.
        sizes: number of points of each cluster, `[clusters]`, with sum n.
        prices: initial prices `[clusters]`, changed in place. Any values are valid; prices of a similar problem save
            most of the work.

    Returns:
        Each point's cluster, int32 `[n]`.
    """
    assigned = _cheapest(costs, sizes, prices)
    places = sizes - np.bincount(assigned, minlength=len(sizes))
    if np.maximum(-places, 0).sum() > CROWDED * len(costs):
        prices[:] = _softened_prices(costs, sizes)
        assigned = _cheapest(costs, sizes, prices)
        places = sizes - np.bincount(assigned, minlength=len(sizes))
    exchange = _Exchange(costs, assigned)
    for full in np.flatnonzero(places < 0):
        for _ in range(-places[full]):
            path = _shortest_path(exchange.losses, prices, full, places > 0)
            exchange.move_along(path)
            places[path[-1]] -= 1
    return assigned


def _cheapest(
    costs: NDArray[np.float32], sizes: NDArray[np.int64], prices: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Cluster of least cost + price of each point, int32 `[n]`; among ties, a cluster with free places."""
    tolerance = TIE * float(np.abs(costs).max(initial=0))
    assigned = np.empty(len(costs), np.int32)
    tied: list[tuple[int, NDArray[np.int64]]] = []
    for rows in chunks(len(costs)):
        priced = costs[rows] + prices
        assigned[rows] = priced.argmin(axis=1)
        equal = priced <= priced.min(axis=1, keepdims=True) + tolerance
        several = np.flatnonzero(equal.sum(axis=1) > 1)
        tied += [(rows.start + row, np.flatnonzero(equal[row])) for row in several]
    places = sizes - np.bincount(assigned, minlength=len(sizes))
    for point, choices in tied:
        if places[assigned[point]] < 0 and places[choices].max() > 0:
            places[assigned[point]] += 1
            assigned[point] = choices[places[choices].argmax()]
            places[assigned[point]] -= 1
    return assigned


def _softened_prices(costs: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Prices `[clusters]` with which the clusters are nearly full if points choose by softmax (Cuturi 2013).

    The temperature of the softmax falls step by step.
    """
    prices = np.zeros(len(sizes))
    deviation = float(costs.std())
    for softness in [deviation * share for share in SOFTNESS if deviation > 0 for _ in range(STEPS)]:
        expected = np.zeros(len(sizes))
        for rows in chunks(len(costs)):
            scores = (costs[rows] + prices.astype(np.float32)) * np.float32(-1 / softness)
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            expected += (scores / scores.sum(axis=1, keepdims=True)).sum(axis=0)
        prices += softness * np.log(np.maximum(expected, TIE) / sizes)
    return prices


class _Exchange:
    """Costs of moving a point from one cluster to another.

    Attributes:
        costs: `[n, clusters]`.
        assigned: cluster of each point, int32 `[n]`; changed in place.
        kinds: number of each distinct row of costs, `[n]`; points of one kind are interchangeable.
        losses: `[clusters, clusters]`, the smallest increase in cost if a point of the row's cluster moves to the
            column's cluster.
        points: `[clusters, clusters]`, the point with this increase.
    """

    def __init__(self, costs: NDArray[np.float32], assigned: NDArray[np.int32]) -> None:
        clusters = costs.shape[1]
        self.costs, self.assigned = costs, assigned
        rows = np.ascontiguousarray(costs).view(np.dtype((np.void, costs.dtype.itemsize * clusters)))
        self.kinds = np.unique(rows[:, 0], return_inverse=True)[1]
        self.losses = np.full((clusters, clusters), np.inf)
        self.points = np.zeros((clusters, clusters), np.int64)
        for cluster in range(clusters):
            self._refresh(cluster)

    def move_along(self, path: list[int]) -> None:
        """Move one point from each cluster of the path to the next cluster."""
        self.assigned[self.points[path[:-1], path[1:]]] = path[1:]
        for cluster in path:
            self._refresh(cluster)

    def _refresh(self, cluster: int) -> None:
        members = np.flatnonzero(self.assigned == cluster)
        members = members[np.unique(self.kinds[members], return_index=True)[1]]
        if len(members) == 0:
            self.losses[cluster] = np.inf
            return
        increase = self.costs[members].astype(np.float64)
        increase -= increase[:, [cluster]]
        least = increase.argmin(axis=0)
        self.losses[cluster] = increase[least, np.arange(len(least))]
        self.points[cluster] = members[least]


def _shortest_path(
    losses: NDArray[np.float64], prices: NDArray[np.float64], start: int, ends: NDArray[np.bool_]
) -> list[int]:
    """Clusters from `start` to the nearest of `ends`, by Dijkstra's algorithm.

    The prices make the lengths non-negative. They are changed in place by the lengths of the paths.
    """
    lengths = np.full(len(prices), np.inf)
    lengths[start] = 0
    unsettled = lengths.copy()
    before = np.full(len(prices), -1)
    while True:
        here = int(unsettled.argmin())
        if ends[here]:
            break
        unsettled[here] = np.inf
        through = lengths[here] + np.maximum(losses[here] + prices - prices[here], 0)
        shorter = through < lengths
        lengths[shorter] = unsettled[shorter] = through[shorter]
        before[shorter] = here
    path = [here]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    prices -= np.minimum(lengths, lengths[here])
    return path[::-1]
