"""Unique in the end, always: the extra level, Sinkhorn's re-assignment and the next best path."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmrec.ids.codecs.residual import ResidualCodec
from llmrec.ids.collisions import (
    count_collisions,
    extra_level,
    next_best,
    resolve_collisions,
    spread_by_sinkhorn,
)
from llmrec.ids.tokenizer import Codes

paths = arrays.arrays(np.int32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 3))
crowds = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 16), st.just(2)), elements=st.sampled_from([0.0, 0.1, 1.0, 5.0])
)


def line_codec():
    """Two levels of four codes: thousands, then units, on a line."""
    coarse = np.array([[0], [1000], [2000], [3000]], np.float32)
    return ResidualCodec([coarse, np.array([[0], [1], [2], [3]], np.float32)])


def plane_codec():
    rng = np.random.default_rng(0)
    return ResidualCodec([rng.standard_normal((4, 2)).astype(np.float32) for _ in range(2)])


@settings(max_examples=100, deadline=None)
@given(paths)
def test_the_extra_level_makes_paths_unique_and_counts_from_zero(codes):
    extra = extra_level(codes)
    sids = np.column_stack([codes, extra])
    assert len(np.unique(sids, axis=0)) == len(codes)
    for path in np.unique(codes, axis=0):
        on_path = extra[(codes == path).all(1)]
        np.testing.assert_array_equal(on_path, np.arange(len(on_path)))


@settings(max_examples=50, deadline=None)
@given(paths)
def test_collisions_are_counted_as_by_hand(codes):
    groups: dict[tuple, int] = {}
    for path in map(tuple, codes.tolist()):
        groups[path] = groups.get(path, 0) + 1
    shared = [size for size in groups.values() if size > 1]
    assert count_collisions(codes) == {
        "items": sum(shared),
        "sids": len(shared),
        "surplus": len(codes) - len(groups),
        "largest": max(groups.values()),
        "rate": pytest.approx(sum(shared) / len(codes)),
    }


@pytest.mark.parametrize("rule", ["extra_level", "own_code", "sinkhorn", "next_best"])
@settings(max_examples=30, deadline=None)
@given(vectors=crowds)
def test_every_rule_ends_in_unique_ids_below_the_sizes(rule, vectors):
    codec = plane_codec()
    sids, sizes = resolve_collisions(Codes(codec.encode(vectors), codec.sizes, codec), rule, vectors)
    assert len(np.unique(sids, axis=0)) == len(vectors)
    assert (sids < sizes).all() and (sids >= 0).all()


def test_the_next_best_path_is_the_nearest_free_one():
    vectors = np.array([[1001], [1001.1], [1001.2]], np.float32)
    codec = line_codec()
    moved = next_best(codec.encode(vectors), vectors, codec)
    assert moved.tolist() == [[1, 1], [1, 2], [1, 0]]


def test_a_full_prefix_is_left_for_the_next_one():
    vectors = np.full((5, 1), 1001, np.float32)
    codec = line_codec()
    moved = next_best(codec.encode(vectors), vectors, codec)
    assert sorted(map(tuple, moved[:4].tolist())) == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert moved[4, 0] in (0, 2)


def test_items_alone_on_their_path_stay():
    vectors = np.array([[1], [1002], [1002], [3000]], np.float32)
    codec = line_codec()
    codes = codec.encode(vectors)
    for moved in (next_best(codes, vectors, codec), spread_by_sinkhorn(codes, vectors, codec)):
        np.testing.assert_array_equal(moved[[0, 3]], codes[[0, 3]])


def test_sinkhorn_moves_items_within_their_prefix_alone():
    vectors = np.array([[1000], [1000], [1000.4], [1000.4]], np.float32)
    codec = line_codec()
    moved = spread_by_sinkhorn(codec.encode(vectors), vectors, codec)
    assert (moved[:, 0] == 1).all()


def test_too_few_paths_get_one_more_level(capsys):
    vectors = np.zeros((17, 1), np.float32)
    codec = line_codec()
    assert next_best(codec.encode(vectors), vectors, codec) is None
    sids, sizes = resolve_collisions(Codes(codec.encode(vectors), codec.sizes, codec), "next_best", vectors)
    assert sizes == [4, 4, 17] and len(np.unique(sids, axis=0)) == 17
    assert "finds no free path for 17 items" in capsys.readouterr().err


def test_paths_that_are_unique_by_construction_get_no_extra_level():
    codes = np.array([[0, 1], [1, 0]], np.int32)
    sids, sizes = resolve_collisions(Codes(codes, [2, 2], unique=True), "extra_level", None)
    np.testing.assert_array_equal(sids, codes)
    assert sizes == [2, 2] and math.prod(sizes) == 4


def test_an_own_code_is_no_other_items():
    codes = np.array([[0, 1], [1, 0], [0, 1]], np.int32)
    sids, sizes = resolve_collisions(Codes(codes, [2, 2]), "own_code", None)
    assert sids.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 2]]
    assert sizes == [2, 2, 3]
