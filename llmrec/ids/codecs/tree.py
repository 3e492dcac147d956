"""A tree of centroids: the centroid of a code depends on the codes before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import nearest
from llmrec.ids.codecs.residual import squared_distances
from llmrec.ids.tokenizer import Codec


class TreeCodec(Codec):
    """Nested clusters: every node has its own child centroids (Nistér & Stewénius 2006).

    Args:
        mean: float32 `[dim]`, the centroid of the root.
        centroids: for each level, the centroids of its nodes, float32 `[nodes, dim]`.
        children: for each level, int32 `[nodes of the level before, codes]`: the node that a code leads to; -1 for no
            node. A node's codes are numbered from 0 without gaps.
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
        """Squared distances to the child centroids of the prefix's node, float32 `[n, codes]`; +inf for codes without
        a node.
        """
        level = prefix.shape[1]
        costs = np.full((len(vectors), self.sizes[level]), np.inf, np.float32)
        for rows, children in self._by_node(self._nodes(prefix), level):
            costs[rows, : len(children)] = squared_distances(vectors[rows], self.centroids[level][children])
        return costs

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The nearest child centroid of the current node, one level after the other, int32 `[n, levels]`."""
        codes = np.empty((len(vectors), self.levels), np.int32)
        nodes = np.zeros(len(vectors), np.int32)
        for level in range(self.levels):
            for rows, children in self._by_node(nodes, level):
                codes[rows, level] = nearest(vectors[rows], self.centroids[level][children])
            nodes = self.children[level][nodes, codes[:, level]]
        return codes

    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Centroid of the last node of the path that is in the tree, float32 `[n, dim]`."""
        vectors = np.tile(self.mean, (len(codes), 1))
        for level in range(codes.shape[1]):
            nodes = self._nodes(codes[:, : level + 1])
            vectors[nodes >= 0] = self.centroids[level][nodes[nodes >= 0]]
        return vectors

    def tensors(self) -> dict[str, NDArray[np.float32] | NDArray[np.int32]]:
        """The mean, and `centroids_0`, `children_0`, … of the levels."""
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
        """The node at the end of each prefix, int32 `[n]`; -1 if the tree does not have the prefix."""
        nodes = np.zeros(len(prefix), np.int32)
        for level in range(prefix.shape[1]):
            nodes = np.where(nodes < 0, -1, self.children[level][nodes, prefix[:, level]])
        return nodes

    def _by_node(self, nodes: NDArray[np.int32], level: int) -> Iterator[tuple[NDArray, NDArray[np.int32]]]:
        """For each node except -1, its rows and its child nodes."""
        for node, rows in rows_by_node(nodes):
            if node >= 0:
                children = self.children[level][node]
                yield rows, children[children >= 0]


def rows_by_node(nodes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each node that occurs, in ascending order, with its rows."""
    order = np.argsort(nodes, kind="stable")
    distinct, starts = np.unique(nodes[order], return_index=True)
    return zip(distinct.tolist(), np.split(order, starts[1:]), strict=True) if len(nodes) else iter(())
