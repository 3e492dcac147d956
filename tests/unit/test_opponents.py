"""Recency-weighted neighbours, sequential rules, text neighbours and their mixture, against sums by hand."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llmrec.collaborative.item_knn import ItemKNN
from llmrec.collaborative.mixture import Mixture, MixtureSystem, choose_weights
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.recent_knn import RecentKNN, RecentKnnSystem
from llmrec.collaborative.scored import Validation, choose, recency_weights
from llmrec.collaborative.succession import Succession, SuccessionSystem
from llmrec.collaborative.text_knn import TEMPERATURE, TextKNN, TextKnnSystem, load_vectors, save_vectors
from llmrec.data.examples import with_masked
from llmrec.errors import UserError
from llmrec.metrics.ranking import score_ranks, target_ranks

CATALOGUE = ["a", "b", "c", "d", "e"]
COLUMN = {item: at for at, item in enumerate(CATALOGUE)}
VECTORS = {
    item: np.array(vector, np.float32)
    for item, vector in zip(CATALOGUE, [[2, 0], [2, 1], [0, 2], [0, 1], [-4, -4]], strict=True)
}


def training(histories):
    users = [str(user) for user in range(len(histories))]
    schema = {"user_id": pl.String, "items": pl.List(pl.String)}
    return pl.DataFrame({"user_id": users, "items": histories}, schema=schema)


def examples(pairs, mask_seen=True):
    users = [str(user) for user in range(len(pairs))]
    schema = {"user_id": pl.String, "history": pl.List(pl.String), "target": pl.String}
    rows = {"user_id": users, "history": [h for h, _ in pairs], "target": [t for _, t in pairs]}
    return with_masked(pl.DataFrame(rows, schema=schema), mask_seen)


SEQUENCES = st.lists(st.lists(st.sampled_from(CATALOGUE[:4]), max_size=6), min_size=1, max_size=8)
HISTORY = st.lists(st.sampled_from([*CATALOGUE, "unknown"]), max_size=5)
DECAY = st.sampled_from([0.3, 0.6, 1.0])


def by_steps(history, decay, most=None):
    """Each item's weight: of its last place alone."""
    last = history[-most:] if most else history
    return {item: decay ** (len(last) - 1 - at) for at, item in enumerate(last) if item in CATALOGUE}


def ranked(votes, train, excluded):
    counts = [sum(row.count(item) for row in train) for item in CATALOGUE]
    left = [i for i, item in enumerate(CATALOGUE) if item not in excluded]
    return [CATALOGUE[i] for i in sorted(left, key=lambda i: (-round(votes[i], 9), -counts[i], i))]


def cosines(train):
    matrix = np.array([[float(item in items) for item in CATALOGUE] for items in train])
    norms = np.maximum(np.linalg.norm(matrix, axis=0), 1)
    found = matrix.T @ matrix / np.outer(norms, norms)
    np.fill_diagonal(found, 0)
    return found


def rules(train, window, direction):
    found, counts = np.zeros((5, 5)), np.zeros(5)
    for row in train:
        for at, item in enumerate(row):
            counts[CATALOGUE.index(item)] += 1
            for distance, other in enumerate(row[at + 1 : at + 1 + window], start=1):
                if other != item:
                    found[CATALOGUE.index(item), CATALOGUE.index(other)] += 1 / distance
    found = {"forward": found, "backward": found.T, "both": found + found.T}[direction]
    return found / np.sqrt(np.outer(np.maximum(counts, 1), np.maximum(counts, 1)))


