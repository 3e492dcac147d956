"""Ranking and catalogue metrics and their statistics against closed forms and plain loops."""

import math

import ir_measures
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.metrics.catalogue import coverage, gini
from llmrec.metrics.lists import exposure
from llmrec.metrics.ranking import MEASURES, metric_names, score_ranks, target_ranks
from llmrec.metrics.statistics import (
    bootstrap_means,
    bootstrap_seeds,
    format_estimate,
    format_interval,
    holm,
    p_values,
    percentile_interval,
)


def lists_of(items_of: dict[str, list[str]]) -> pl.DataFrame:
    rows = [(user, rank, item) for user, items in items_of.items() for rank, item in enumerate(items, 1)]
    return pl.DataFrame(rows, schema=["user_id", "rank", "item_id"], orient="row")


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.lists(st.none() | st.integers(1, 40), min_size=1, max_size=20),
    cutoffs=st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_measures_equal_their_closed_forms(ranks, cutoffs):
    scored = score_ranks(pl.DataFrame({"rank": ranks}, schema={"rank": pl.Int64}), cutoffs)
    for row in scored.iter_rows(named=True):
        for k in cutoffs:
            rank = row["rank"]
            hit = rank is not None and rank <= k
            assert row[f"hr@{k}"] == row[f"recall@{k}"] == float(hit)
            assert row[f"ndcg@{k}"] == pytest.approx(1 / math.log2(rank + 1) if hit else 0.0)
            assert row[f"mrr@{k}"] == pytest.approx(1 / rank if hit else 0.0)


def test_values_equal_ir_measures_on_the_lists_themselves():
    generator = np.random.default_rng(0)
    items = [f"item {i}" for i in range(30)]
    lists = {f"u{u}": list(generator.permutation(items)[: generator.integers(5, 21)]) for u in range(60)}
    targets = {user: str(generator.choice(items)) for user in lists}
    cutoffs = [1, 5, 20]
    frame = pl.DataFrame({"user_id": list(targets), "target": list(targets.values())})
    ours = score_ranks(target_ranks(lists_of(lists), frame, 20), cutoffs)
    run = {user: {item: -float(rank) for rank, item in enumerate(got)} for user, got in lists.items()}
    judged = {user: {item: 1} for user, item in targets.items()}
    for measure in MEASURES:
        for k in cutoffs:
            oracle = ir_measures.calc_aggregate(
                [ir_measures.parse_measure(f"{measure.value.args[0]}@{k}")], judged, run
            )
            assert ours[f"{measure.name}@{k}"].mean() == pytest.approx(next(iter(oracle.values())), abs=1e-9)


def test_ranks_of_repeats_misses_and_users_without_a_list():
    lists = lists_of({"a": ["x", "x", "y"], "b": ["z", "x"]})
    targets = pl.DataFrame({"user_id": ["b", "nobody", "a"], "target": ["x", "x", "y"]})
    assert target_ranks(lists, targets, depth=3)["rank"].to_list() == [2, None, 3]
    assert target_ranks(lists, targets, depth=2)["rank"].to_list() == [2, None, None]


def test_metric_names_are_those_of_the_contract():
    assert {"hr@10", "ndcg@10", "mrr@10", "recall@10"} <= set(metric_names([1, 10]))


def test_coverage_and_gini_of_known_exposures():
    catalogue = pl.Series(["x", "y", "z", "w"])
    shown = exposure(lists_of({"a": ["x", "y"], "b": ["x", "unknown"], "c": ["x", "z"]}), 1, catalogue)
    assert shown.tolist() == [3, 0, 0, 0]
    assert (coverage(shown), gini(shown)) == (0.25, 1.0)
    even = np.array([5, 5, 5, 5])
    assert (coverage(even), gini(even)) == (1.0, 0.0)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any))
def test_gini_equals_the_mean_absolute_difference(counts):
    pairs = sum(abs(a - b) for a in counts for b in counts)
    expected = pairs / (2 * sum(counts) * (len(counts) - 1))
    assert gini(np.array(counts)) == pytest.approx(expected)


