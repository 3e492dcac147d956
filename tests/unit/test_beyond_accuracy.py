"""Metrics of lists and of groups of users against values worked out by hand."""

import math

import numpy as np
import polars as pl
import pytest

from llmrec.metrics.calibration import CALIBRATION, miscalibration
from llmrec.metrics.catalogue import COVERAGE_HEAD, COVERAGE_MIDDLE, COVERAGE_TAIL, popularity_groups
from llmrec.metrics.diversity import DIVERSITY, TEXT_DIVERSITY, intra_list_distance
from llmrec.metrics.fairness import group_gaps
from llmrec.metrics.lists import ItemData, RecommendedLists
from llmrec.metrics.novelty import AVERAGE_POPULARITY, NOVELTY, POPULARITY_LIFT
from llmrec.metrics.ranking import F1, MAP, PRECISION
from llmrec.metrics.statistics import Bootstrap, bootstrap_means, percentile_interval
from llmrec.metrics.unexpectedness import SERENDIPITY, UNEXPECTEDNESS

CATALOGUE = pl.Series(["a", "b", "c", "d", "e"])
# Four training users: a is chosen by all of them, b by two, c and d by one each, e by none.
TRAINING = pl.DataFrame({"items": [["a", "b"], ["a", "b"], ["a", "c"], ["a", "d"]]})
CATEGORIES = pl.Series([["comedy"], ["comedy", "war"], ["war"], ["drama"], None], dtype=pl.List(pl.String))


def lists_of(lists, history, target=None, mask_seen=True):
    """The lists of users u0, u1, … over the catalogue above."""
    rows = [(f"u{u}", rank, item) for u, items in enumerate(lists) for rank, item in enumerate(items, 1)]
    frame = pl.DataFrame(
        rows, schema={"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}, orient="row"
    )
    users = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in range(len(history))],
            "history": history,
            "target": target or ["a"] * len(history),
        },
        schema_overrides={"history": pl.List(pl.String)},
    )
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0], [0, 0]], np.float32)
    items = ItemData.of(CATALOGUE, TRAINING, CATEGORIES, vectors)
    return RecommendedLists(frame, users, items, mask_seen)


def test_precision_f1_and_average_precision_of_a_target_at_each_rank():
    """A target at rank 2 of 4: precision 1/4, recall 1, F1 = 2 · 1/4 / (5/4) = 2/5, average precision 1/2."""
    assert PRECISION.at(6, 4).tolist() == [0.25] * 4 + [0, 0]
    assert F1.at(6, 4) == pytest.approx([0.4] * 4 + [0, 0])
    assert MAP.at(6, 4) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 0, 0])


def test_novelty_is_the_information_of_the_listed_items():
    """Of four users 4, 2, 1 and 1 chose a, b, c, d: 0, 1, 2, 2 bits; e counts as chosen by one."""
    lists = lists_of([["a", "b"], ["e", "c", "unknown"], []], [["c"], ["a"], ["a"]])
    assert NOVELTY.of(lists, 2) == pytest.approx([0.5, 2, np.nan], nan_ok=True)
    assert NOVELTY.of(lists, 1) == pytest.approx([0, 2, np.nan], nan_ok=True)
    assert AVERAGE_POPULARITY.of(lists, 3) == pytest.approx([3, 0.5, np.nan], nan_ok=True)


def test_popularity_lift_compares_lists_with_histories():
    """Lists: (4 + 2) / 2 and 1, mean 2. Histories: 1 and (4 + 2 + 0) / 3 = 2, mean 1.5. Lift 2 / 1.5 − 1 = 1/3."""
    lists = lists_of([["a", "b"], ["d"]], [["c"], ["a", "b", "e"]])
    assert POPULARITY_LIFT.of(lists, 2) == pytest.approx(1 / 3)
    assert POPULARITY_LIFT.of(lists_of([["a"]], [["e"]]), 1) == 0  # a history without popularity has no ratio
    assert POPULARITY_LIFT.of(lists_of([[]], [["a"]]), 1) == 0


def test_diversity_is_the_mean_distance_of_the_pairs():
    """Categories of a, b, c: cosines a·b = 1/√2, a·c = 0, b·c = 1/√2, so 1 − √2 / 3."""
    lists = lists_of([["a", "b", "c"], ["a", "e", "d"], ["a"], ["e", "unknown"]], [["d"]] * 4)
    assert DIVERSITY.of(lists, 3) == pytest.approx([1 - math.sqrt(2) / 3, 1, np.nan, np.nan], nan_ok=True)
    assert np.isnan(DIVERSITY.of(lists, 1)).all()  # one item has no pair
    # Texts: a·b = 0, a·c = .6, b·c = .8; a·d = −1; e has no text.
    assert TEXT_DIVERSITY.of(lists, 3) == pytest.approx([1 - 1.4 / 3, 2, np.nan, np.nan], nan_ok=True)


