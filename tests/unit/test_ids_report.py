"""The diagnosis of semantic IDs: every figure against one worked out by hand or by a naive version."""

import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmrec.ids import diagnosis
from llmrec.ids.codecs.residual import ResidualCodec
from llmrec.ids.tokenizer import Codes
from llmrec.report.plots import TREE_COLUMNS, TREE_LEFT, code_tree


def rows(*codes):
    return np.array(codes, np.int32)


def test_levels_report_used_codes_entropy_and_prefixes():
    sids = rows([0, 0], [0, 1], [1, 0], [2, 0])
    first, second = diagnosis.describe_levels(sids, [4, 2])
    assert (first["name"], first["codes"], first["used"], first["use"]) == ("a", 4, 3, 0.75)
    assert first["entropy"] == pytest.approx(1.5) and first["max_entropy"] == 2
    assert first["perplexity"] == pytest.approx(2**1.5)
    assert first["prefixes"] == {"distinct": 3, "largest": 2}
    assert second["prefixes"] == {"distinct": 4, "largest": 1}


def test_one_code_for_all_has_no_entropy():
    (only,) = diagnosis.describe_levels(rows([0], [0], [0]), [2])
    assert (only["entropy"], only["perplexity"], only["max_entropy"]) == (0, 1, math.log2(2))


def test_shared_traffic_weighs_items_by_their_interactions():
    codes = rows([0, 0], [0, 0], [0, 1], [1, 0])
    assert diagnosis.shared_traffic(codes, np.array([3, 4, 2, 1])) == 0.7
    assert diagnosis.shared_traffic(codes, np.zeros(4, np.int64)) is None


def test_variance_left_is_the_residual_codec_s_own():
    vectors = np.array([[0, 0], [2, 0], [8, 0], [10, 0]], np.float32)
    codec = ResidualCodec([np.array([[1, 0], [9, 0]], np.float32), np.array([[-1, 0], [1, 0]], np.float32)])
    codes = codec.encode(vectors)
    # The mean is 5: 25 + 9 + 9 + 25 = 68 in all, of which the first level leaves 4.
    assert diagnosis.variance_left(codec, codes, vectors) == pytest.approx([4 / 68, 0])


def test_equal_vectors_have_no_variance_left():
    codec = ResidualCodec([np.ones((1, 3), np.float32)])
    assert diagnosis.variance_left(codec, np.zeros((5, 1), np.int32), np.ones((5, 3), np.float32)) == [0]


def test_purity_counts_the_most_frequent_category_of_each_prefix():
    sids = rows([0, 0], [0, 1], [0, 2], [1, 0], [1, 1])
    purity = diagnosis.prefix_purity(sids, [["x"], ["x"], ["y"], ["y"], []])
    assert (purity["depth"], purity["categories"], purity["items"]) == (1, 2, 4)
    assert purity["purity"] == [0.75, 1]
    assert purity["chance"][1] == 1


def test_purity_of_unrelated_groups_is_that_of_chance():
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 8, (4000, 1)).astype(np.int32)
    purity = diagnosis.prefix_purity(sids, [[name] for name in rng.choice(list("abcd"), 4000)])
    assert purity["purity"][0] == pytest.approx(purity["chance"][0], abs=0.02)


@pytest.mark.parametrize(
    ("categories", "depth"),
    [
        ([["all", "x"], ["all", "y"], ["all", "z"]], 2),
        ([["x"], ["y"], []], 1),
        ([["all"], ["all"]], 1),
        ([["all", "x"], ["all", "x"], ["all", "y"]], 2),
        ([[], []], None),
    ],
)
def test_categories_are_compared_at_the_first_depth_that_tells_items_apart(categories, depth):
    assert diagnosis.category_depth(categories) == depth


