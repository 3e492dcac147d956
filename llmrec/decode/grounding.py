"""Grounding of generated titles: the items whose titles are nearest to the generated text.

Bao et al., A bi-step grounding paradigm for large language models in recommendation systems (BIGRec), 2023. Items are
ranked by the distance of embeddings, corrected by popularity or by a collaborative model's scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from llmrec.collaborative.blocks import user_blocks
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError

_DISTANCE_BYTES = 4 * 4 + 8
"""Bytes that a distance takes: itself and its weight in float32, one more array of each, and its sorting key."""
Floats = npt.NDArray[np.floating]


def ground(
    generated_vectors: Floats,
    item_vectors: Floats,
    k: int,
    weights: Floats | None = None,
    gamma: float = 0.0,
    denied: Sequence[Sequence[int]] | None = None,
) -> TopK:
    """Nearest items of generated texts.

    With D the Euclidean distances of a user's text to all items and C the weights, both min-max normalised
    over the items, an item's distance is D · (1 + C)^−γ.

    Args:
        generated_vectors: float [U, d], embeddings of what the model generated.
        item_vectors: float [items, d], embeddings of the titles, in trie order, by the same encoder.
        k: length of the lists; a list has at most `items` entries.
        weights: float [items] (popularity) or [U, items] (collaborative scores), larger for more likely items; None
            ranks by D alone.
        gamma: γ ≥ 0, strength of the weights; the paper chooses it on validation data.
        denied: for each user, items (trie order) that must not be returned.

    Returns:
        TopK [U, min(k, items)], nearest first, equal distances in trie order; `scores` are the negated distances.

    Raises:
        UserError: inconsistent shapes, no items, values that are not finite, k below 1 or γ below 0.
    """
    _check(generated_vectors, item_vectors, k, weights, gamma)
    users, items = len(generated_vectors), len(item_vectors)
    k = min(k, items)
    top_k = TopK(np.full((users, k), -1, np.int64), np.full((users, k), -np.inf, np.float32))
    generated, catalogue = _tensor(generated_vectors), _tensor(item_vectors)
    for rows in user_blocks(users, items, _DISTANCE_BYTES):
        # Dot products would lose the small distances that decide the ranking, so differences are used.
        distance = torch.cdist(generated[rows], catalogue, compute_mode="donot_use_mm_for_euclid_dist")
        distance = _normalised(distance)
        if weights is not None:
            weight = _tensor(weights if weights.ndim == 1 else weights[rows])
            distance *= (1 + _normalised(weight)) ** -gamma
        for row, hidden in enumerate([] if denied is None else denied[rows]):
            distance[row, list(hidden)] = torch.inf
        nearest, values = _nearest(distance, k)
        is_allowed = np.isfinite(values)
        top_k.items[rows] = np.where(is_allowed, nearest, -1)
        top_k.scores[rows] = 0 - values  # not −0.0
    return top_k


def _nearest(distance: torch.Tensor, k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Columns and values of the k smallest distances of each row, [U, k].

    The bits of non-negative floats, read as integers, have the same order as the floats. So distance and column form
    one integer key, and equal distances come in the order of columns on every machine.
    """
    column = torch.arange(distance.shape[1])
    key = (distance.view(torch.int32).long() << 32) + column
    best = key.topk(k, largest=False).values
    values = (best >> 32).int().view(torch.float32)
    return (best & 0xFFFFFFFF).numpy(), values.numpy()


def _normalised(values: torch.Tensor) -> torch.Tensor:
    """Min-max normalised values along the last dimension; 0 if all values are equal."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1)


def _tensor(values: Floats) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _check(generated: Floats, items: Floats, k: int, weights: Floats | None, gamma: float) -> None:
    if items.ndim != 2 or generated.ndim != 2 or items.shape[1] != generated.shape[1]:
        raise UserError(
            f"generated vectors {generated.shape} and item vectors {items.shape} do not fit: "
            "encode both with the same encoder"
        )
    if len(items) == 0:
        raise UserError("the catalogue is empty, so there is no item for a title")
    if weights is not None and weights.shape not in {(len(items),), (len(generated), len(items))}:
        raise UserError(
            f"weights have shape {weights.shape}: give one an item, ({len(items)},), "
            f"or one a user and item, ({len(generated)}, {len(items)})"
        )
    if not all(np.isfinite(v).all() for v in (generated, items, weights) if v is not None):
        raise UserError("a vector or a weight is not a finite number")
    if k < 1:
        raise UserError(f"k is {k}: ask for at least one item")
    if not 0 <= gamma < np.inf:
        raise UserError(f"gamma is {gamma}: give a finite number, 0 or above")
