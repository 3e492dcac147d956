"""Re-ranking of lists for diversity.

Maximal marginal relevance: Carbonell & Goldstein, The use of MMR, diversity-based reranking for reordering
documents and producing summaries, SIGIR 1998. Determinantal point processes: Chen, Zhang & Zhou, Fast greedy MAP
inference for determinantal point process to improve recommendation diversity, NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from llmrec.config import DecodeConfig
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError

BLOCK = 1 << 24
"""Number of floats of item vectors that are gathered at once: 64 MB."""
SINGULAR = 1e-6
"""Least share of an item that the items before it leave open; below it they determine the item."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_Greedy = Callable[[npt.NDArray[np.floating], npt.NDArray[np.bool_], Floats, float, int], tuple[Ints, Floats]]


def rerank(top: TopK, vectors: Floats, settings: DecodeConfig) -> TopK:
    """Re-rank lists of all beams by `decode.mmr` or `decode.dpp`, whichever is set, to lists of `list_length`."""
    if settings.dpp is not None:
        return dpp(top.items, top.scores, vectors, settings.dpp.trade_off, settings.list_length)
    assert settings.mmr is not None  # one of the two is set
    return mmr(top.items, top.scores, vectors, settings.mmr.trade_off, settings.list_length)


def mmr(items: Ints, scores: npt.NDArray[np.floating], vectors: Floats, trade_off: float, k: int) -> TopK:
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
    return _reorder(items, scores, vectors, trade_off, k, _greedy_mmr)


def dpp(items: Ints, scores: npt.NDArray[np.floating], vectors: Floats, trade_off: float, k: int) -> TopK:
    """Reorder lists by the greedy maximum of a determinantal point process, for all users at once.

    The set Y of taken items grows by the item that raises log det L_Y most. The kernel is L = Diag(q) S Diag(q), as
    in Chen, Zhang & Zhou 2018:

    - Quality is q = exp(α · score) with α = θ / (2 (1 − θ)). A score is a log-probability, so at θ = ½ the diagonal
      of L holds the items' probabilities.
    - Similarity is S = (1 + cosine) / 2, which is 0 for opposite vectors, ½ for orthogonal ones and 1 for an item
      with itself.

    So an item raises log det L_Y by 2 α · score + log d², where d² = det S_{Y ∪ i} / det S_Y is what the taken items
    leave open of it. Its value is (1 − θ) times this: θ · score + (1 − θ) · log d². The Cholesky factor of S_Y grows
    by a row with each item (their algorithm 1), which costs O(K² W) a user for lists of K of W items, and O(K W d)
    for the cosines. Log-determinants are submodular, so the values never rise down a list.

    A list ends early if the taken items determine all that are left (det = 0): of two items with the same vector, one
    is never taken.

    Args:
        items: int64 [U, W], places in trie order, best first; −1 after the end of a list.
        scores: float [U, W].
        vectors: float [items, d], in trie order; a zero vector has cosine 0 to all others.
        trade_off: θ from 0 (only diversity, after the best item) to 1 (the order of the lists stays).
        k: length of the new lists; they have at most W items.

    Returns:
        TopK [U, min(k, W)]; `scores` holds each item's value when it was taken.

    Raises:
        UserError: as `mmr` does.
    """
    return _reorder(items, scores, vectors, trade_off, k, _greedy_dpp)


