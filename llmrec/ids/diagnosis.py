"""Quality of semantic IDs: code use, collisions, reconstruction error, category purity, neighbour recall."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.residual import mean_vector
from llmrec.ids.collisions import count_collisions
from llmrec.ids.paths import number_prefixes
from llmrec.ids.tokenizer import Codec, Codes
from llmrec.ids.tokens import level_letter

NEIGHBOURS, SAMPLE = 10, 1000
# Rows of one step; this bounds the memory for a large catalogue.
_QUERIES, _ROWS = 32, 65_536


def diagnose(
    sids: NDArray[np.int32],
    sizes: list[int],
    tokenizer_output: Codes,
    vectors: NDArray[np.float32] | None,
    categories: list[list[str]] | None,
    traffic: NDArray[np.int64],
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of `ids/report.json`, defined in the functions below; None if the data for a figure is missing.

    Args:
        sids: int32 `[items, levels]`, unique.
        sizes: codes of each level.
        tokenizer_output: the tokenizer's code paths before the collision rule, and its frozen quantizer.
        vectors: float32 `[items, dim]`, or None.
        categories: each item's categories, broadest first, or None.
        traffic: training interactions of each item, int64 `[items]`.
        seed: seed of the shuffle and the sample.
    """
    error = None
    if tokenizer_output.codec is not None and vectors is not None:
        error = variance_left(tokenizer_output.codec, sids[:, : tokenizer_output.codec.levels], vectors)
    before = count_collisions(tokenizer_output.codes) | {
        "traffic": shared_traffic(tokenizer_output.codes, traffic)
    }
    return {
        "items": len(sids),
        "levels": describe_levels(sids, sizes),
        "collisions": {"before": before, "after": count_collisions(sids)["items"]},
        "reconstruction_error": error,
        "purity": prefix_purity(sids, categories, seed) if categories is not None else None,
        "neighbours": neighbour_recall(sids, vectors, seed) if vectors is not None else None,
    }


def describe_levels(sids: NDArray[np.int32], sizes: list[int]) -> list[dict[str, Any]]:
    """How evenly the codes of each level are used, and how finely the prefixes up to it divide the catalogue.

    Args:
        sids: int32 `[items, levels]`.
        sizes: codes of each level.

    Returns:
        For each level: `name`; `codes`: their number; `used`: codes with at least one item; `use` = used / codes;
        `entropy` = −Σ p log2 p over the shares p of items with each code, in bits; `max_entropy` = log2 codes;
        `perplexity` = 2^entropy, the number of equally used codes with this entropy; and for prefixes up to and with
        this level, `prefixes.distinct`: their number, and `prefixes.largest`: items under the most common one.
    """
    levels = []
    for level, (size, group) in enumerate(zip(sizes, number_prefixes(sids), strict=True)):
        counts = np.bincount(sids[:, level], minlength=size)
        share = counts[counts > 0] / len(sids)
        entropy = max(0.0, float(-(share * np.log2(share)).sum()))
        under = np.bincount(group)
        levels.append(
            {
                "name": level_letter(level),
                "codes": size,
                "used": len(share),
                "use": len(share) / size,
                "entropy": entropy,
                "max_entropy": math.log2(size),
                "perplexity": 2**entropy,
                "prefixes": {"distinct": len(under), "largest": int(under.max())},
            }
        )
    return levels


def shared_traffic(codes: NDArray[np.int32], traffic: NDArray[np.int64]) -> float | None:
    """Share of the training interactions whose item shares its code path with another item.

    Args:
        codes: int32 `[items, levels]`.
        traffic: training interactions of each item, int64 `[items]`.

    Returns:
        A share between 0 and 1; None if there are no interactions.
    """
    path = number_prefixes(codes)[-1]
    shared = np.bincount(path)[path] > 1
    total = int(traffic.sum())
    return float(traffic[shared].sum() / total) if total else None


def variance_left(codec: Codec, codes: NDArray[np.int32], vectors: NDArray[np.float32]) -> list[float]:
    """Share of the variance that is left after 1, 2, … levels: Σ‖x − x̂‖² / Σ‖x − x̄‖².

    It is above 1 if the reconstructions are worse than the mean. This can happen for a codec that was trained with a
    contrastive loss. It is 0 if all vectors are equal.

    Args:
        codec: the frozen quantizer.
        codes: int32 `[items, levels]`.
        vectors: float32 `[items, dim]`, with mean x̄.
    """
    mean = mean_vector(vectors)
    errors, total = np.zeros(codes.shape[1]), 0.0
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS]
        total += float(np.square(rows - mean).sum(dtype=np.float64))
        for level in range(codes.shape[1]):
            rebuilt = codec.reconstruct(codes[start : start + _ROWS, : level + 1])
            errors[level] += float(np.square(rows - rebuilt).sum(dtype=np.float64))
    return [float(value / total) if total > 0 else 0.0 for value in errors]


