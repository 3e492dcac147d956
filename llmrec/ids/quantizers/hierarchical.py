"""Hierarchical k-means: each cluster is divided again by k-means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import kmeans
from llmrec.ids.codecs.residual import mean_vector
from llmrec.ids.codecs.tree import TreeCodec, rows_by_node
from llmrec.ids.tokenizer import MAX_AUTO_CODES, Codes, KmeansTokenizer, Signals, number_of_codes
from llmrec.progress.bar import follow


class HierarchicalTokenizer(KmeansTokenizer):
    """Hierarchical k-means: each cluster is divided again by k-means."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Hierarchical k-means (Nistér & Stewénius 2006; as a tokenizer of items: Tay et al. 2022, DSI).

        A node has at most as many children as distinct vectors, so the deep levels of a small catalogue use few
        codes. `codes: auto` therefore takes the smallest power of two whose `levels`-th power is at least the number
        of items: 32 for 12,101 items and three levels.
        """
        vectors = np.ascontiguousarray(signals.vectors, dtype=np.float32)
        codes = _codes_that_fill(len(vectors), self.levels) if self.codes == "auto" else self.codes
        size = number_of_codes(codes, len(vectors))
        nodes = np.zeros(len(vectors), np.int32)
        count = 1
        columns, centroids, children = [], [], []
        for level in follow(range(self.levels), "hierarchical k-means", "level"):
            column = np.empty(len(vectors), np.int32)
            table = np.full((count, size), -1, np.int32)
            books = []
            count = 0
            for node, rows in rows_by_node(nodes):
                book, column[rows] = _cluster(vectors[rows], size, self.iterations, seed + level)
                table[node, : len(book)] = np.arange(count, count + len(book))
                books.append(book)
                count += len(book)
            nodes = table[nodes, column]
            columns.append(column)
            centroids.append(np.concatenate(books))
            children.append(table)
        codec = TreeCodec(mean_vector(vectors), centroids, children)
        return Codes(np.stack(columns, axis=1), codec.sizes, codec)


def _codes_that_fill(items: int, levels: int) -> int:
    codes = 2
    while codes < MAX_AUTO_CODES and codes**levels < items:
        codes *= 2
    return codes


def _cluster(
    points: NDArray[np.float32], size: int, iterations: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """At most `size` centroids of non-empty clusters, `[clusters, dim]`, and the points' codes `[n]`."""
    if (points == points[0]).all():
        return points[:1], np.zeros(len(points), np.int32)
    centroids, assigned = kmeans(points, min(size, len(points)), iterations, seed)
    used, codes = np.unique(assigned, return_inverse=True)
    return centroids[used], codes.astype(np.int32)
