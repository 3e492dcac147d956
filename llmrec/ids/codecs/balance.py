"""Assignment of points to clusters of given sizes at the least cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import chunks

TIE = 1e-6
"""Costs this close, as a share of the largest, count as equal."""
CROWDED = 0.05
"""With a larger share of the points in clusters already full, prices are first brought near their end."""
SOFTNESS = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
STEPS = 5


def even_sizes(assigned: NDArray[np.int32], clusters: int) -> NDArray[np.int64]:
    """Sizes `[clusters]` that differ by at most one and sum to the points; the clusters larger now get the rest."""
    least, rest = divmod(len(assigned), clusters)
    largest = np.argsort(-np.bincount(assigned, minlength=clusters), kind="stable")
    sizes = np.full(clusters, least)
    sizes[largest[:rest]] += 1
    return sizes


def assign_to_sizes(
    costs: NDArray[np.float32], sizes: NDArray[np.int64], prices: NDArray[np.float64]
) -> NDArray[np.int32]:
    """The assignment of least total cost that fills every cluster exactly (up to ties and rounding).

    A transport problem, solved by successive shortest paths (Ahuja, Magnanti & Orlin 1993, section 9.7). Every
    point starts in the cluster of least cost + price. While a cluster has too many, one unit moves along the
    shortest path to a cluster with room: each step passes on the point that loses least by it, and prices change
    so that every point stays where cost + price is least, which is what makes the end optimal.

    The more units must move, the longer it takes: where many must, prices of a softened problem come first.

    Args:
        costs: `[n, clusters]`, finite.
        sizes: points of each cluster, `[clusters]`, with sum n.
        prices: `[clusters]`, any to start from: those of a like problem save most of the work. Changed in place.

    Returns:
        Each point's cluster, int32 `[n]`.
    """
    assigned = _cheapest(costs, sizes, prices)
    room = sizes - np.bincount(assigned, minlength=len(sizes))
    if np.maximum(-room, 0).sum() > CROWDED * len(costs):
        prices[:] = _softened_prices(costs, sizes)
        assigned = _cheapest(costs, sizes, prices)
        room = sizes - np.bincount(assigned, minlength=len(sizes))
    exchange = _Exchange(costs, assigned)
    for full in np.flatnonzero(room < 0):
        for _ in range(-room[full]):
            path = _shortest_path(exchange.losses, prices, full, room > 0)
            exchange.move_along(path)
            room[path[-1]] -= 1
    return assigned


def _cheapest(
    costs: NDArray[np.float32], sizes: NDArray[np.int64], prices: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Each point's cluster of least cost + price, int32 `[n]`; of several, one that has room left."""
    tolerance = TIE * float(np.abs(costs).max(initial=0))
    assigned = np.empty(len(costs), np.int32)
    tied: list[tuple[int, NDArray[np.int64]]] = []
    for rows in chunks(len(costs)):
        priced = costs[rows] + prices
        assigned[rows] = priced.argmin(axis=1)
        equal = priced <= priced.min(axis=1, keepdims=True) + tolerance
        several = np.flatnonzero(equal.sum(axis=1) > 1)
        tied += [(rows.start + row, np.flatnonzero(equal[row])) for row in several]
    room = sizes - np.bincount(assigned, minlength=len(sizes))
    for point, choices in tied:
        if room[assigned[point]] < 0 and room[choices].max() > 0:
            room[assigned[point]] += 1
            assigned[point] = choices[room[choices].argmax()]
            room[assigned[point]] -= 1
    return assigned


def _softened_prices(costs: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Prices `[clusters]` that nearly fill the clusters when points choose by softmax (Cuturi 2013), ever harder."""
    prices = np.zeros(len(sizes))
    spread = float(costs.std())
    for softness in [spread * share for share in SOFTNESS if spread > 0 for _ in range(STEPS)]:
        drawn = np.zeros(len(sizes))
        for rows in chunks(len(costs)):
            scores = (costs[rows] + prices.astype(np.float32)) * np.float32(-1 / softness)
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            drawn += (scores / scores.sum(axis=1, keepdims=True)).sum(axis=0)
        prices += softness * np.log(np.maximum(drawn, TIE) / sizes)
    return prices


class _Exchange:
    """What it costs a cluster to pass a point on to another.

    Attributes:
        losses: `[clusters, clusters]`, the least by which a point of the row's cluster is dearer in the column's.
        points: `[clusters, clusters]`, that point.
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
        """Each cluster of the path passes a point on to the next."""
        self.assigned[self.points[path[:-1], path[1:]]] = path[1:]
        for cluster in path:
            self._refresh(cluster)

    def _refresh(self, cluster: int) -> None:
        members = np.flatnonzero(self.assigned == cluster)
        members = members[np.unique(self.kinds[members], return_index=True)[1]]
        if len(members) == 0:
            self.losses[cluster] = np.inf
            return
        dearer = self.costs[members].astype(np.float64)
        dearer -= dearer[:, [cluster]]
        least = dearer.argmin(axis=0)
        self.losses[cluster] = dearer[least, np.arange(len(least))]
        self.points[cluster] = members[least]


def _shortest_path(
    losses: NDArray[np.float64], prices: NDArray[np.float64], start: int, ends: NDArray[np.bool_]
) -> list[int]:
    """Clusters from `start` to the nearest of `ends` (Dijkstra, lengths made non-negative by the prices).

    Prices change by the lengths found, in place.
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
