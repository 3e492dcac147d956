"""The classic quantizers: what each promises on small vectors, and what it makes of awkward ones."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from llmrec.config import Recipe
from llmrec.config.section import validate
from llmrec.errors import UserError
from llmrec.ids import tokenizer
from llmrec.ids.codecs import kmeans
from llmrec.ids.codecs.balance import assign_to_sizes, even_sizes
from llmrec.ids.codecs.residual import ResidualCodec
from llmrec.ids.codecs.tree import TreeCodec
from llmrec.ids.tokenizer import Codes, auto_codes

KINDS = ["rq_kmeans", "balanced_rq_kmeans", "vq", "pq", "opq", "hierarchical", "lsh"]
NEAREST = [kind for kind in KINDS if kind != "balanced_rq_kmeans"]
"""Kinds whose codes of the fitted items are those that the codec gives."""


@dataclass
class Given:
    """Signals of items that have vectors and nothing else."""

    vectors: np.ndarray

    @property
    def items(self) -> pl.DataFrame:
        return pl.DataFrame({"item_id": [str(row) for row in range(len(self.vectors))]})


def clustered(items: int, dim: int = 16, clusters: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((clusters, dim))
    return (centres[np.arange(items) % clusters] + 0.1 * rng.standard_normal((items, dim))).astype(np.float32)


def quantize(kind: str, vectors: np.ndarray, codes: int | str = 8, levels: int = 3, seed: int = 1) -> Codes:
    quantizer = {"kind": kind, "codes": codes} | ({} if kind == "vq" else {"levels": levels})
    tree = {"name": "test", "seed": seed, "data": {"card": "none"}, "ids": {"quantizer": quantizer}}
    return tokenizer.fit(Given(vectors), validate(Recipe, tree, "test"))


def errors(output: Codes, vectors: np.ndarray) -> list[float]:
    """The mean squared error with no level known, with one, …"""
    return [
        float(np.square(vectors - output.codec.reconstruct(output.codes[:, :level])).sum(axis=1).mean())
        for level in range(output.codec.levels + 1)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_level_explains_more(kind):
    vectors = clustered(300) + 3
    output = quantize(kind, vectors)
    left = errors(output, vectors)
    assert all(after <= before + 1e-6 for before, after in pairwise(left))
    assert left[-1] < 0.9 * left[0]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_levels_reconstruct_the_mean(kind):
    vectors = clustered(100) + 3
    none = quantize(kind, vectors).codec.reconstruct(np.empty((2, 0), np.int32))
    np.testing.assert_allclose(none, np.tile(vectors.mean(0), (2, 1)), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_have_their_shape_and_range(kind):
    output = quantize(kind, clustered(300))
    assert output.codes.shape == (300, 1 if kind == "vq" else 3) and output.codes.dtype == np.int32
    assert output.sizes == output.codec.sizes == [8] * output.codec.levels
    assert output.codes.min() >= 0 and (output.codes.max(axis=0) < output.sizes).all()


@pytest.mark.parametrize("kind", NEAREST)
def test_the_codec_gives_fitted_items_their_codes(kind):
    vectors = clustered(300)
    output = quantize(kind, vectors)
    np.testing.assert_array_equal(output.codec.encode(vectors), output.codes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cheapest_code_of_each_level_is_the_encoded_one(kind):
    output = quantize(kind, clustered(300))
    fresh = clustered(340)[300:]
    codes = output.codec.encode(fresh)
    for level, size in enumerate(output.sizes):
        costs = output.codec.costs(fresh, codes[:, :level])
        assert costs.shape == (40, size) and costs.dtype == np.float32 and costs.min() >= 0
        np.testing.assert_array_equal(costs.argmin(axis=1), codes[:, level])


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_make_the_same_codec_again(kind):
    vectors = clustered(200)
    codec = quantize(kind, vectors).codec
    again = type(codec).from_tensors({name: array.copy() for name, array in codec.tensors().items()})
    assert again.sizes == codec.sizes
    codes = codec.encode(vectors)
    np.testing.assert_array_equal(again.encode(vectors), codes)
    for level in range(codec.levels + 1):
        np.testing.assert_array_equal(
            again.reconstruct(codes[:, :level]), codec.reconstruct(codes[:, :level])
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind):
    vectors = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    first, again, other = (quantize(kind, vectors, seed=seed) for seed in (1, 1, 2))
    for name, array in first.codec.tensors().items():
        assert array.tobytes() == again.codec.tensors()[name].tobytes()
    np.testing.assert_array_equal(first.codes, again.codes)
    assert (first.codes != other.codes).any()


AWKWARD = {
    "ones": np.ones((20, 4)),
    "zeros": np.zeros((9, 4)),
    "duplicates": np.tile(np.eye(4), (10, 1)),
    "one item": np.ones((1, 4)),
    "two items": np.eye(4)[:2],
    "three items": np.eye(4)[:3],
    "one dimension": np.arange(30.0)[:, None],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AWKWARD)
def test_degenerate_vectors_give_finite_codecs_and_codes_in_range(kind, name):
    vectors = AWKWARD[name].astype(np.float32)
    output = quantize(kind, vectors)
    assert all(np.isfinite(array).all() for array in output.codec.tensors().values())
    for codes in (output.codes, output.codec.encode(vectors)):
        assert codes.min() >= 0 and (codes.max(axis=0) < output.sizes).all()
        assert np.isfinite(output.codec.reconstruct(codes)).all()
    assert output.sizes[0] <= len(vectors)


@pytest.mark.parametrize("kind", NEAREST)
def test_duplicates_share_their_path(kind):
    output = quantize(kind, AWKWARD["duplicates"].astype(np.float32))
    assert len(np.unique(output.codes, axis=0)) <= 4
    assert len(np.unique(output.codes[::4], axis=0)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_items_than_codes_prints_a_notice(kind, capsys):
    assert max(quantize(kind, clustered(4), codes=256).sizes) <= 4
    assert "256 codes for 4 items; using 4" in capsys.readouterr().err


@pytest.mark.parametrize(("items", "codes"), [(1, 2), (100, 16), (1682, 64), (12_101, 256), (10**7, 256)])
def test_auto_codes_follow_the_catalogue(items, codes):
    assert auto_codes(items) == codes


def test_centroids_and_residuals_add_up_to_the_vectors():
    vectors = clustered(300)
    output = quantize("rq_kmeans", vectors)
    left = output.codec.residuals(vectors, output.codes)
    np.testing.assert_allclose(output.codec.reconstruct(output.codes) + left, vectors, atol=1e-5)


@pytest.mark.parametrize("items", [300, 3000])
def test_residual_kmeans_is_that_of_faiss_level_by_level(items):
    import faiss

    left = clustered(items)
    output = quantize("rq_kmeans", left)
    for level in range(3):
        plain = faiss.Kmeans(16, 8, niter=25, seed=1 + level, min_points_per_centroid=1)
        plain.train(left)
        nearest = plain.index.search(left, 1)[1][:, 0]
        assert output.codec.codebooks[level].tobytes() == np.array(plain.centroids).tobytes()
        np.testing.assert_array_equal(output.codes[:, level], nearest)
        left = left - plain.centroids[nearest]


def test_items_coded_in_parts_are_coded_as_one(monkeypatch):
    vectors = clustered(1000)
    whole = quantize("rq_kmeans", vectors)
    monkeypatch.setattr(kmeans, "CHUNK", 170)
    parts = quantize("rq_kmeans", vectors)
    np.testing.assert_array_equal(parts.codes, whole.codes)
    np.testing.assert_array_equal(parts.codec.encode(vectors), whole.codes)


def test_residual_costs_are_squared_distances_of_what_is_left():
    codec = ResidualCodec([np.array([[1, 0], [0, 1]], np.float32), np.array([[0, 0], [3, 4]], np.float32)])
    costs = codec.costs(np.array([[1, 1]], np.float32), np.array([[1]], np.int32))
    np.testing.assert_allclose(costs, [[1, 4 + 16]])


@pytest.mark.parametrize(("items", "codes"), [(300, 8), (301, 8), (307, 8), (40, 40), (1100, 4)])
def test_balanced_clusters_differ_by_at_most_one_on_every_level(items, codes):
    output = quantize("balanced_rq_kmeans", clustered(items, clusters=3), codes=codes)
    for column in output.codes.T:
        sizes = np.bincount(column, minlength=codes)
        assert set(sizes) <= {items // codes, -(-items // codes)}


@pytest.mark.parametrize("name", AWKWARD)
def test_balanced_clusters_of_degenerate_vectors_are_balanced_too(name):
    output = quantize("balanced_rq_kmeans", AWKWARD[name].astype(np.float32))
    for column, codes in zip(output.codes.T, output.sizes, strict=True):
        assert np.ptp(np.bincount(column, minlength=codes)) <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 10**6), st.booleans())
def test_balanced_assignment_costs_what_the_best_one_does(clusters, more, seed, crowded):
    rng = np.random.default_rng(seed)
    costs = rng.random((clusters + more, clusters)).astype(np.float32)
    costs[:, 0] *= 0.1 if crowded else 1
    sizes = even_sizes(costs.argmin(axis=1).astype(np.int32), clusters)
    assigned = assign_to_sizes(costs, sizes, rng.random(clusters))
    np.testing.assert_array_equal(np.bincount(assigned, minlength=clusters), sizes)
    slots = np.repeat(costs, sizes, axis=1)
    best = slots[linear_sum_assignment(slots)].sum()
    assert costs[np.arange(len(costs)), assigned].sum() == pytest.approx(best, rel=1e-4)


def test_product_parts_may_need_padding():
    vectors = clustered(200, dim=7)
    for kind in ("pq", "opq"):
        output = quantize(kind, vectors)
        assert output.codec.reconstruct(output.codes).shape == (200, 7)
        assert [book.shape for book in output.codec.codebooks] == [(8, 3)] * 3


def test_more_product_parts_than_dimensions_leave_the_rest_at_one_value():
    output = quantize("pq", clustered(50, dim=2), levels=4)
    assert errors(output, clustered(50, dim=2))[2:] == pytest.approx(
        [errors(output, clustered(50, dim=2))[2]] * 3
    )


def test_a_rotation_helps_where_the_parts_depend_on_each_other():
    rng = np.random.default_rng(0)
    halves = rng.standard_normal((500, 4))
    vectors = np.hstack([halves, halves + 0.01 * rng.standard_normal((500, 4))]).astype(np.float32)
    plain, rotated = (
        errors(quantize(kind, vectors, codes=16, levels=2), vectors)[-1] for kind in ("pq", "opq")
    )
    assert rotated < 0.95 * plain


def test_a_code_absent_below_a_node_costs_infinitely_much():
    mean, first = np.zeros(1, np.float32), np.array([[0], [10]], np.float32)
    second = np.array([[-1], [1], [10]], np.float32)
    codec = TreeCodec(
        mean, [first, second], [np.array([[0, 1]], np.int32), np.array([[0, 1], [2, -1]], np.int32)]
    )
    vectors = np.array([[0.5], [9], [9]], np.float32)
    np.testing.assert_array_equal(codec.encode(vectors[:2]), [[0, 1], [1, 0]])
    costs = codec.costs(vectors, np.array([[0], [1], [0]], np.int32))
    np.testing.assert_allclose(costs, [[2.25, 0.25], [1, np.inf], [100, 64]])
    unknown = np.array([[1, 1]], np.int32)
    assert np.isinf(codec.costs(vectors[:1], np.array([[1]], np.int32))[0, 1])
    np.testing.assert_array_equal(codec.reconstruct(unknown), [[10]])


def test_hierarchical_items_share_a_code_only_within_their_cluster():
    vectors = clustered(300)
    output = quantize("hierarchical", vectors, codes="auto", levels=2)
    assert output.sizes == [32, 32]
    for code in np.unique(output.codes[:, 0]):
        below = np.unique(output.codes[output.codes[:, 0] == code, 1])
        np.testing.assert_array_equal(below, np.arange(len(below)))


def test_hash_costs_add_up_the_distances_to_the_planes_crossed():
    vectors = clustered(50)
    codec = quantize("lsh", vectors, codes=4, levels=1).codec
    heights = np.abs((vectors - codec.mean) @ codec.planes[0].T)
    own = codec.encode(vectors)[:, 0]
    costs = codec.costs(vectors, np.empty((50, 0), np.int32))
    for flipped, expected in ((0, 0), (2, heights[:, 0]), (1, heights[:, 1]), (3, heights.sum(axis=1))):
        np.testing.assert_allclose(costs[np.arange(50), own ^ flipped], expected, rtol=1e-4, atol=1e-6)


def test_a_hash_needs_a_power_of_two():
    with pytest.raises(UserError, match="power of two, not 100; take 64 or 128"):
        quantize("lsh", clustered(200), codes=100)
