"""Bootstrap intervals over users, single and paired.

Users are the sampling unit: one resample of n users draws n of them with replacement and averages their values.
Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval); Sakai, Evaluating
evaluation metrics based on the bootstrap, SIGIR 2006 (its use for paired differences).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CHUNK_CELLS = 1 << 23


@dataclass(frozen=True)
class Bootstrap:
    """How intervals over users are drawn.

    Attributes:
        resamples: number of resamples.
        seed: seed of the draws.
        confidence: confidence level of the intervals.
    """

    resamples: int
    seed: int
    confidence: float


def bootstrap_means(values: ArrayLike, resamples: int, seed: int) -> NDArray[np.float64]:
    """Means over resampled users.

    All columns share each resample. The difference of two columns of the result is therefore the paired
    bootstrap distribution of the difference of their means.

    Args:
        values: `float [users, columns]`; NaN leaves a user out of the column's mean.
        resamples: number of resamples.
        seed: seed of the draws; the same seed and number of users give the same draws.

    Returns:
        `float64 [resamples, columns]`; NaN for a resample without a value.

    Raises:
        ValueError: there are no users.
    """
    matrix = np.asarray(values, dtype=np.float64)
    is_known = ~np.isnan(matrix)
    if not is_known.all():
        both = bootstrap_means(np.hstack([np.where(is_known, matrix, 0.0), is_known]), resamples, seed)
        sums, shares = np.split(both, 2, axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / shares, np.float64)
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
    """Count how often each resample draws each user, for figures that are not means.

    Args:
        users: number of users; a resample draws as many.
        resamples: number of resamples.
        seed: seed of the draws, which equal those of `bootstrap_means`.

    Yields:
        int64 `[users]` for each resample.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(users, size=users), minlength=users)


def bootstrap_seeds(values: ArrayLike, resamples: int, seed: int, stream: int = 0) -> NDArray[np.float64]:
    """Means over resampled users and resampled seeds (training runs), each drawn with replacement.

    With one seed the result equals `bootstrap_means`. With few seeds, intervals are somewhat too narrow: the variance
    between n seeds counts (n − 1) / n.

    Args:
        values: `float [users, seeds, columns]`.
        resamples: number of resamples.
        seed: seed of the draws; users are drawn as in `bootstrap_means`.
        stream: another number draws other seeds, for a second, independent set of runs on the same users.

    Returns:
        `float64 [resamples, columns]`.

    Raises:
        ValueError: there are no users.
    """
    cube = np.asarray(values, dtype=np.float64)
    users, seeds, columns = cube.shape
    means = bootstrap_means(cube.reshape(users, seeds * columns), resamples, seed)
    draws = np.random.default_rng([seed, stream, seeds]).integers(seeds, size=(resamples, seeds, 1))
    sampled = np.take_along_axis(means.reshape(resamples, seeds, columns), draws, axis=1)
    return np.asarray(sampled.mean(axis=1), np.float64)


def percentile_interval(means: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """Percentile interval of each column (Efron & Tibshirani 1993, equation 13.5).

    Args:
        means: `float64 [resamples, columns]`, from `bootstrap_means`.
        confidence: confidence level, such as 0.95.

    Returns:
        `float64 [columns, 2]`: lower and upper end; NaN for a column without a value.
    """
    tail = (1 - confidence) / 2
    if not np.isnan(means).any():
        return np.asarray(np.quantile(means, [tail, 1 - tail], axis=0).T, np.float64)
    known = [column[~np.isnan(column)] for column in means.T]
    return np.array([np.quantile(c, [tail, 1 - tail]) if len(c) else [np.nan] * 2 for c in known], np.float64)


def p_values(differences: ArrayLike, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p-values of differences by their bootstrap standard errors: 2 Φ(−|difference| / standard error).

    This is the test that belongs to the standard normal interval (Efron & Tibshirani 1993, chapter 13). Counting
    resamples on the other side of 0 could give no value below 1 / resamples, which is too large where many are judged
    together.

    Args:
        differences: `[columns]`, observed mean differences.
        samples: `float64 [resamples, columns]`, the differences of the resamples.

    Returns:
        float64 `[columns]`; 1 for a difference of 0, and 0 for another one that is the same in all resamples.
    """
    from scipy.special import ndtr  # Φ; scipy.stats has it too, and takes a second to import

    sizes, errors = np.abs(np.asarray(differences, np.float64)), samples.std(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(sizes == 0, 0.0, sizes / errors)
    return np.asarray(2 * ndtr(-scores), np.float64)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values that are judged together, so that a false finding among them is as improbable as for one.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.

    Args:
        values: p-values of m comparisons.

    Returns:
        In the same order: the j-th smallest times m − j + 1, but not less than those before it, and at most 1.
    """
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def format_figure(value: float, places: int = 4, signed: bool = False) -> str:
    """Return a figure as text, a difference with its sign: `0.0520`, `+0.0100`, `−0.0044`."""
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", "−")


def format_interval(ends: Sequence[float], places: int = 4, signed: bool = False) -> str:
    """Return an interval as text: `[0.0496, 0.0544]`; that of a difference `[−0.0064, −0.0026]`."""
    low, high = (format_figure(end, places, signed) for end in ends)
    return f"[{low}, {high}]"


def format_estimate(value: float, ends: Sequence[float], places: int = 4, signed: bool = False) -> str:
    """Return a figure with its interval as text: `0.0520 [0.0496, 0.0544]`."""
    return f"{format_figure(value, places, signed)} {format_interval(ends, places, signed)}"
