"""A tree of centroids: what a code means depends on the codes before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import nearest
from llmrec.ids.codecs.residual import squared_distances
from llmrec.ids.tokenizer import Codec


class TreeCodec(Codec):
    """Nested clusters: every node has its own centroids below it (Nistér & Stewénius 2006).

    Args:
        mean: float32 `[dim]`, what the root stands for.
        centroids: float32 `[nodes, dim]` a level, of that level's nodes.
        children: int32 `[nodes of the level before, codes]` a level: the node that a code leads to, -1 for none.
            A node's codes are numbered from 0 without gaps.
    """

    form = "tree"

    def __init__(
        self,
        mean: NDArray[np.float32],
        centroids: Sequence[NDArray[np.float32]],
        children: Sequence[NDArray[np.int32]],
    ) -> None:
        self.mean, self.centroids, self.children = mean, list(centroids), list(children)
        self.sizes = [table.shape[1] for table in children]

    def costs(self, vectors: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """Squared distances to the centroids below the prefix's node, float32 `[n, codes]`; +inf for no such node."""
        level = prefix.shape[1]
        found = np.full((len(vectors), self.sizes[level]), np.inf, np.float32)
        for rows, below in self._by_node(self._nodes(prefix), level):
            found[rows, : len(below)] = squared_distances(vectors[rows], self.centroids[level][below])
        return found

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The nearest centroid below each level's node in turn, int32 `[n, levels]`."""
        codes = np.empty((len(vectors), self.levels), np.int32)
        nodes = np.zeros(len(vectors), np.int32)
        for level in range(self.levels):
            for rows, below in self._by_node(nodes, level):
                codes[rows, level] = nearest(vectors[rows], self.centroids[level][below])
            nodes = self.children[level][nodes, codes[:, level]]
        return codes

    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """The centroid at the end of the path, float32 `[n, dim]`: of its last node that is in the tree."""
        found = np.tile(self.mean, (len(codes), 1))
        for level in range(codes.shape[1]):
            nodes = self._nodes(codes[:, : level + 1])
            found[nodes >= 0] = self.centroids[level][nodes[nodes >= 0]]
        return found

    def tensors(self) -> dict[str, NDArray[np.float32] | NDArray[np.int32]]:
        """The mean, and a level's `centroids_0`, `children_0`, …"""
        centroids = {f"centroids_{level}": array for level, array in enumerate(self.centroids)}
        children = {f"children_{level}": array for level, array in enumerate(self.children)}
        return {"mean": self.mean} | centroids | children

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray]) -> TreeCodec:
        """The codec with these tensors."""
        levels = range((len(tensors) - 1) // 2)
        centroids = [tensors[f"centroids_{level}"] for level in levels]
        return cls(tensors["mean"], centroids, [tensors[f"children_{level}"] for level in levels])

    def _nodes(self, prefix: NDArray[np.int32]) -> NDArray[np.int32]:
        """The node at the end of each prefix, int32 `[n]`; -1 where the tree has none."""
        nodes = np.zeros(len(prefix), np.int32)
        for level in range(prefix.shape[1]):
            nodes = np.where(nodes < 0, -1, self.children[level][nodes, prefix[:, level]])
        return nodes

    def _by_node(self, nodes: NDArray[np.int32], level: int) -> Iterator[tuple[NDArray, NDArray[np.int32]]]:
        """For each node, its rows and the nodes below it; none for -1."""
        for node, rows in rows_by_node(nodes):
            if node >= 0:
                below = self.children[level][node]
                yield rows, below[below >= 0]


def rows_by_node(nodes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each node that occurs, ascending, with its rows."""
    order = np.argsort(nodes, kind="stable")
    found, starts = np.unique(nodes[order], return_index=True)
    return zip(found.tolist(), np.split(order, starts[1:]), strict=True) if len(nodes) else iter(())
