"""User-group fairness: how far apart groups of users are in a metric, and whether chance would do as much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.metrics.statistics import Bootstrap, bootstrap_counts, percentile_interval

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupGap:
    """The gap of a metric between groups of users.

    Attributes:
        lowest: number of the group with the lowest mean.
        highest: number of the group with the highest mean.
        gap: difference of the two means.
        interval: ends of its bootstrap interval, over the users of all groups.
        p: probability of a gap at least as large if the groups were drawn at random.
    """

    lowest: int
    highest: int
    gap: float
    interval: tuple[float, float]
    p: float


def group_gaps(values: Floats, groups: npt.NDArray[np.integer], draws: Bootstrap) -> list[GroupGap]:
    """Compare the groups of users by each of some metrics.

    The gap is that of user-oriented fairness (Li et al., User-oriented fairness in recommendation, WWW 2021; Ekstrand
    et al., All the cool kids, how do they fit in?, FAT* 2018). Which groups are the lowest and the highest is chosen
    after seeing the means, so the gap of several groups is never 0 and its interval need not contain 0 by chance
    alone. The p-value accounts for the choice: it is that of a permutation test of the gap (Good, Permutation,
    parametric and bootstrap tests of hypotheses, 2005, chapter 3), which shuffles the users among the groups.

    Args:
        values: `[users, metrics]`.
        groups: `[users]`, numbers from 0 of the users' groups; at least two groups have users.
        draws: of the intervals; there are as many permutations, from the same seed.

    Returns:
        One gap for each column of `values`.

    Raises:
        ValueError: fewer than two groups have users.
    """
    members = np.eye(int(groups.max()) + 1)[groups]
    sizes = members.sum(axis=0)
    if np.count_nonzero(sizes) < 2:
        raise ValueError("a gap needs two groups with users")
    members, names = members[:, sizes > 0], np.flatnonzero(sizes)
    means = _group_means(members, values)
    lowest, highest = means.argmin(axis=0), means.argmax(axis=0)
    columns = np.arange(values.shape[1])
    gaps = means[highest, columns] - means[lowest, columns]
    samples = np.full((draws.resamples, len(columns)), np.nan)
    for row, counts in enumerate(bootstrap_counts(len(values), draws.resamples, draws.seed)):
        drawn = members * counts[:, None]
        if drawn.any(axis=0).all():
            resampled = _group_means(drawn, values)
            samples[row] = resampled[highest, columns] - resampled[lowest, columns]
    ends = percentile_interval(samples[~np.isnan(samples[:, 0])], draws.confidence)
    generator = np.random.default_rng(draws.seed)
    at_least = np.zeros(len(columns), np.int64)
    for _ in range(draws.resamples):
        at_least += np.ptp(_group_means(members[generator.permutation(len(values))], values), axis=0) >= gaps
    return [
        GroupGap(
            int(names[lowest[column]]),
            int(names[highest[column]]),
            float(gaps[column]),
            (float(ends[column, 0]), float(ends[column, 1])),
            float((1 + at_least[column]) / (1 + draws.resamples)),
        )
        for column in columns
    ]


def _group_means(members: Floats, values: Floats) -> Floats:
    """Means of each group, float64 `[groups, metrics]`; `members` `[users, groups]` holds the users' weights."""
    means: Floats = (members.T @ values) / members.sum(axis=0)[:, None]
    return means