def test_neighbours_that_share_their_prefix_are_all_recalled():
    centres = np.eye(3, dtype=np.float32).repeat(11, axis=0)
    vectors = centres + np.random.default_rng(0).normal(0, 0.01, (33, 3)).astype(np.float32)
    sids = np.column_stack([np.arange(33) // 11, np.arange(33) % 11]).astype(np.int32)
    assert diagnosis.neighbour_recall(sids, vectors) == {
        "k": 10,
        "sample": 33,
        "recall": 1.0,
        "chance": pytest.approx(10 / 32),
    }


def test_ids_without_shared_prefixes_have_chance_recall():
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    recall = diagnosis.neighbour_recall(np.arange(40, dtype=np.int32)[:, None], vectors)
    assert recall["recall"] == pytest.approx(recall["chance"])


small_ids = arrays.arrays(
    np.int32, st.tuples(st.integers(2, 30), st.integers(1, 3)), elements=st.integers(0, 2)
)


@given(small_ids, st.integers(0, 5))
def test_recall_is_the_mean_over_random_orders_of_ties(sids, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(sids), 5)).astype(np.float32)
    recall = diagnosis.neighbour_recall(sids, vectors, seed)
    k, expected = min(10, len(sids) - 1), []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for item in range(len(sids)):
        others = [other for other in range(len(sids)) if other != item]
        shared = {other: int(np.cumprod(sids[other] == sids[item]).sum()) for other in others}
        nearest = set(sorted(others, key=lambda other: -unit[item] @ unit[other])[:k])
        kth = sorted(shared.values(), reverse=True)[k - 1]
        tied = [other for other in others if shared[other] == kth]
        longer = [other for other in others if shared[other] > kth]
        sure = len(nearest & set(longer))
        expected.append((sure + len(nearest & set(tied)) * (k - len(longer)) / len(tied)) / k)
    assert recall["recall"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_single_item_has_no_neighbours():
    assert diagnosis.neighbour_recall(rows([0]), np.ones((1, 2), np.float32)) is None


def test_the_diagnosis_has_all_figures_and_null_for_missing_inputs():
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    codec = ResidualCodec([vectors[:4], vectors[4:8]])
    codes = codec.encode(vectors)
    sids = np.column_stack([codes, np.arange(20)]).astype(np.int32)
    traffic = np.arange(20)
    full = diagnosis.diagnose(
        sids, [4, 4, 20], Codes(codes, [4, 4], codec), vectors, [["x"], ["y"]] * 10, traffic
    )
    assert full["items"] == 20 and full["collisions"]["after"] == 0
    assert 0 < full["collisions"]["before"]["traffic"] <= 1
    assert len(full["reconstruction_error"]) == 2 and len(full["levels"]) == 3
    assert full["purity"]["purity"][-1] == 1 and 0 <= full["neighbours"]["recall"] <= 1
    bare = diagnosis.diagnose(sids, [4, 4, 20], Codes(codes, [4, 4]), None, None, traffic)
    assert (bare["reconstruction_error"], bare["purity"], bare["neighbours"]) == (None, None, None)
    assert bare["levels"] == full["levels"] and bare["collisions"] == full["collisions"]


def pieces(svg):
    """Start, row and width of every piece of the tree's cells, with its class."""
    for path in ET.fromstring(svg).iter("path"):
        for start, top, width in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v", path.get("d")):
            yield float(start) - TREE_LEFT, float(top), float(width), path.get("class")


def test_the_tree_s_cells_are_as_wide_as_their_items_and_coloured_by_their_category():
    sids = rows(*[[0, n % 3] for n in range(30)], *[[1, n] for n in range(10)])
    groups = np.array([0] * 20 + [1] * 20)
    drawn = list(pieces(code_tree(sids, groups, ["x", "<y>"], ["s0", "s1"], "tree")))
    tops = sorted({top for _, top, _, _ in drawn})
    first = sorted(piece for piece in drawn if piece[1] == tops[0])
    assert [(start, round(width), style) for start, _, width, style in first] == [
        (0, 900, "cell s0 p1"),
        (900, 300, "cell s1 p2"),
    ]
    for top in tops:
        row = sorted(piece for piece in drawn if piece[1] == top)
        ends = [start + width for start, _, width, _ in row]
        assert row[0][0] == 0 and ends[-1] == pytest.approx(TREE_COLUMNS, abs=1)
        assert all(0 <= after[0] - end <= 1 for end, after in zip(ends, row[1:], strict=False))


def test_the_tree_of_many_items_stays_small_and_its_names_stay_text():
    rng = np.random.default_rng(0)
    sids = np.column_stack([rng.integers(0, 256, (200_000, 3)), np.arange(200_000)]).astype(np.int32)
    svg = code_tree(sids, rng.integers(0, 3, 200_000), ["<script>", "y", "z"], ["s0", "s1", "s2"], "tree")
    assert len(svg) < 200_000
    assert "<script>" not in svg and "&lt;script&gt;" in svg
    assert sum("items" in (title.text or "") for title in ET.fromstring(svg).iter("title")) == 256


@given(small_ids)
def test_every_catalogue_has_a_tree(sids):
    svg = code_tree(sids, np.zeros(len(sids), np.int64), [], ["s0"], "tree")
    assert {round(top) for _, top, _, _ in pieces(svg)} == {1 + 56 * level for level in range(sids.shape[1])}