def test_recent_items_weigh_most_and_a_repeat_counts_at_its_last_place():
    weights = recency_weights([["a", "b", "a", "unknown"], []], COLUMN, decay=0.5).toarray()
    assert weights.tolist() == [[0.5, 0.25, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert recency_weights([["a", "b", "c"]], COLUMN, 0.5, most=2).toarray()[0].tolist() == [
        0,
        0.5,
        1,
        0,
        0,
    ]


def test_recent_knn_by_hand():
    # a and b share 1 of 2 and 1 users: 1/√2; c and d share 1 of 1 and 1: 1.
    model = RecentKNN.fit(training([["a", "b"], ["a"], ["c", "d"]]), CATALOGUE, decay=0.5)
    items, scores = model.recommend([["a", "c"], ["c", "a"]], 2, [["a", "c"]] * 2)
    assert items == [["d", "b"], ["b", "d"]]
    assert scores[0] == pytest.approx([1, 0.5 / math.sqrt(2)])
    assert scores[1] == pytest.approx([1 / math.sqrt(2), 0.5])


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, HISTORY, DECAY, st.booleans())
def test_recent_knn_equals_dense_sums(train, history, decay, mask):
    matrix = cosines(train)
    votes = sum(
        (weight * matrix[CATALOGUE.index(item)] for item, weight in by_steps(history, decay).items()),
        np.zeros(5),
    )
    model = RecentKNN.fit(training(train), CATALOGUE, decay=decay)
    items, scores = model.recommend([history], 5, [history] if mask else None)
    expected = ranked(votes, train, history if mask else ())
    assert items == [expected]
    np.testing.assert_allclose(scores[0], [votes[CATALOGUE.index(item)] for item in expected], atol=1e-9)


def test_with_decay_1_recent_knn_equals_item_knn():
    train = training([["a", "b", "c"], ["b", "c"], ["d", "a"], ["e"], ["c", "a"]])
    asked = [["a"], ["c", "a", "c"], ["d", "e"], []]
    plain = ItemKNN.fit(train, CATALOGUE).recommend(asked, 4, asked)
    whole = RecentKNN.fit(train, CATALOGUE, decay=1.0).recommend(asked, 4, asked)
    assert whole[0] == plain[0]
    for one, other in zip(whole[1], plain[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_succession_by_hand():
    # c stands 2 behind a in the first history and 1 behind it in the second; n is 2 for a and c, 1 for b.
    train = training([["a", "b", "c"], ["a", "c"]])
    model = Succession.fit(train, CATALOGUE, window=2, direction="forward", decay=0.5)
    items, scores = model.recommend([["a"]], 3, [["a"]])
    assert items == [["c", "b", "d"]]
    assert scores[0] == pytest.approx([(1 / 2 + 1) / 2, 1 / math.sqrt(2), 0])
    near = Succession.fit(train, CATALOGUE, window=1, direction="forward", decay=0.5)
    assert near.recommend([["a"]], 1, [["a"]])[1][0] == pytest.approx([1 / math.sqrt(2)])
    back = Succession.fit(train, CATALOGUE, window=2, direction="backward", decay=0.5)
    assert back.recommend([["a"]], 1, [["a"]])[1] == [[0.0]]
    both = Succession.fit(train, CATALOGUE, window=2, direction="both", decay=0.5)
    # From b, b c: c is 1 behind b (1/√2 by √(1·2)); b's own weight is .5 where c is the last.
    assert both.recommend([["b", "c"]], 1, [["b", "c"]])[1][0] == pytest.approx(
        [0.5 / math.sqrt(2) + (1 / 2 + 1) / 2]
    )


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, HISTORY, DECAY, st.integers(1, 7), st.sampled_from(["forward", "backward", "both"]))
def test_succession_equals_loops_over_all_pairs(train, history, decay, window, direction):
    matrix = rules(train, window, direction)
    votes = sum(
        (weight * matrix[CATALOGUE.index(item)] for item, weight in by_steps(history, decay).items()),
        np.zeros(5),
    )
    model = Succession.fit(training(train), CATALOGUE, window, direction, decay)
    assert model.recommend([history], 5, [history])[0] == [ranked(votes, train, history)]
    counts = np.array([sum(row.count(item) for row in train) for item in CATALOGUE]) + 1
    popular = counts / counts.sum()
    chance = 0.99 * votes / votes.sum() + 0.01 * popular if votes.sum() else popular
    np.testing.assert_allclose(np.exp(model.log_probs([history], CATALOGUE)[0]), chance, atol=1e-6)


def test_text_neighbours_by_hand():
    """Vectors less their mean [0, 0] of unit length; the profile of (a, c) at decay .5 leans to c."""
    model = TextKNN.fit(training([["b"], ["b"], ["d"]]), CATALOGUE, VECTORS, decay=0.5)
    assert np.mean(list(VECTORS.values()), axis=0).tolist() == [0, 0]
    items, scores = model.recommend([["a", "c"]], 3, [["a", "c"]])
    profile = np.array([0.5, 1]) / math.hypot(0.5, 1)
    assert items == [["d", "b", "e"]]
    expected = [profile[1], profile @ [2, 1] / math.sqrt(5), -profile.sum() / math.sqrt(2)]
    np.testing.assert_allclose(scores[0], expected, atol=1e-6)
    chance = np.exp(model.log_probs([["a", "c"]], ["d", "b", "e"])[0])
    exact = np.exp(np.array(expected) / TEMPERATURE)
    np.testing.assert_allclose(chance, exact / exact.sum(), atol=1e-5)
    assert model.recommend([["unknown"]], 5)[0] == [["b", "d", "a", "c", "e"]], (
        "popular where nothing is known"
    )


def test_text_vectors_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "vectors.safetensors"
    with pytest.raises(UserError, match="run the stage collaborative first"):
        load_vectors(path)
    save_vectors(path, ["ä", "b c"], np.eye(2, dtype=np.float32))
    assert {item: vector.tolist() for item, vector in load_vectors(path).items()} == {
        "ä": [1, 0],
        "b c": [0, 1],
    }
    path.write_bytes(b"none of ours")
    with pytest.raises(UserError, match="cannot be read as text vectors"):
        load_vectors(path)
    save_file({"vectors": np.eye(2, dtype=np.float32)}, path)
    with pytest.raises(UserError, match="cannot be read as text vectors"):
        load_vectors(path)  # of another kind: no items


@pytest.fixture
def parts():
    train = training([["a", "b", "c"], ["b", "c"], ["d", "a"], ["e"], ["c", "a"]])
    members = {
        "recent_knn": RecentKNN.fit(train, CATALOGUE, decay=0.5),
        "succession": Succession.fit(train, CATALOGUE),
    }
    return train, members, TextKNN.fit(train, CATALOGUE, VECTORS)


def test_a_mixture_is_a_sum_of_probabilities_times_a_power_of_the_texts(parts):
    train, members, text = parts
    model = Mixture(
        Popularity.fit(train, CATALOGUE), members, {"recent_knn": 0.25, "succession": 0.75}, text, 0.4
    )
    histories, items = [["a", "b"], ["d"], ["b"]], ["c", "e", "a", "d", "b"]
    knn, rule = (np.exp(members[name].log_probs(histories, items)) for name in ("recent_knn", "succession"))
    expected = np.log(0.25 * knn + 0.75 * rule + 1e-9) + 0.4 * text.log_probs(histories, items)
    np.testing.assert_allclose(model.scores(histories, items), expected, atol=1e-5)
    chance = np.exp(model.log_probs(histories, items))
    np.testing.assert_allclose(chance, np.exp(expected) / np.exp(expected).sum(1, keepdims=True), atol=1e-6)
    best = model.recommend(histories, 1, histories)[0]
    for history, row, found in zip(histories, expected, best, strict=True):
        allowed = [i for i, item in enumerate(items) if item not in history]
        assert found == [items[max(allowed, key=lambda i: row[i])]]


def test_a_member_without_weight_is_not_computed(parts):
    class Silent:
        def log_probs(self, histories, items):
            raise AssertionError

    train, members, _ = parts
    weights = {"recent_knn": 1.0, "silent": 0.0}
    model = Mixture(
        Popularity.fit(train, CATALOGUE), {**members, "silent": Silent()}, weights | {"succession": 0.0}
    )
    assert model.recommend([["a"]], 2, [["a"]])[0] == members["recent_knn"].recommend([["a"]], 2, [["a"]])[0]


def test_weights_are_the_best_of_those_tried(parts):
    train, members, text = parts
    valid = examples([(["a", "b"], "c"), (["d"], "a"), (["c"], "b"), (["e"], "d"), (["b"], "a")])
    popularity = Popularity.fit(train, CATALOGUE)
    tilts = {0.7: text.with_decay(0.7), 0.3: text.with_decay(0.3)}
    found = choose_weights(popularity, members, tilts, MixtureSystem(), valid)
    assert found == choose_weights(popularity, members, tilts, MixtureSystem(), valid)
    assert found["ndcg@10"] == max(one["ndcg@10"] for one in found["tried"])
    assert sum(found["chosen"]["weights"].values()) == pytest.approx(1, abs=1e-5)
    best = found["chosen"]
    chosen = Mixture(
        popularity, members, best["weights"], text.with_decay(best["tilt_decay"]), best["tilt_weight"]
    )
    assert Validation(valid, popularity.items).ndcg_of(chosen) == pytest.approx(found["ndcg@10"], abs=1e-6)
    assert set(found["members"]) == set(members)


@settings(max_examples=40, deadline=None)
@given(
    SEQUENCES, st.lists(st.tuples(HISTORY, st.sampled_from(CATALOGUE)), min_size=1, max_size=6), st.booleans()
)
def test_validation_ndcg_equals_the_ndcg_of_lists(train, pairs, mask_seen):
    model = Succession.fit(training(train), CATALOGUE, window=2)
    valid = examples([(history, target) for history, target in pairs], mask_seen)
    items, _ = model.recommend(
        valid["history"].to_list(), 10, valid["history"].to_list() if mask_seen else None
    )
    lists = pl.DataFrame({"user_id": valid["user_id"], "item_id": items}).explode("item_id")
    lists = lists.with_columns(rank=pl.int_range(1, pl.len() + 1).over("user_id"))
    expected = score_ranks(target_ranks(lists, valid, 10), [10])["ndcg@10"].mean()
    assert Validation(valid, model.popularity.items).ndcg_of(model) == pytest.approx(expected)


def test_repeats_count_where_they_may_be_recommended(parts):
    """Who buys the same again: with seen items masked no weights find it, without it the search does."""
    train, members, _ = parts
    pairs = [(["a"], "a"), (["b"], "b"), (["c"], "c")]
    popularity = Popularity.fit(train, CATALOGUE)
    masked, allowed = (
        choose_weights(popularity, members, {}, MixtureSystem(), examples(pairs, mask_seen))
        for mask_seen in (True, False)
    )
    assert {attempt["ndcg@10"] for attempt in masked["tried"]} == {0.0} and allowed["ndcg@10"] > 0


def test_each_grid_keeps_the_best_settings_of_the_grids_before():
    seen = []

    def judge(values):
        seen.append(values)
        return 9 - (values["x"] - 2) ** 2 - (values.get("y", 0) - 1) ** 2

    found = choose(judge, [{"x": [1, 2, 3]}, {"y": [0, 1]}])
    assert found["chosen"] == {"x": 2, "y": 1}
    assert seen == [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 2, "y": 0}, {"x": 2, "y": 1}]
    assert len(found["tried"]) == 5


def test_each_system_chooses_what_is_best_on_validation():
    """Users take a then b, far from where they began: a short window, forward, and a quick decay win."""
    train = training([["a", "b", "c", "d"], ["c", "d", "a", "b"], ["e", "a", "b", "c"]] * 3)
    valid = examples([(["c", "a"], "b"), (["e", "c"], "d"), (["d", "a"], "b")])
    decays = [0.2, 1.0]
    rule = Succession.choose(train, CATALOGUE, SuccessionSystem(window=[1, 3], decay=decays), valid)
    assert rule["chosen"]["direction"] == "forward"
    assert rule["ndcg@10"] == 1
    for found in (
        rule,
        RecentKNN.choose(train, CATALOGUE, RecentKnnSystem(decay=decays), valid),
        TextKNN.choose(train, CATALOGUE, TextKnnSystem(decay=decays), valid, VECTORS),
    ):
        best = max(one["ndcg@10"] for one in found["tried"])
        assert found["ndcg@10"] == best
        assert any(
            one["ndcg@10"] == best and all(found["chosen"][k] == v for k, v in one.items() if k != "ndcg@10")
            for one in found["tried"]
        )
