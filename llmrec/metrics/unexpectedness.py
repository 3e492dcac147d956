"""What the lists hold that was not to be expected: items unlike the history, and hits that popularity would miss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.metrics.lists import RecommendedLists, Values
from llmrec.metrics.metric import UserMetric


def _unexpectedness(lists: RecommendedLists, k: int) -> Values:
    return 1 - lists.mean_of_items(lists.similarity_to_history, k)


def popularity_ranks(lists: RecommendedLists) -> npt.NDArray[np.int64]:
    """Position, from 1, of each user's target in a list of the most popular items.

    Items of the history are left out of that list if the lists under evaluation leave them out. An unknown target
    stands behind all items.

    Returns:
        int64 `[users]`.
    """
    order = lists.items.popularity_rank
    places = np.where(lists.target >= 0, order[lists.target], len(order))
    if not lists.mask_seen:
        return places + 1
    users, seen = lists.history.nonzero()
    is_before = order[seen] < places[users]
    before = np.bincount(users[is_before], minlength=len(places))
    ranks: npt.NDArray[np.int64] = places - before + 1
    return ranks


def _serendipity(lists: RecommendedLists, k: int) -> Values:
    is_hit = (lists.positions[:, :k] == lists.target[:, None]).any(axis=1) & (lists.target >= 0)
    return (is_hit & (popularity_ranks(lists) > k)).astype(np.float64)


UNEXPECTEDNESS = UserMetric(
    name="unexpectedness",
    title="Unexpectedness",
    formula=(
        "Unexpectedness@k = mean over the first k items and the items of the history of 1 − cosine of the two items' "
        "sets of training users"
    ),
    source=(
        "Vargas & Castells, Rank and relevance in novelty and diversity metrics for recommender systems, RecSys "
        "2011 (distance to the profile)"
    ),
    value=_unexpectedness,
    reading="0: chosen by the same users as the history; 1: by none of them",
)
SERENDIPITY = UserMetric(
    name="serendipity",
    title="Serendipity",
    formula=(
        "Serendipity@k = 1 if the target is within the first k, and not among the k most popular items (without "
        "those of the history if seen items are masked), else 0"
    ),
    source=(
        "Ge et al., Beyond accuracy: evaluating recommender systems by coverage and serendipity, RecSys 2010 "
        "(useful and not in the list of a primitive method; per target, of which a user has one)"
    ),
    value=_serendipity,
    reading="hit rate without the hits that popularity has too",
)