def test_diversity_of_many_users_is_that_of_each_alone(monkeypatch):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(9, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    positions = np.array([generator.permutation(9)[:5] for _ in range(7)])
    expected = []
    for row in positions:
        cosines = vectors[row] @ vectors[row].T
        expected.append(1 - cosines[np.triu_indices(5, 1)].mean())
    monkeypatch.setattr("llmrec.metrics.diversity._BLOCK_CELLS", 3 * 5 * 4)
    assert intra_list_distance(vectors, positions) == pytest.approx(expected)


def test_unexpectedness_is_the_distance_to_the_history():
    """Columns: a = 1111, b = 1100, c = 0010, e = 0000: cos(a, b) = 1/√2, cos(a, c) = 1/2, cos(b, c) = 0."""
    lists = lists_of([["a"], ["b", "e"], ["a"], []], [["b", "c"], ["a"], ["nowhere"], ["a"]])
    expected = [1 - (1 / math.sqrt(2) + 1 / 2) / 2, 1 - 1 / (2 * math.sqrt(2)), np.nan, np.nan]
    assert UNEXPECTEDNESS.of(lists, 2) == pytest.approx(expected, nan_ok=True)


def test_serendipity_is_a_hit_that_popularity_would_have_missed():
    """Popularity ranks a, b, c, d, e. Of a user who has seen a, the first two are b and c."""
    targets = ["b", "c", "d", "e", "nowhere"]
    lists = lists_of([["b"], ["c"], ["d"], ["a"], ["nowhere"]], [["c"], ["a"], ["a"], ["a"], ["a"]], targets)
    assert SERENDIPITY.of(lists, 2).tolist() == [0, 0, 1, 0, 0]
    assert SERENDIPITY.of(lists, 1).tolist() == [1, 1, 1, 0, 0]
    seen_compete = lists_of([["c"]], [["a"]], ["c"], mask_seen=False)
    assert SERENDIPITY.of(seen_compete, 2).tolist() == [1]


def test_calibration_of_distributions_by_hand():
    """Steck: history 70:30, list 100:0; KL = .7 ln(.7 / (.99 + .007)) + .3 ln(.3 / .003)."""
    values = miscalibration(
        np.array([[0.7, 0.3], [0.5, 0.5], [0, 0]]), np.array([[1, 0], [0.5, 0.5], [1, 0]])
    )
    expected = 0.7 * math.log(0.7 / 0.997) + 0.3 * math.log(100)
    assert values == pytest.approx([expected, 0, np.nan], nan_ok=True)


def test_calibration_of_lists_spreads_an_item_over_its_categories():
    """History a, b: comedy 3/4, war 1/4. The list c, d: war 1/2, drama 1/2. Items without categories do not count."""
    lists = lists_of([["c", "d"], ["e", "b", "a"], ["e"]], [["a", "b"], ["a", "b", "e"], ["a"]])
    expected = 0.75 * math.log(0.75 / 0.0075) + 0.25 * math.log(0.25 / (0.99 * 0.5 + 0.01 * 0.25))
    assert CALIBRATION.of(lists, 3) == pytest.approx([expected, 0, np.nan], nan_ok=True)


def test_head_and_tail_have_a_fifth_of_the_interactions_each():
    """50 interactions: 10 of the first item are a fifth, 4 + 3 + 2 + 0 of the last four are less than a fifth."""
    counts = [8, 10, 8, 8, 4, 7, 3, 2, 0]
    groups = {name: np.flatnonzero(members).tolist() for name, members in popularity_groups(counts).items()}
    assert groups == {"head": [1], "middle": [0, 2, 3, 5], "tail": [4, 6, 7, 8]}
    assert popularity_groups([9, 1])["head"].tolist() == [True, False]  # the head has one item at least


def test_coverage_of_the_groups():
    """Of 8 interactions a has 4: the head. d and e have 1 and 0, less than a fifth: the tail. Between: b and c."""
    lists = lists_of([["a", "e"], ["b", "d"]], [["c"], ["c"]])
    groups = (COVERAGE_HEAD, COVERAGE_MIDDLE, COVERAGE_TAIL)
    assert [metric.of(lists, 2) for metric in groups] == [1, 1 / 2, 1]
    assert [metric.of(lists, 1) for metric in groups] == [1, 1 / 2, 0]


def test_gap_of_two_groups_by_hand():
    """Means 3/4 and 1/4 of four users each: a gap of 1/2; the bootstrap and chance are known closely enough."""
    values = np.array([1, 1, 1, 0, 0, 0, 0, 1.0])[:, None]
    (gap,) = group_gaps(values, np.array([1] * 4 + [0] * 4), Bootstrap(4000, 0, 0.95))
    assert (gap.lowest, gap.highest, gap.gap) == (0, 1, 0.5)
    assert gap.interval[0] < 0 < 0.5 < gap.interval[1] <= 1
    # Of the 70 ways to choose 4 of 8 users, 1 + 16 + 16 + 1 = 34 divide the four hits 4:0, 3:1, 1:3 or 0:4.
    assert gap.p == pytest.approx(34 / 70, abs=0.03)


def test_gaps_of_large_and_of_random_groups():
    generator = np.random.default_rng(1)
    groups = generator.integers(0, 3, 600) * 2  # numbers 0, 2, 4: groups without users are left out
    noise = generator.normal(size=600)
    values = np.stack([noise, noise + (groups == 4)], axis=1)
    by_chance, real = group_gaps(values, groups, Bootstrap(500, 0, 0.95))
    assert by_chance.p > 0.05 > real.p and real.highest == 4
    assert real.interval[0] > 0 and real.interval[0] < real.gap < real.interval[1]
    with pytest.raises(ValueError, match="two groups"):
        group_gaps(values, np.zeros(600, int), Bootstrap(10, 0, 0.95))


def test_users_without_a_value_are_left_out_of_means_and_intervals():
    values = np.random.default_rng(2).normal(5, 1, size=(200, 1))
    holes = np.vstack([values, np.full((100, 1), np.nan)])
    means = bootstrap_means(holes, 400, 0)
    low, high = percentile_interval(means, 0.95)[0]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(200), rel=0.2)
    nobody = percentile_interval(bootstrap_means(np.full((3, 1), np.nan), 5, 0), 0.95)
    assert np.isnan(nobody).all()
