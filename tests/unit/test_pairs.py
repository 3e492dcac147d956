"""Pairs: what may be rejected and what may not, each source, and files that users write by hand."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llmrec.catalogue.catalogue import Catalogue
from llmrec.collaborative.item_knn import ItemKNN
from llmrec.config.alignment import PairsConfig
from llmrec.errors import UserError
from llmrec.train.alignment.negatives import nearest_items, sample_by_weight, sample_in_shared_prefix
from llmrec.train.alignment.pairs import SCHEMA, make_pairs, read_pairs
from llmrec.train.alignment.targets import draw_targets

# i0 … i11 in trie order: four of each first code, two of each second one
SIDS = np.array([[n // 4, n % 4 // 2, n % 2] for n in range(12)], np.int32)
ITEMS = [f"i{n}" for n in range(12)]
BOOKS = [np.array([[1, 0], [0, 1], [-1, 0]]), np.array([[0, 0], [0.2, 0.1]]), np.array([[0, 0], [0.01, 0]])]
TRAIN = {"ann": [0, 1, 2, 5], "bob": [3, 4, 0], "eve": [7, 8, 9, 10, 11], "kim": [6]}
HELD_OUT = {"ann": [(6, "valid"), (9, "test")], "bob": [(5, "valid"), (7, "test")], "kim": [(1, "test")]}


def make_run(folder, train=TRAIN, held_out=HELD_OUT, codebooks=True):
    """A run folder as the stages data, ids and sft leave it, as far as pairs read it."""
    rows = []
    for user, items in train.items():
        marked = [(item, "train") for item in items] + held_out.get(user, [])
        rows += [(user, ITEMS[item], time, split) for time, (item, split) in enumerate(marked)]
    for part in ("data", "ids", "base"):
        (folder / part).mkdir(parents=True)
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "time", "split"], orient="row")
    table.write_parquet(folder / "data/interactions.parquet")
    np.save(folder / "base/sids.npy", SIDS)
    about = {"version": 1, "items": ITEMS, "sid_token_ids": [[0, 1, 2], [3, 4], [5, 6]], "prompts": {}}
    (folder / "base/llmrec.json").write_text(json.dumps(about))
    if codebooks:
        books = {f"level_{n}": book.astype(np.float32) for n, book in enumerate(BOOKS)}
        save_file(books, folder / "ids/codebooks.safetensors")
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def make(run, seed=0, history=3, beams=None, **config):
    return make_pairs(
        PairsConfig(**config), run, Catalogue.load(run / "base", as_trained=True), seed, history, beams
    )


def best_first(*order):
    """A model whose best items are always these, and what it was asked."""
    asked = []

    def beams(histories, denied, width):
        asked.append((histories, denied, width))
        return [[item for item in order if item not in row][:width] for row in denied]

    beams.asked = asked
    return beams


def mine(user):
    return {ITEMS[item] for item in TRAIN[user]}


@pytest.mark.parametrize("source", ["random", "popularity", "semantic", "trie", "beams", "judge"])
def test_rejected_are_neither_positives_nor_repeats(run, source):
    beams = best_first(*reversed(ITEMS))
    pairs, report = make(run, sources=source, per_user=None, width=8, judge="item_knn", beams=beams)
    assert pairs.schema == SCHEMA and pairs["user_id"].to_list() == ["ann"] * 3 + ["bob"] * 2 + ["eve"] * 4
    for row in pairs.iter_rows(named=True):
        assert len(set(row["rejected"])) == 3
        assert not set(row["rejected"]) & (mine(row["user_id"]) | {row["chosen"]})
    assert report["sources"] == {source: 9} and report["users"] == 3
    assert report["users_left_out"] == {"fewer_than_two_training_items": 1, "not_sampled": 0}


def test_histories_are_what_came_before_and_no_longer_than_asked(run):
    pairs, _ = make(run, per_user=None, history=2)
    ann = pairs.filter(pl.col("user_id") == "ann")
    assert ann["history"].to_list() == [["i0"], ["i0", "i1"], ["i1", "i2"]]
    assert ann["chosen"].to_list() == ["i1", "i2", "i5"]


def test_held_out_targets_may_be_rejected(run):
    """To leave them out would tell the model what they are."""
    pairs, _ = make(run, sources="random", negatives=7, per_user=None)
    rejected = pairs.filter(pl.col("user_id") == "eve")["rejected"]
    assert all(set(row) == set(ITEMS) - mine("eve") for row in rejected.to_list())
    ann = pairs.filter(pl.col("user_id") == "ann")["rejected"].explode()
    assert {"i6", "i9"} <= set(ann.to_list())


def test_held_out_interactions_change_nothing(tmp_path, run):
    other = make_run(
        tmp_path / "other", held_out={"ann": [(11, "test")], "bob": [(10, "valid"), (9, "test")]}
    )
    for source in ("random", "popularity", "semantic", "trie", "judge"):
        settings = {"sources": source, "per_user": None, "width": 8, "judge": "item_knn"}
        asks = [best_first(*ITEMS), best_first(*ITEMS)]
        one, two = (
            make(folder, beams=b, **settings)[0] for folder, b in zip((run, other), asks, strict=True)
        )
        assert one.equals(two) and asks[0].asked == asks[1].asked


def test_a_seed_gives_the_same_pairs_again(run):
    settings = {"sources": ["random", "popularity", "trie"], "per_user": 2}
    one, two, other = (make(run, seed=seed, **settings)[0] for seed in (3, 3, 4))
    assert one.equals(two) and not one.equals(other)


def test_each_pair_draws_one_of_several_sources(run):
    pairs, report = make(run, sources=["random", "trie"], per_user=None)
    assert set(pairs["source"]) == {"random", "trie"}
    assert report["sources"] == dict(pairs["source"].value_counts().iter_rows())


def test_per_user_targets_of_a_sample_of_users_are_drawn(run):
    seen = set()
    for seed in range(20):
        targets, left_out = draw_targets(run, 5, 2, 2, seed)
        assert sorted(Counter(targets.users).values()) == [2, 2]
        assert left_out == {"fewer_than_two_training_items": 1, "not_sampled": 1}
        for user, position in zip(targets.users, targets.positions, strict=True):
            assert 1 <= position < len(TRAIN[user])
            seen.add((user, position))
        assert all(a < b for a, b in zip(targets.positions[::2], targets.positions[1::2], strict=True))
    assert len(seen) == 3 + 2 + 4


def test_nobody_with_two_items_is_an_error(tmp_path):
    run = make_run(tmp_path / "run", train={"kim": [6]})
    with pytest.raises(UserError, match="no user has two training interactions"):
        make(run)


def test_semantic_rejects_the_nearest_items(run):
    pairs, _ = make(run, sources="semantic", negatives=4, per_user=None)
    vectors = np.sum([book[SIDS[:, n]] for n, book in enumerate(BOOKS)], axis=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in pairs.iter_rows(named=True):
        free = [n for n in range(12) if ITEMS[n] not in mine(row["user_id"])]
        likeness = unit[free] @ unit[ITEMS.index(row["chosen"])]
        assert row["rejected"] == [ITEMS[free[n]] for n in np.argsort(-likeness, kind="stable")[:4]]


def test_semantic_needs_codebooks(tmp_path):
    run = make_run(tmp_path / "run", codebooks=False)
    with pytest.raises(UserError, match="semantic IDs have no codebooks"):
        make(run, sources="semantic")


def test_trie_shortens_the_prefix_only_when_no_items_are_left_under_it(run):
    pairs, _ = make(run, sources="trie", negatives=3, per_user=None, seed=1)
    row = pairs.filter((pl.col("user_id") == "bob") & (pl.col("chosen") == "i4")).row(0, named=True)
    # bob has i3, i4, i0: i5 shares two codes with i4, i6 and i7 one, all others none
    assert row["rejected"][0] == "i5" and set(row["rejected"][1:]) == {"i6", "i7"}
    row = pairs.filter(pl.col("chosen") == "i11").row(0, named=True)
    # eve has all but i8's branch: the prefix gives nothing, then the whole catalogue does
    assert set(row["rejected"]) <= {"i0", "i1", "i2", "i3", "i4", "i5", "i6"}


def test_beams_are_the_models_best_without_positives(run):
    beams = best_first(*ITEMS)
    pairs, report = make(run, sources="beams", negatives=2, per_user=None, width=5, history=2, beams=beams)
    ann = pairs.filter(pl.col("user_id") == "ann")
    assert ann["rejected"].to_list() == [["i3", "i4"]] * 3
    histories, denied, width = beams.asked[0]
    assert histories == pairs["history"].to_list() and width == 5
    assert [set(row) for row in denied] == [mine(user) for user in pairs["user_id"]]
    assert report["filled_at_random"] == {"beams": 0} and report["chosen_is_target"] == 9


def test_missing_beams_are_drawn_and_counted(run):
    pairs, report = make(run, sources="beams", negatives=3, width=4, beams=best_first("i6", "i2"))
    assert report["filled_at_random"] == {"beams": 2 + 1 + 1}
    for row in pairs.iter_rows(named=True):
        found = [item for item in ("i6", "i2") if item not in mine(row["user_id"])]
        assert row["rejected"][: len(found)] == found and len(set(row["rejected"])) == 3


def test_the_judge_chooses_the_best_beam_and_rejects_the_worst(run):
    order = ("i9", "i5", "i4", "i1", "i8", "i2", "i0")
    beams = best_first(*order)
    pairs, report = make(
        run, sources="judge", negatives=2, per_user=None, width=7, judge="item_knn", beams=beams
    )
    training = pl.DataFrame(
        {"user_id": list(TRAIN), "items": [[ITEMS[i] for i in row] for row in TRAIN.values()]}
    )
    model = ItemKNN.fit(training, ITEMS)
    targets = {"ann": [1, 2, 3], "bob": [1, 2], "eve": [1, 2, 3, 4]}
    seen = [[ITEMS[i] for i in TRAIN[user][:at]] for user, places in targets.items() for at in places]
    assert beams.asked[0][1] == seen
    for row, before in zip(pairs.iter_rows(named=True), seen, strict=True):
        scores = dict(zip(ITEMS, model.log_probs([row["history"]], ITEMS)[0].tolist(), strict=True))
        asked = [item for item in order if item not in before]
        assert row["chosen"] == max(asked, key=scores.__getitem__)
        rest = sorted((i for i in asked[::-1] if i != row["chosen"]), key=scores.__getitem__)
        assert row["rejected"] == [item for item in rest if item not in mine(row["user_id"])][:2]
    assert report["chosen_is_target"] < 9
    assert {"i5"} == set(pairs.filter(pl.col("history") == ["i0", "i1", "i2"])["chosen"])


def test_at_the_history_end_the_judge_scores_after_all_training_items(run):
    beams = best_first("i9", "i5", "i4", "i1", "i8", "i2", "i0")
    asked = {"sources": "judge", "prompts": "history_end", "negatives": 1, "width": 3, "judge": "item_knn"}
    pairs, report = make(run, per_user=None, beams=beams, **asked)
    assert pairs["user_id"].to_list() == ["ann", "bob", "eve"]
    assert beams.asked[0][1] == [[ITEMS[item] for item in TRAIN[user]] for user in pairs["user_id"]]
    assert pairs["history"].to_list() == [
        [ITEMS[item] for item in TRAIN[user][-3:]] for user in pairs["user_id"]
    ]
    for user, chosen in pairs.select("user_id", "chosen").iter_rows():
        assert chosen not in mine(user)
    assert report["chosen_is_target"] == 0


@pytest.mark.parametrize("sources", ["beams", ["judge", "random"]])
def test_prompts_at_the_history_end_refuse_sources_other_than_judge(sources):
    with pytest.raises(ValueError, match="needs sources: judge"):
        PairsConfig(sources=sources, prompts="history_end")


def test_more_rejected_items_than_a_user_leaves_is_an_error(run):
    make(run, negatives=7)
    with pytest.raises(
        UserError, match=r"negatives=8: user 'eve' has chosen 5 of the 12 items, so at most 7"
    ):
        make(run, negatives=8)
    with pytest.raises(UserError, match="at most 6"):
        make(run, negatives=7, sources="judge", width=9, judge="item_knn", beams=best_first(*ITEMS))


PLACES = st.lists(st.sets(st.integers(0, 11), min_size=1, max_size=7), min_size=1, max_size=8)


@given(PLACES, st.integers(1, 5), st.integers(0, 9))
def test_no_source_draws_excluded_places(taken, count, seed):
    rng = np.random.default_rng(seed)
    chosen = [min(row) for row in taken]
    weights = np.array([0, 0, 0, 1, 2, 3, 0, 50, 0, 0, 900, 1], float)
    vectors = rng.standard_normal((12, 2)).astype(np.float32)
    draws = [
        sample_by_weight(weights, taken, count, rng),
        nearest_items(vectors, chosen, taken, count),
        sample_in_shared_prefix(SIDS, chosen, taken, count, rng),
    ]
    for found in draws:
        assert [len(set(row)) for row in found] == [count] * len(taken)
        assert all(row.isdisjoint(places) for row, places in zip(taken, found, strict=True))
    for row, places in zip(taken, draws[0], strict=True):
        # items that nobody chose come last
        assert all((weights[places] > 0)[:-1] >= (weights[places] > 0)[1:]), (row, places)
    for row, item, places in zip(taken, chosen, draws[2], strict=True):
        match = np.logical_and.accumulate(np.equal(SIDS, SIDS[item]), axis=1).sum(1)
        free = sorted(match[[n for n in range(12) if n not in row]].tolist(), reverse=True)
        assert match[places].tolist() == free[:count]


def test_popular_items_are_drawn_in_proportion_to_their_weight():
    rng = np.random.default_rng(0)
    weights = np.array([6.0, 3, 1, 5])
    rows = 20_000
    found = np.array(sample_by_weight(weights, [{3}] * rows, 2, rng))
    first = np.bincount(found[:, 0], minlength=4) / rows
    np.testing.assert_allclose(first, [0.6, 0.3, 0.1, 0], atol=0.015)
    second = np.bincount(found[found[:, 0] == 0, 1], minlength=4)
    np.testing.assert_allclose(second / second.sum(), [0, 0.75, 0.25, 0], atol=0.015)


def test_dominant_excluded_weights_do_not_change_the_proportions():
    """Where positives hold nearly all the weight, drawing again would not end."""
    rng = np.random.default_rng(0)
    weights = np.array([3.0, 1, 0, 1e12])
    found = np.array(sample_by_weight(weights, [{3}] * 5_000, 3, rng))
    assert (found[:, 2] == 2).all()
    assert abs((found[:, 0] == 0).mean() - 0.75) < 0.025


def written(tmp_path, **changes):
    rows = {
        "user_id": ["ann", "bob"],
        "history": [["i0"], ["i3", "i4"]],
        "chosen": ["i1", "i0"],
        "rejected": [["i6", "i7"], ["i6", "i8"]],
        "source": ["mine", "mine"],
    }
    path = tmp_path / "mine.parquet"
    pl.DataFrame(
        {name: values for name, values in (rows | changes).items() if values is not None}
    ).write_parquet(path)
    return path


def test_pairs_written_by_hand_are_read(tmp_path, run):
    path = written(tmp_path, note=["further", "columns"])
    pairs = read_pairs(path, ITEMS)
    assert pairs.schema == SCHEMA and pairs["rejected"].to_list() == [["i6", "i7"], ["i6", "i8"]]
    (run / "pairs").mkdir()
    pairs.write_parquet(run / "pairs/pairs.parquet")
    assert read_pairs(run, ITEMS).equals(pairs)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rejected": [["i6", "i7"], ["i6"]]}, r"row 1 \(user 'bob'\) has not 2 rejected items"),
        ({"rejected": pl.Series([[], []], dtype=pl.List(pl.String))}, "row 0 .* has no rejected item"),
        ({"rejected": [["i6", "i7"], ["i6", "i0"]]}, "row 1 .* has the chosen item among the rejected"),
        ({"rejected": [["i6", "i6"], ["i6", "i8"]]}, r"row 0 \(user 'ann'\) has a rejected item twice"),
        ({"rejected": [["i6", "i7"], ["i6", "x9"]]}, "row 1 .* has item 'x9', which is not in the catalogue"),
        ({"rejected": [["i6", None], ["i6", "i8"]]}, "row 0 .* has item None"),
        ({"history": [["i0"], ["i3", "x9"]]}, r"row 1 \(user 'bob'\) has item 'x9'"),
        ({"history": [[], ["i3"]]}, "row 0 .* has an empty history"),
        ({"history": [["i0"], None]}, "row 1 .* has an empty cell"),
        ({"chosen": ["x1", "i0"]}, "row 0 .* has item 'x1'"),
        ({"chosen": [1, 0]}, "column 'chosen' is Int64, not String"),
        ({"rejected": ["i6", "i8"]}, "column 'rejected' is String"),
        ({"source": None}, "no column 'source'; pairs have user_id, history"),
    ],
)
def test_errors_in_pairs_name_the_row(tmp_path, changes, why):
    with pytest.raises(UserError, match=why):
        read_pairs(written(tmp_path, **changes), ITEMS)


def test_files_without_pairs_are_refused(tmp_path):
    with pytest.raises(UserError, match="not there; run `llmrec pairs RECIPE` first"):
        read_pairs(tmp_path, ITEMS)
    (tmp_path / "text.parquet").write_text("user_id,history")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_pairs(tmp_path / "text.parquet", ITEMS)
    pl.DataFrame(schema=SCHEMA).write_parquet(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="no pairs in it"):
        read_pairs(tmp_path / "none.parquet", ITEMS)