def test_bootstrap_interval_of_a_mean_is_close_to_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(2000, 1))
    low, high = percentile_interval(bootstrap_means(values, 2000, seed=0), 0.95)[0]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_bootstrap_is_the_same_for_every_chunk_size(monkeypatch):
    values = np.random.default_rng(2).random((50, 3))
    whole = bootstrap_means(values, 40, seed=3)
    monkeypatch.setattr("llmrec.metrics.statistics._CHUNK_CELLS", 7 * 50)
    np.testing.assert_allclose(bootstrap_means(values, 40, seed=3), whole, rtol=1e-12)
    assert not np.array_equal(bootstrap_means(values, 40, seed=4), whole)


def test_paired_intervals_show_differences_that_single_intervals_hide():
    generator = np.random.default_rng(5)
    base = generator.normal(0, 1, size=(300, 1))
    better = base + 0.05
    interval = percentile_interval(bootstrap_means(better, 500, 0) - bootstrap_means(base, 500, 0), 0.95)
    assert interval[0] == pytest.approx([0.05, 0.05])
    singles = percentile_interval(bootstrap_means(np.hstack([better, base]), 500, 0), 0.95)
    assert singles[0, 0] < singles[1, 1]


def test_bootstrap_without_users_is_refused():
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_means(np.empty((0, 2)), 10, 0)


def test_seeds_are_resampled_beside_users():
    users = np.random.default_rng(6).normal(0, 1, size=(400, 1))
    means = bootstrap_seeds(users[:, None], 500, 0)
    np.testing.assert_allclose(means, bootstrap_means(users, 500, 0))
    shifts = np.array([-0.3, 0.0, 0.3])
    many = bootstrap_seeds(users[:, None] + shifts[None, :, None], 4000, 0)
    assert many.mean() == pytest.approx(users.mean(), abs=0.02)
    # Var = Var(users) / n + Var(seeds) / 3: the two draws are independent.
    assert many.var() == pytest.approx(users.var() / 400 + shifts.var() / 3, rel=0.15)
    other = bootstrap_seeds(users[:, None] + shifts[None, :, None], 4000, 0, stream=1)
    assert (many - other).var() == pytest.approx(
        2 * shifts.var() / 3, rel=0.15
    )  # the same users, other seeds


def test_holm_by_hand():
    """Four p-values: .005 · 4, .01 · 3, .03 · 2, then .04 · 1, which may not be less than the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_keeps_the_order_and_lies_between_the_values_and_bonferroni(values):
    adjusted = holm(values)
    for one, own in zip(values, adjusted, strict=True):
        assert one <= own <= min(1, len(values) * one) or own == pytest.approx(one)
        assert all(own <= other for value, other in zip(values, adjusted, strict=True) if one <= value)


def test_p_values_follow_from_the_bootstraps_standard_error():
    """A difference of 1.96 standard errors is the 5 % level; one of 0 is no evidence at all."""
    samples = np.random.default_rng(7).normal(0.5, 0.1, size=(20000, 1))
    assert p_values([0.196], samples) == pytest.approx([0.05], abs=0.003)
    assert p_values([-0.196], samples) == pytest.approx([0.05], abs=0.003)
    assert p_values([0.0, 0.2], np.zeros((10, 2))).tolist() == [1.0, 0.0]


def test_figures_and_differences_are_written_with_their_intervals():
    assert format_estimate(0.05204, (0.0496, 0.05444)) == "0.0520 [0.0496, 0.0544]"
    assert format_estimate(-0.00441, (-0.0064, 0.0026), signed=True) == "−0.0044 [−0.0064, +0.0026]"
    assert format_estimate(1.5, (-2, 4), places=2, signed=True) == "+1.50 [−2.00, +4.00]"
    assert format_interval((-0.5, 0)) == "[−0.5000, 0.0000]"
