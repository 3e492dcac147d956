"""Residual k-means, the extra level and their diagnostics."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmrec.ids.collisions import count_collisions, extra_codebook, extra_level
from llmrec.ids.report import describe_levels
from llmrec.ids.rq_kmeans import auto_codes, quantize


def clustered(items: int, dim: int = 16, clusters: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((clusters, dim))
    return (centres[np.arange(items) % clusters] + 0.1 * rng.standard_normal((items, dim))).astype(np.float32)


def test_centroids_and_residuals_add_up_to_the_vectors():
    vectors = clustered(300)
    found = quantize(vectors, levels=3, codes=8, iterations=10, seed=1)
    rebuilt = sum(book[found.codes[:, level]] for level, book in enumerate(found.codebooks))
    np.testing.assert_allclose(rebuilt + found.residuals, vectors, atol=1e-5)
    assert found.codes.shape == (300, 3) and found.codes.dtype == np.int32


def test_every_item_gets_the_nearest_centroid():
    vectors = clustered(200)
    found = quantize(vectors, levels=1, codes=8, iterations=10, seed=1)
    distances = ((vectors[:, None] - found.codebooks[0][None]) ** 2).sum(-1)
    np.testing.assert_array_equal(found.codes[:, 0], distances.argmin(1))


def test_each_level_explains_more():
    errors = quantize(clustered(300), levels=4, codes=8, iterations=10, seed=1).errors
    assert errors == sorted(errors, reverse=True) and errors[0] < 1


def test_the_seed_decides():
    vectors = clustered(300)
    first, again, other = (quantize(vectors, 2, 16, 10, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.codes, again.codes)
    assert (first.codes != other.codes).any()


@pytest.mark.parametrize("vectors", [np.ones((20, 4)), np.zeros((5, 4)), np.tile(np.eye(4), (10, 1))])
def test_duplicate_vectors_give_finite_codebooks(vectors):
    found = quantize(vectors.astype(np.float32), levels=3, codes=8, iterations=5, seed=0)
    assert all(np.isfinite(book).all() for book in found.codebooks)
    assert np.isfinite(found.errors).all() and found.errors[-1] < 1e-6


def test_never_more_codes_than_items():
    found = quantize(clustered(5), levels=2, codes=256, iterations=5, seed=0)
    assert [len(book) for book in found.codebooks] == [5, 5]


@pytest.mark.parametrize(("items", "codes"), [(1, 2), (100, 16), (1682, 64), (12_101, 256), (10**7, 256)])
def test_auto_codes_follow_the_catalogue(items, codes):
    assert auto_codes(items) == codes


paths = arrays.arrays(np.int32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 3))


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


def test_the_extra_codebook_is_the_mean_residual():
    residuals = np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]], dtype=np.float32)
    book = extra_codebook(np.array([0, 0, 1], dtype=np.int32), residuals)
    np.testing.assert_allclose(book, [[2.0, 1.0], [5.0, 5.0]])


def test_entropy_of_even_and_of_single_use():
    sids = np.column_stack([np.arange(8) % 4, np.zeros(8)]).astype(np.int32)
    even, single = describe_levels(sids, [8, 2])
    assert even == {"name": "a", "codes": 8, "used": 4, "entropy": 2.0, "max_entropy": 3.0}
    assert (single["used"], single["entropy"], single["max_entropy"]) == (1, 0.0, math.log2(2))
