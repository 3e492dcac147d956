"""How popular the recommended items are: self-information, average popularity, and its lift over the histories."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.metrics.lists import RecommendedLists, Values
from llmrec.metrics.metric import ListMetric, UserMetric


def self_information(users_of_item: npt.ArrayLike, users: int) -> Values:
    """Self-information of each item in bits: −log2(share of the training users who chose it).

    Source: Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS 2010.

    Args:
        users_of_item: `[items]`, the number of training users who chose each item; an item that nobody chose counts
            as chosen by one.
        users: number of training users.
    """
    counts = np.maximum(np.asarray(users_of_item, np.float64), 1.0)
    bits: Values = np.log2(users / counts)
    return bits


def _novelty(lists: RecommendedLists, k: int) -> Values:
    choices = lists.items.choices
    return lists.mean_of_items(self_information(choices.sum(axis=0), choices.shape[0]), k)


def _average_popularity(lists: RecommendedLists, k: int) -> Values:
    return lists.mean_of_items(lists.popularity.astype(np.float64), k)


def popularity_lift(lists: RecommendedLists, k: int) -> float:
    """Relative difference of the lists' average popularity to that of the histories; 0 if the latter is 0.

    Source: Abdollahpouri et al., The connection between popularity bias, calibration, and fairness in recommendation,
    RecSys 2020: the average is taken within each user first, then over users.
    """
    sizes = lists.history.sum(axis=1)
    totals = lists.history @ lists.popularity.astype(np.float64)
    has_history = sizes > 0
    shown = lists.mean_of_items(lists.popularity.astype(np.float64), k)
    if not has_history.any() or np.isnan(shown).all():
        return 0.0
    profile = float((totals[has_history] / sizes[has_history]).mean())
    return float(np.nanmean(shown)) / profile - 1 if profile else 0.0


NOVELTY = UserMetric(
    name="novelty",
    title="Novelty",
    formula=(
        "Novelty@k = mean over the first k items of −log2(share of the training users who chose the item); an item "
        "that none of them chose counts as chosen by one"
    ),
    source="Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS 2010",
    value=_novelty,
    reading="bits; higher: less known items",
)
AVERAGE_POPULARITY = UserMetric(
    name="average_popularity",
    title="Average popularity",
    formula="ARP@k = mean training interactions of the first k items",
    source="Yin et al., Challenging the long tail recommendation, VLDB 2012",
    value=_average_popularity,
    reading="training interactions of an item",
)
POPULARITY_LIFT = ListMetric(
    name="popularity_lift",
    title="Popularity lift",
    formula=(
        "PL@k = (mean popularity of the lists − mean popularity of the histories) / mean popularity of the "
        "histories; popularity is an item's training interactions, its mean is taken within users, then over users"
    ),
    source=(
        "Abdollahpouri et al., The connection between popularity bias, calibration, and fairness in "
        "recommendation, RecSys 2020"
    ),
    value=popularity_lift,
    reading="0: as popular as what users chose; 1: twice as popular",
)