def prefix_purity(
    sids: NDArray[np.int32], categories: list[list[str]], seed: int = 0
) -> dict[str, Any] | None:
    """Whether items under one prefix belong to one category.

    Purity of a level: share of items that have the most frequent category of their group. A group consists of the
    items with the same codes up to and with this level. Small groups are pure by chance, so `chance` gives the same
    figure for items shuffled over the groups. Items without a category at the compared depth are left out.

    Args:
        sids: int32 `[items, levels]`.
        categories: each item's categories, broadest first.
        seed: seed of the shuffle.

    Returns:
        `depth`: depth of the compared categories, from 1 (`category_depth`); `categories` and `items`: their numbers
        at this depth; `purity` and `chance`: one number a level. None if no item has a category.
    """
    depth = category_depth(categories)
    if depth is None:
        return None
    labelled = np.flatnonzero([len(row) >= depth for row in categories])
    names = [categories[item][depth - 1] for item in labelled.tolist()]
    labels = np.unique(names, return_inverse=True)[1].reshape(-1)
    shuffled = np.random.default_rng(seed).permutation(labels)
    groups = number_prefixes(sids[labelled])
    return {
        "depth": depth,
        "categories": int(labels.max()) + 1,
        "items": len(labelled),
        "purity": [_purity(group, labels) for group in groups],
        "chance": [_purity(group, shuffled) for group in groups],
    }


def category_depth(categories: list[list[str]]) -> int | None:
    """The first depth, from 1, at which no category has more than half of the items with a category there.

    Shops often put all items under one first category, which carries no information. If every depth has such a
    category, the depth at which it is smallest is returned. None if no item has a category.
    """
    shares = []
    for depth in range(max(map(len, categories), default=0)):
        counts = Counter(row[depth] for row in categories if len(row) > depth)
        shares.append(max(counts.values()) / counts.total())
        if shares[-1] <= 0.5:
            break
    return shares.index(min(shares)) + 1 if shares else None


def neighbour_recall(
    sids: NDArray[np.int32], vectors: NDArray[np.float32], seed: int = 0
) -> dict[str, Any] | None:
    """Share of an item's 10 nearest items by cosine that are among the 10 items with the longest shared prefix.

    The mean is over a seeded sample of at most 1000 items. Items with equally long shared prefixes are in random
    order, and the figure is the expectation over such orders. For an item with the k nearest items N it is
    (|N ∩ longer| + |N ∩ tied| · places / |tied|) / k. Here `tied` are the items whose shared prefix is as long as
    that of the k-th item, `longer` those with a longer one, and `places` = k − |longer|.

    Args:
        sids: int32 `[items, levels]`.
        vectors: float32 `[items, dim]`.
        seed: seed of the sample.

    Returns:
        `k`: 10, or the number of items minus 1 if that is less; `sample`: number of sampled items; `recall`;
        `chance`: recall of unrelated IDs, k / (items − 1). None for a single item.
    """
    items = len(sids)
    k = min(NEIGHBOURS, items - 1)
    if k < 1:
        return None
    sample = np.sort(np.random.default_rng(seed).permutation(items)[:SAMPLE])
    norms = np.maximum(np.sqrt(np.einsum("id,id->i", vectors, vectors)), np.float32(1e-12))
    recalls = []
    for start in range(0, len(sample), _QUERIES):
        queries = sample[start : start + _QUERIES]
        itself = (np.arange(len(queries)), queries)
        cosine = vectors[queries] @ vectors.T / norms
        cosine[itself] = -np.inf
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        shared = _shared_levels(sids, queries)
        shared[itself] = -1
        recalls += [_expected_recall(*row, k) for row in zip(shared, nearest, strict=True)]
    return {"k": k, "sample": len(sample), "recall": float(np.mean(recalls)), "chance": k / (items - 1)}


def _expected_recall(shared: NDArray[np.int8], nearest: NDArray[np.int64], k: int) -> float:
    last = np.partition(shared, -k)[-k]
    longer, tied = int((shared > last).sum()), int((shared == last).sum())
    hits = (shared[nearest] > last).sum() + (shared[nearest] == last).sum() * (k - longer) / tied
    return float(hits / k)


def _shared_levels(sids: NDArray[np.int32], queries: NDArray[np.int64]) -> NDArray[np.int8]:
    """Length of the prefix that each query item shares with every item, int8 `[queries, items]`."""
    is_shared = np.ones((len(queries), len(sids)), bool)
    length = np.zeros(is_shared.shape, np.int8)
    for level in range(sids.shape[1]):
        is_shared &= sids[queries, level][:, None] == sids[:, level]
        length += is_shared
    return length


def _purity(group: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of items that have the most frequent label of their group."""
    pairs, counts = np.unique(np.column_stack([group, labels]), axis=0, return_counts=True)
    largest = np.zeros(int(group.max()) + 1, np.int64)
    np.maximum.at(largest, pairs[:, 0], counts)
    return float(largest.sum() / len(group))
