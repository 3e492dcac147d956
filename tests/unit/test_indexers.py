"""The tokenizers without vectors: random, sequential, collaborative, category, hybrid, single."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmrec.config.ids import Tokenizer, tokenizer_class
from llmrec.errors import UserError
from llmrec.ids.collisions import count_collisions

KINDS = ("random", "sequential", "collaborative", "category", "hybrid", "single")
UNIQUE = {"random", "sequential", "hybrid", "single"}
NAMES = st.lists(st.sampled_from(["Hair", "Skin", "Nails", "", " "]), max_size=5)


def signals(items, histories=(), categories=None):
    columns = {"item_id": [f"i{n}" for n in range(items)]}
    if categories is not None:
        columns["categories"] = categories
    return SimpleNamespace(
        items=pl.DataFrame(columns), histories=[np.array(history, np.int64) for history in histories]
    )


def fit(kind, data, seed=1, **settings):
    return TypeAdapter(Tokenizer).validate_python({"kind": kind, **settings}).fit(data, seed)


def communities(groups, size, users=300, seed=0):
    """Users who have eight items of one group; items are dealt to the groups in turn."""
    rng = np.random.default_rng(seed)
    return [rng.choice(size, 8, replace=False) * groups + rng.integers(groups) for _ in range(users)]


def assert_well_formed(codes, items):
    assert codes.codes.dtype == np.int32
    assert codes.codes.shape == (items, len(codes.sizes)) and len(codes.sizes) > 0
    assert (codes.codes >= 0).all() and (codes.codes < np.array(codes.sizes)).all()
    assert codes.codec is None
    if codes.unique:
        assert len(np.unique(codes.codes, axis=0)) == items


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", [2, 3, 7, 40, 600])
def test_paths_are_equally_long_within_their_sizes_and_unique_where_claimed(kind, items):
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, items, rng.integers(0, 12)) for _ in range(100)]
    categories = [["Root", *(["a", "b"] * 3)[: n % 7]] for n in range(items)]
    output = fit(kind, signals(items, [*histories, [0, 1]], categories))
    assert_well_formed(output, items)
    assert output.unique == (kind in UNIQUE) == tokenizer_class(kind).has_unique_paths


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_codes(kind):
    data = signals(700, communities(4, 150), [["Hair"], ["Skin", "Face"]] * 350)
    first, again = fit(kind, data), fit(kind, data)
    assert first.codes.tobytes() == again.codes.tobytes() and first.sizes == again.sizes


@pytest.mark.parametrize("kind", ["random", "sequential", "single"])
def test_one_item_without_interactions_gets_a_path(kind):
    assert_well_formed(fit(kind, signals(1)), 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(2, 9), st.integers(1, 8), st.sampled_from(["random", "sequential"]))
def test_a_catalogue_gets_distinct_paths_of_as_many_levels_as_it_takes(items, codes, levels, kind):
    output = fit(kind, signals(items), codes=codes, levels=levels)
    assert_well_formed(output, items)
    assert output.unique and len(output.sizes) >= levels
    if min(codes, items) ** levels >= items:
        assert len(output.sizes) == levels


def test_random_paths_use_every_code_and_depend_on_the_seed():
    first, other = (fit("random", signals(64), seed, codes=4, levels=3) for seed in (1, 2))
    assert len(np.unique(first.codes, axis=0)) == 64  # a full code space, each path once
    assert (first.codes != other.codes).any()


def test_random_paths_fill_a_code_space_beyond_64_bits():
    output = fit("random", signals(70_000), codes=65536, levels=8)
    assert_well_formed(output, 70_000)
    assert (output.codes.max(axis=0) > 60_000).all()


def test_sequential_paths_follow_the_histories_and_then_the_catalogue():
    output = fit("sequential", signals(8, [[5, 2, 5], [2, 7], [0]]), codes=2, levels=3)
    numbers = output.codes @ [4, 2, 1]
    assert np.argsort(numbers).tolist() == [5, 2, 7, 0, 1, 3, 4, 6]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 80), st.integers(2, 9))
def test_sequential_first_codes_serve_equally_many_items(items, codes):
    output = fit("sequential", signals(items, [range(items)]), codes=codes, levels=8)
    used = np.bincount(output.codes[:, 0], minlength=min(codes, items))
    assert used.max() - used.min() <= 1
    assert (np.diff(output.codes[:, 0]) >= 0).all()


def test_sequential_without_interactions_numbers_the_catalogue_and_says_so(capsys):
    output = fit("sequential", signals(5), codes=5, levels=1)
    assert output.codes[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert "no training interactions" in capsys.readouterr().err


@pytest.mark.parametrize("size", [30, 300])  # by a full decomposition, and by the iterative one
def test_collaborative_codes_find_planted_communities(size):
    groups = 4
    histories = communities(groups, size, users=20 * size)
    output = fit("collaborative", signals(groups * size, histories), clusters=groups, leaf=size)
    first = output.codes[:, 0].reshape(size, groups)  # item n is of group n % groups
    assert (first == first[0]).all() and len(set(first[0])) == groups


def test_collaborative_codes_find_communities_within_communities():
    rng = np.random.default_rng(0)
    outer, inner, size = 3, 3, 12
    histories = []
    for _ in range(3000):
        group = rng.integers(outer)
        reach = inner * size if rng.random() < 0.3 else size
        start = group * inner * size + (0 if reach > size else rng.integers(inner) * size)
        histories.append(start + rng.choice(reach, 4, replace=False))
    output = fit("collaborative", signals(outer * inner * size, histories), clusters=3, leaf=size)
    assert output.sizes == [3, 3]
    for level, width in enumerate((inner * size, size)):
        paths = [
            set(map(tuple, part[:, : level + 1]))
            for part in np.split(output.codes, len(output.codes) // width)
        ]
        assert all(len(path) == 1 for path in paths)
        assert len(set.union(*paths)) == len(paths)


def test_a_clusters_first_code_is_that_of_its_most_visited_part():
    busy, quiet = [[0, 1, 2, 3]] * 9, [[4, 5, 6, 7]] * 2
    output = fit("collaborative", signals(8, [*quiet, *busy]), clusters=2, leaf=4)
    assert output.codes[:, 0].tolist() == [0] * 4 + [1] * 4


def test_paths_of_small_parts_are_padded_with_code_0():
    """Thirty items that all users have, and four that two users share."""
    rng = np.random.default_rng(0)
    histories = [rng.choice(30, 6, replace=False) for _ in range(200)] + [[30, 31, 32, 33]] * 2
    output = fit("collaborative", signals(34, histories), clusters=2, leaf=4)
    small = output.codes[30:]
    assert (small == small[0]).all() and small[0, 0] == 1
    assert (small[:, 1:] == 0).all() and (output.codes[:30, 1] > 0).all()
    assert_well_formed(output, 34)


def test_items_without_cooccurrence_share_first_codes_and_are_counted(capsys):
    output = fit("collaborative", signals(36, [[0, 1, 2, 3, 4, 5]] * 9 + [[7]]), clusters=2, leaf=6)
    assert_well_formed(output, 36)
    assert "30 of 36 items share no user with another" in capsys.readouterr().err
    assert not set(output.codes[:6, 0]) & set(output.codes[6:, 0])
    assert count_collisions(output.codes)["largest"] <= 12  # the graph tells nothing, so they are cut evenly


def test_the_order_within_a_history_and_repeats_do_not_matter():
    histories = communities(3, 20)
    repeated = [np.concatenate([history[::-1], history[:3]]) for history in histories]
    plain, other = (fit("collaborative", signals(60, given)) for given in (histories, repeated))
    np.testing.assert_array_equal(plain.codes, other.codes)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 30).flatmap(
        lambda items: st.tuples(
            st.just(items), st.lists(st.lists(st.integers(0, items - 1), max_size=6), max_size=12)
        )
    ),
    st.integers(2, 5),
    st.integers(1, 6),
)
def test_any_graph_gives_well_formed_collaborative_paths(given_, clusters, leaf):
    items, histories = given_
    output = fit("collaborative", signals(items, [*histories, [0, 1]]), clusters=clusters, leaf=leaf)
    assert_well_formed(output, items)


@pytest.mark.parametrize("kind", ["collaborative", "hybrid"])
@pytest.mark.parametrize("histories", [[], [[]], [[1], [2, 2]]])
def test_no_user_with_two_items_is_an_error(kind, histories):
    with pytest.raises(UserError, match=f"{kind} needs users with two training items") as error:
        fit(kind, signals(9, histories))
    assert "\n" not in str(error.value)


def test_hybrid_is_the_collaborative_path_and_a_token_of_its_own():
    data = signals(60, communities(3, 20))
    shared, own = fit("collaborative", data), fit("hybrid", data)
    np.testing.assert_array_equal(own.codes[:, :-1], shared.codes)
    assert own.sizes == [*shared.sizes, 60] and own.codes[:, -1].tolist() == list(range(60))


def test_category_paths_are_padded_numbered_by_name_and_without_their_common_root():
    paths = [
        ["All", "Skin", "Face"],
        ["All", "Hair"],
        ["All", "Hair", "Face"],
        ["All", "Skin", "Arms", "Oil"],
    ]
    output = fit("category", signals(4, [], paths), levels=2)
    assert output.codes.tolist() == [[1, 2], [0, 0], [0, 2], [1, 1]]
    assert output.sizes == [2, 3]


@pytest.mark.filterwarnings("error")
@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), NAMES), min_size=1, max_size=20), st.integers(1, 4))
def test_items_share_a_category_path_just_where_their_first_names_agree(categories, levels):
    kept = [[name for name in path or [] if name.strip()] for path in categories]
    named = [path for path in kept if path]
    data = signals(len(categories), [], pl.Series(categories, dtype=pl.List(pl.String)))
    if not named:
        with pytest.raises(UserError, match="no item has a category"):
            fit("category", data, levels=levels)
        return
    output = fit("category", data, levels=levels)
    assert_well_formed(output, len(categories))
    root = 0
    while all(len(path) > root and path[root] == named[0][root] for path in named):
        root += 1
    clipped = [tuple(path[root : root + levels]) for path in kept]
    for one, path in zip(output.codes.tolist(), clipped, strict=True):
        for other, its_path in zip(output.codes.tolist(), clipped, strict=True):
            assert (one == other) == (path == its_path)


def test_items_without_category_are_counted(capsys):
    output = fit("category", signals(4, [], [["Hair", "Dry"], ["Hair", "Oily"], [], None]))
    assert output.codes.tolist() == [[1], [2], [0], [0]]
    assert "2 of 4 items have no category" in capsys.readouterr().err


def test_a_single_category_for_all_items_prints_a_notice(capsys):
    assert fit("category", signals(2, [], [["Hair"], ["Hair"]])).codes.tolist() == [[0], [0]]
    assert "do not distinguish any items" in capsys.readouterr().err


def test_numbers_and_very_long_texts_are_valid_category_names():
    numbers = fit("category", signals(3, [], [[7, 1], [7, 2], [8]]))
    long = fit("category", signals(3, [], [["x" * 10**5, "a"], ["x" * 10**5, "b"], ["y" * 10**5]]))
    assert numbers.codes.tolist() == long.codes.tolist() == [[0, 1], [0, 2], [1, 0]]


@pytest.mark.parametrize(
    "categories", [["Hair", "Skin"], [1, 2], [[["Hair"]], [["Skin"]]], [{"a": 1}, {"a": 2}]]
)
def test_categories_that_are_no_lists_of_names_are_an_error(categories):
    with pytest.raises(UserError, match="lists of names are needed") as error:
        fit("category", signals(2, [], categories))
    assert "\n" not in str(error.value)


def test_items_without_a_categories_column_are_an_error():
    with pytest.raises(UserError, match="needs a column categories"):
        fit("category", signals(2))
