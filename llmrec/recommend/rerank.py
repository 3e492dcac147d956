"""Re-ranking of lists for diversity.

Maximal marginal relevance: Carbonell & Goldstein, The use of MMR, diversity-based reranking for reordering
documents and producing summaries, SIGIR 1998.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.decode.top_k import TopK
from llmrec.errors import UserError

BLOCK = 1 << 24
"""Number of floats of item vectors that are gathered at once: 64 MB."""
Floats = npt.NDArray[np.float32]


def mmr(
    items: npt.NDArray[np.int64], scores: npt.NDArray[np.floating], vectors: Floats, trade_off: float, k: int
) -> TopK:
    """Reorder lists greedily by maximal marginal relevance, for all users at once.

    The next item is the one with the largest λ · relevance − (1 − λ) · redundancy.

    - Relevance is the score, min-max normalised within the user's list: the best item has 1 and the worst has 0. If
      all scores are equal, all items have 0. A softmax would give nearly the same relevance to all lower ranks.
    - Redundancy is the largest cosine to an item that was taken before. The first item has redundancy −1, the
      smallest possible cosine, so the values never rise down a list.

    Args:
        items: int64 [U, W], places in trie order, best first; −1 after the end of a list.
        scores: float [U, W].
        vectors: float [items, d], in trie order; a zero vector has cosine 0 to all others.
        trade_off: λ from 0 (only diversity, after the best item) to 1 (the order of the lists stays).
        k: length of the new lists; they have at most W items.

    Returns:
        TopK [U, min(k, W)]; `scores` holds each item's value of MMR when it was taken.

    Raises:
        UserError: λ is outside 0 … 1, k is below 1, shapes do not fit together, an item has no vector, or a vector or
            score is not finite.
    """
    _check(items, scores, vectors, trade_off, k)
    k = min(k, items.shape[1])
    top = TopK(np.full((len(items), k), -1, np.int64), np.full((len(items), k), -np.inf, np.float32))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    block = max(1, BLOCK // max(1, items.shape[1] * vectors.shape[1]))
    for begin in range(0, len(items), block):
        rows = slice(begin, begin + block)
        relevance = _relevance(scores[rows], items[rows] >= 0)
        unit = vectors[items[rows]] / np.maximum(norms[items[rows]], np.finfo(np.float32).tiny)
        order, values = _greedy(relevance, unit.astype(np.float32), trade_off, k)
        top.items[rows] = np.where(np.isfinite(values), np.take_along_axis(items[rows], order, axis=1), -1)
        top.scores[rows] = values
    return top


def _relevance(scores: npt.NDArray[np.floating], filled: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Normalise scores to 0 … 1 within each row; −inf after the end of a list."""
    exact = scores.astype(np.float64)
    best = np.where(filled, exact, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    worst = np.where(filled, exact, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(best > worst, best - worst, 1.0)
    return np.where(filled, (exact - worst) / spread, -np.inf)


def _greedy(
    relevance: npt.NDArray[np.float64], unit: Floats, trade_off: float, k: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Take the slot with the largest value k times; the earlier slot wins a tie.

    Returns:
        Slots in the order in which they were taken, int64 [U, k], and their values, float32 [U, k]; −inf if no slot
        is left.
    """
    users = np.arange(len(relevance))
    order = np.empty((len(relevance), k), np.int64)
    values = np.empty((len(relevance), k), np.float32)
    redundancy = np.full(relevance.shape, -1.0)
    is_left = np.isfinite(relevance)
    for step in range(k):
        value = trade_off * np.where(is_left, relevance, 0) - (1 - trade_off) * redundancy
        value[~is_left] = -np.inf
        taken = value.argmax(axis=1)
        order[:, step], values[:, step] = taken, value[users, taken]
        is_left[users, taken] = False
        cosine = np.einsum("uwd,ud->uw", unit, unit[users, taken])
        redundancy = np.maximum(redundancy, np.clip(cosine, -1, 1))
    return order, values


def _check(
    items: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    vectors: Floats,
    trade_off: float,
    k: int,
) -> None:
    if not 0 <= trade_off <= 1:
        raise UserError(f"the MMR trade-off is {trade_off}: give a number from 0 (diverse) to 1 (as it is)")
    if k < 1:
        raise UserError(f"k is {k}: ask for at least one item")
    if items.ndim != 2 or items.shape != scores.shape or vectors.ndim != 2:
        raise UserError(
            f"items {items.shape}, scores {scores.shape} and item vectors {vectors.shape} do not fit together"
        )
    if items.size and items.max() >= len(vectors):
        raise UserError(f"item {items.max()} has no vector: there are {len(vectors)} item vectors")
    if not np.isfinite(vectors).all() or not np.isfinite(scores[items >= 0]).all():
        raise UserError("an item vector, or the score of an item, is not a finite number")
