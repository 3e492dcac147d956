"""Bootstrap intervals over users, single and paired.

Users are the sampling unit: one resample draws as many users as there are, with replacement, and averages
their values. Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval);
Sakai, Evaluating evaluation metrics based on the bootstrap, SIGIR 2006 (its use for paired differences).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CHUNK_CELLS = 1 << 23


def bootstrap_means(values: ArrayLike, resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of resampled users.

    All columns share each resample, so that the difference of two columns of the result is the paired
    bootstrap distribution of the difference of their means.

    Args:
        values: `float [users, columns]`.
        resamples: how many times the users are drawn anew.
        seed: of the draws; the same seed and number of users give the same draws.

    Returns:
        `float64 [resamples, columns]`.

    Raises:
        ValueError: no users.
    """
    matrix = np.asarray(values, dtype=np.float64)
    users = len(matrix)
    if users == 0:
        raise ValueError("a bootstrap needs at least one user")
    draws = bootstrap_counts(users, resamples, seed)
    means = np.empty((resamples, matrix.shape[1]))
    rows = max(1, _CHUNK_CELLS // users)
    for start in range(0, resamples, rows):
        chunk = range(start, min(start + rows, resamples))
        weights = np.empty((len(chunk), users))
        for row in range(len(chunk)):
            weights[row] = next(draws)
        means[chunk.start : chunk.stop] = weights @ matrix / users
    return means


def bootstrap_counts(users: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each resample draws each user, for figures that are no means: int64 `[users]` a resample.

    Args:
        users: how many there are; as many are drawn.
        resamples: how many times.
        seed: of the draws, which are those of `bootstrap_means`.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(users, size=users), minlength=users)


def percentile_interval(means: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """Percentile interval of each column (Efron & Tibshirani 1993, equation 13.5).

    Args:
        means: `float64 [resamples, columns]`, from `bootstrap_means`.
        confidence: such as 0.95.

    Returns:
        `float64 [columns, 2]`: lower and upper end.
    """
    tail = (1 - confidence) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def paired_difference(
    first: ArrayLike, second: ArrayLike, resamples: int, seed: int, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of first − second over the same users, with its paired bootstrap interval.

    Args:
        first: `float [users, columns]`.
        second: `float [users, columns]`, row by row the same users.
        resamples: how many times the users are drawn anew.
        seed: of the draws.
        confidence: such as 0.95.

    Returns:
        `float64 [columns]` differences and `float64 [columns, 2]` intervals.

    Raises:
        ValueError: no users, or shapes that differ.
    """
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"paired values need one shape, not {left.shape} and {right.shape}")
    difference = left - right
    means = bootstrap_means(difference, resamples, seed)
    return difference.mean(axis=0), percentile_interval(means, confidence)
