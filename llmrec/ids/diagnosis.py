"""Diagnosis of semantic IDs: how full, how unique, how true to vectors, categories and neighbours they are."""

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
# Rows at a time, which bounds the memory that a large catalogue takes.
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
    """The figures of `ids/report.json`, defined in the functions below; null where there is nothing to judge by.

    Args:
        sids: int32 `[items, levels]`, unique.
        sizes: codes of each level.
        tokenizer_output: code paths as the tokenizer gave them, before the collision rule.
        vectors: float32 `[items, dim]`, or None.
        categories: each item's categories from the widest on, or None.
        traffic: training interactions of each item, int64 `[items]`.
        seed: of the shuffle and the sample.
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
    """How evenly each level's codes are used, and how far the prefixes that end there part the catalogue.

    Args:
        sids: int32 `[items, levels]`.
        sizes: codes of each level.

    Returns:
        For each level: `name`; `codes` there are, `used` by an item, `use` = used / codes; `entropy` =
        −Σ p log2 p over the shares p of items with each code, in bits, `max_entropy` = log2 codes,
        `perplexity` = 2^entropy, as many equally used codes as would be as uneven; and of the prefixes up to
        and with this level, `prefixes.distinct` and the items under the `largest`.
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
    """Share of the training interactions that fall on items whose code path another item has too.

    Args:
        codes: int32 `[items, levels]`.
        traffic: training interactions of each item, int64 `[items]`.

    Returns:
        Between 0 and 1; None without any interaction.
    """
    path = number_prefixes(codes)[-1]
    shared = np.bincount(path)[path] > 1
    total = int(traffic.sum())
    return float(traffic[shared].sum() / total) if total else None


def variance_left(codec: Codec, codes: NDArray[np.int32], vectors: NDArray[np.float32]) -> list[float]:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖² for each number of levels from 1 on: the share of the variance that is left.

    Above 1 where the codec's vectors are worse than the mean, as those of a codec trained to tell items
    apart rather than to rebuild them may be. 0 where all vectors are the same.

    Args:
        codec: the frozen quantizer.
        codes: int32 `[items, levels]`.
        vectors: float32 `[items, dim]`, the mean of which is x̄.
    """
    mean = mean_vector(vectors)
    left, total = np.zeros(codes.shape[1]), 0.0
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS]
        total += float(np.square(rows - mean).sum(dtype=np.float64))
        for level in range(codes.shape[1]):
            rebuilt = codec.reconstruct(codes[start : start + _ROWS, : level + 1])
            left[level] += float(np.square(rows - rebuilt).sum(dtype=np.float64))
    return [float(value / total) if total > 0 else 0.0 for value in left]


def prefix_purity(
    sids: NDArray[np.int32], categories: list[list[str]], seed: int = 0
) -> dict[str, Any] | None:
    """How far items under one prefix are of one category.

    Purity of a level: the items that have the most frequent category of their prefix group, as a share of all
    items; groups are the items with the same codes up to and with this level. Small groups are pure by
    themselves, so `chance` gives the same for items shuffled over the groups. Items without a category at the
    depth compared are left out.

    Args:
        sids: int32 `[items, levels]`.
        categories: each item's categories, from the widest on.
        seed: of the shuffle.

    Returns:
        `depth`, from 1, of the categories compared (`category_depth`); `categories` and `items` there are;
        `purity` and `chance`, a number a level. None where no item has a category.
    """
    depth = category_depth(categories)
    if depth is None:
        return None
    known = np.flatnonzero([len(row) >= depth for row in categories])
    names = [categories[item][depth - 1] for item in known.tolist()]
    labels = np.unique(names, return_inverse=True)[1].reshape(-1)
    shuffled = np.random.default_rng(seed).permutation(labels)
    groups = number_prefixes(sids[known])
    return {
        "depth": depth,
        "categories": int(labels.max()) + 1,
        "items": len(known),
        "purity": [_purity(group, labels) for group in groups],
        "chance": [_purity(group, shuffled) for group in groups],
    }


def category_depth(categories: list[list[str]]) -> int | None:
    """The first depth, from 1, at which no category holds more than half of the items that have one there.

    Shops put everything under one first category, which tells nothing. Where every depth has such a
    category, the depth at which it is smallest; None where no item has a category.
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
    """How many of an item's 10 nearest items by cosine are among the 10 that share the longest prefix with it.

    Over a seeded sample of at most 1000 items. Items that share equally long prefixes are in random order:
    the figure is the expectation over such orders, for an item with k neighbours
    (|N ∩ longer| + |N ∩ tied| · places / |tied|) / k, where `longer` share a longer prefix than the one that
    the k-th place falls on, `tied` share just that, and `places` = k − |longer|.

    Args:
        sids: int32 `[items, levels]`.
        vectors: float32 `[items, dim]`.
        seed: of the sample.

    Returns:
        `k` (10, or one less than there are items); `sample`, the items asked; `recall`; and `chance`, the
        recall of unrelated IDs, k / (items − 1). None for a single item.
    """
    items = len(sids)
    k = min(NEIGHBOURS, items - 1)
    if k < 1:
        return None
    sample = np.sort(np.random.default_rng(seed).permutation(items)[:SAMPLE])
    norms = np.maximum(np.sqrt(np.einsum("id,id->i", vectors, vectors)), np.float32(1e-12))
    recalls = []
    for start in range(0, len(sample), _QUERIES):
        asked = sample[start : start + _QUERIES]
        own = (np.arange(len(asked)), asked)
        cosine = vectors[asked] @ vectors.T / norms
        cosine[own] = -np.inf
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        shared = _shared_levels(sids, asked)
        shared[own] = -1
        recalls += [_expected_recall(*row, k) for row in zip(shared, nearest, strict=True)]
    return {"k": k, "sample": len(sample), "recall": float(np.mean(recalls)), "chance": k / (items - 1)}


def _expected_recall(shared: NDArray[np.int8], nearest: NDArray[np.int64], k: int) -> float:
    last = np.partition(shared, -k)[-k]
    longer, tied = int((shared > last).sum()), int((shared == last).sum())
    hits = (shared[nearest] > last).sum() + (shared[nearest] == last).sum() * (k - longer) / tied
    return float(hits / k)


def _shared_levels(sids: NDArray[np.int32], asked: NDArray[np.int64]) -> NDArray[np.int8]:
    """Length of the prefix that each item asked shares with every item, int8 `[asked, items]`."""
    alike = np.ones((len(asked), len(sids)), bool)
    length = np.zeros(alike.shape, np.int8)
    for level in range(sids.shape[1]):
        alike &= sids[asked, level][:, None] == sids[:, level]
        length += alike
    return length


def _purity(group: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of items with their group's most frequent label."""
    pairs, counts = np.unique(np.column_stack([group, labels]), axis=0, return_counts=True)
    largest = np.zeros(int(group.max()) + 1, np.int64)
    np.maximum.at(largest, pairs[:, 0], counts)
    return float(largest.sum() / len(group))
