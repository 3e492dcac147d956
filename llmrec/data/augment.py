"""Histories as an epoch trains them: shuffled in small blocks, cut in two, or without some of their items.

The means are those of CL4SRec (Xie et al., Contrastive Learning for Sequential Recommendation, ICDE 2022): crop, mask
and reorder, here of the training data itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def draw_pieces(
    counts: Sequence[int],
    draw: np.random.Generator,
    *,
    crop: float = 0.0,
    shuffle: float = 0.0,
    shuffle_window: int = 3,
    leave_out: float = 0.0,
) -> Iterator[tuple[int, Ints]]:
    """Draw what an epoch trains of each history.

    Args:
        counts: number of items of each history.
        draw: the epoch's generator.
        crop: probability that a history is cut in two at a random place; the last item of the first piece is the
            first of the second.
        shuffle: probability that a history is shuffled within blocks of `shuffle_window` items.
        shuffle_window: length of these blocks; the first begins at a random place of one.
        leave_out: probability of each item to be left out. A history keeps at least two items, if it has them.

    Yields:
        Which history, and the places of the items that a piece of it has, int64 [n], in their order.
    """
    is_shuffled = draw.random(len(counts)) < shuffle
    is_cropped = draw.random(len(counts)) < crop
    cuts = draw.random(len(counts))
    for history, count in enumerate(counts):
        places = np.arange(count)
        if is_shuffled[history]:
            block = (places + draw.integers(shuffle_window)) // shuffle_window
            places = places[np.lexsort((draw.random(count), block))]
        if leave_out:
            places = _without_some(places, leave_out, draw)
        if is_cropped[history] and len(places) > 2:
            cut = 1 + int(cuts[history] * (len(places) - 2))
            yield history, places[: cut + 1]
            yield history, places[cut:]
        else:
            yield history, places


def _without_some(places: Ints, leave_out: float, draw: np.random.Generator) -> Ints:
    luck = draw.random(len(places))
    kept = luck >= leave_out
    if kept.sum() < 2:
        kept[np.argsort(luck)[-2:]] = True
    return places[kept]