def _reorder(
    items: Ints,
    scores: npt.NDArray[np.floating],
    vectors: Floats,
    trade_off: float,
    k: int,
    greedy: _Greedy,
) -> TopK:
    """Reorder lists block by block."""
    _check(items, scores, vectors, trade_off, k)
    k = min(k, items.shape[1])
    top = TopK(np.full((len(items), k), -1, np.int64), np.full((len(items), k), -np.inf, np.float32))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    block = max(1, BLOCK // max(1, items.shape[1] * (vectors.shape[1] + k)))
    for begin in range(0, len(items), block):
        rows = slice(begin, begin + block)
        unit = vectors[items[rows]] / np.maximum(norms[items[rows]], np.finfo(np.float32).tiny)
        order, values = greedy(scores[rows], items[rows] >= 0, unit.astype(np.float32), trade_off, k)
        top.items[rows] = np.where(np.isfinite(values), np.take_along_axis(items[rows], order, axis=1), -1)
        top.scores[rows] = values
    return top


def _relevance(scores: npt.NDArray[np.floating], filled: npt.NDArray[np.bool_]) -> Doubles:
    """Normalise scores to 0 … 1 within each row; −inf after the end of a list."""
    exact = scores.astype(np.float64)
    best = np.where(filled, exact, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    worst = np.where(filled, exact, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(best > worst, best - worst, 1.0)
    return np.where(filled, (exact - worst) / spread, -np.inf)


def _greedy_mmr(
    scores: npt.NDArray[np.floating], filled: npt.NDArray[np.bool_], unit: Floats, trade_off: float, k: int
) -> tuple[Ints, Floats]:
    """Take the slot with the largest value k times; the earlier slot wins a tie.

    Args:
        scores: float [U, W].
        filled: bool [U, W], whether a slot holds an item.
        unit: float32 [U, W, d], vectors of length 1 or 0.
        trade_off: λ.
        k: number of slots to take.

    Returns:
        Slots in the order in which they were taken, int64 [U, k], and their values, float32 [U, k]; −inf if no slot
        is left.
    """
    relevance = _relevance(scores, filled)
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
        redundancy = np.maximum(redundancy, _cosines(unit, taken))
    return order, values


def _greedy_dpp(
    scores: npt.NDArray[np.floating], filled: npt.NDArray[np.bool_], unit: Floats, trade_off: float, k: int
) -> tuple[Ints, Floats]:
    """Take the slot that raises the determinant most k times; arguments and returns are those of `_greedy_mmr`."""
    # In float64, so that what is determined by others is told from what is nearly so.
    exact = unit.astype(np.float64)
    exact /= np.maximum(np.linalg.norm(exact, axis=2, keepdims=True), np.finfo(np.float32).tiny)
    users = np.arange(len(scores))
    order = np.empty((len(scores), k), np.int64)
    values = np.empty((len(scores), k), np.float32)
    quality = trade_off * np.where(filled, scores, 0).astype(np.float64)
    open_share = np.ones(scores.shape)  # d²
    factors = np.zeros((*scores.shape, k))  # rows of the Cholesky factor of S, as far as slots are taken
    is_left = filled.copy()
    for step in range(k):
        logs = np.log(open_share, out=np.zeros(scores.shape), where=open_share > 0)
        value = np.where(is_left, quality + (1 - trade_off) * logs, -np.inf)
        taken = value.argmax(axis=1)
        order[:, step], values[:, step] = taken, value[users, taken]
        is_left[users, taken] = False
        if trade_off == 1:  # α is infinite: relevance alone counts
            continue
        similarity = (1 + _cosines(exact, taken)) / 2
        known = np.einsum("uwt,ut->uw", factors[:, :, :step], factors[users, taken, :step])
        pivot = np.sqrt(np.maximum(open_share[users, taken], SINGULAR))
        factors[:, :, step] = (similarity - known) / pivot[:, None]
        open_share = open_share - factors[:, :, step] ** 2
        is_left &= open_share > SINGULAR
    return order, values


def _cosines(unit: npt.NDArray[np.floating], taken: Ints) -> npt.NDArray[np.floating]:
    """Cosine of every slot of a row to the slot that was taken, float [U, W]."""
    return np.clip(np.einsum("uwd,ud->uw", unit, unit[np.arange(len(unit)), taken]), -1, 1)


def _check(
    items: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    vectors: Floats,
    trade_off: float,
    k: int,
) -> None:
    if not 0 <= trade_off <= 1:
        raise UserError(f"the trade-off is {trade_off}: give a number from 0 (diverse) to 1 (as it is)")
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
