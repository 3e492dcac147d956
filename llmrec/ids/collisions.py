"""Collision rules, which make semantic IDs unique: one more level, or moves from shared paths to free paths."""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import NDArray

from llmrec.config.ids import CollisionRule, IdsConfig
from llmrec.ids.paths import number_prefixes, rank_within
from llmrec.ids.tokenizer import Codec, Codes

MOVES: tuple[CollisionRule, ...] = ("sinkhorn", "next_best")
"""Rules that need no further level, but vectors and a quantizer to find free paths by."""
SINKHORN_ROUNDS = 20
SINKHORN_EPSILON, SINKHORN_ITERATIONS = 0.003, 50


def adds_level(settings: IdsConfig) -> bool:
    """Whether semantic IDs get one more level than the tokenizer's paths, as far as the settings tell.

    A tokenizer may find unique paths although it need not, and a rule that moves items may find too few.
    """
    tokenizer = settings.quantizer
    can_move = settings.collision_rule in MOVES and tokenizer.reads_vectors
    return not (tokenizer.has_unique_paths or can_move)


def resolve_collisions(
    tokenizer_output: Codes, rule: CollisionRule, vectors: NDArray[np.float32] | None
) -> tuple[NDArray[np.int32], list[int]]:
    """Make semantic IDs unique, from code paths that several items may share.

    Args:
        tokenizer_output: code paths and frozen quantizer of a tokenizer.
        rule: `extra_level` numbers the items of a path. `own_code` gives each item a code that no other has.
            `next_best` moves all but one item of a path to the nearest free path. `sinkhorn` first spreads the items
            over the last level (LC-Rec), then applies `next_best`. If there are too few paths, both are replaced by
            `extra_level`, with a notice.
        vectors: item vectors `[items, dim]`; not needed for one more level.

    Returns:
        Semantic IDs, int32 `[items, levels]`, and the number of codes of each level.
    """
    if tokenizer_output.unique:
        return tokenizer_output.codes, tokenizer_output.sizes
    if rule in MOVES and tokenizer_output.codec is not None and vectors is not None:
        points = tokenizer_output.codec.project(vectors)
        codes = (
            spread_by_sinkhorn(tokenizer_output.codes, points, tokenizer_output.codec)
            if rule == "sinkhorn"
            else tokenizer_output.codes
        )
        moved = next_best(codes, points, tokenizer_output.codec)
        if moved is not None:
            return moved, tokenizer_output.sizes
        print(
            f"ids.collisions: {rule} finds no free path for {len(codes)} items with {tokenizer_output.sizes} codes; "
            "one more level separates them",
            file=sys.stderr,
        )
    codes = tokenizer_output.codes
    extra = np.arange(len(codes), dtype=np.int32) if rule == "own_code" else extra_level(codes)
    return np.column_stack([codes, extra]), [*tokenizer_output.sizes, int(extra.max()) + 1]


def extra_level(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Codes of the extra level, int32 `[items]` (Rajput et al. 2023, TIGER).

    The items of one code path get 0, 1, … in catalogue order. An item alone on its path gets 0.

    Args:
        codes: int32 `[items, levels]`.
    """
    return rank_within(number_prefixes(codes)[-1]).astype(np.int32)


def spread_by_sinkhorn(
    codes: NDArray[np.int32], points: NDArray[np.float32], codec: Codec
) -> NDArray[np.int32]:
    """Spread the items of each shared path over the codes of the last level (Zheng et al. 2024, LC-Rec).

    Sinkhorn-Knopp assigns the items of each shared path anew, by their distances to the last level's codes. A group
    may move to paths that other items have, so this is repeated for up to 20 rounds. Remaining collisions stay.

    Args:
        codes: int32 `[items, levels]`.
        points: float32 `[items, d]`, projected by the quantizer.
        codec: the frozen quantizer.
    """
    import torch

    from llmrec.ids.codecs.sinkhorn import even_codes

    codes = codes.copy()
    for _ in range(SINKHORN_ROUNDS):
        _, path, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        shared = np.flatnonzero(sizes > 1)
        if not len(shared):
            break
        order = np.argsort(path.reshape(-1), kind="stable")
        ends = np.cumsum(sizes)
        for group in shared.tolist():
            items = order[ends[group] - sizes[group] : ends[group]]
            costs = codec.costs(points[items], codes[items, :-1])
            even = even_codes(torch.from_numpy(costs), SINKHORN_EPSILON, SINKHORN_ITERATIONS)
            codes[items, -1] = even.numpy()
    return codes


def next_best(
    codes: NDArray[np.int32], points: NDArray[np.float32], codec: Codec
) -> NDArray[np.int32] | None:
    """Move all but the first item of every path to the cheapest free path, int32 `[items, levels]`.

    An item keeps the longest prefix of its path under which a path is free: the codes of the last level are tried
    first, in order of cost, then the codes of the last two levels, and so on.

    Args:
        codes: int32 `[items, levels]`.
        points: float32 `[items, d]`, projected by the quantizer.
        codec: the frozen quantizer.

    Returns:
        The new paths, or None if there are fewer paths than items.
    """
    if len(codes) > math.prod(codec.sizes):
        return None
    codes = codes.copy()
    movers = np.flatnonzero(extra_level(codes))
    taken = {tuple(path) for path in codes.tolist()}
    for item in movers.tolist():
        path = free_path(points[item : item + 1], codes[item], codec, taken)
        if path is None:
            return None
        taken.add(tuple(path))
        codes[item] = path
    return codes


def free_path(
    point: NDArray[np.float32], path: NDArray[np.int32], codec: Codec, taken: set[tuple[int, ...]]
) -> list[int] | None:
    """The cheapest free path that keeps the longest possible prefix of `path`; None if no path is free.

    Args:
        point: float32 `[1, d]`, the item's vector, projected by the quantizer.
        path: int32 `[levels]`, the path that the quantizer gives the item.
        codec: the frozen quantizer.
        taken: paths in use.
    """
    for kept in range(codec.levels - 1, -1, -1):
        free = _cheapest_below(point, path[None, :kept], codec, taken)
        if free is not None:
            return free
    return None


def _cheapest_below(
    point: NDArray[np.float32], prefix: NDArray[np.int32], codec: Codec, taken: set[tuple[int, ...]]
) -> list[int] | None:
    """The first free path under a prefix, trying codes in order of cost; None if no path is free."""
    costs = codec.costs(point, prefix)[0]
    for code in np.argsort(costs, kind="stable").tolist():
        if not np.isfinite(costs[code]):
            break
        longer = np.column_stack([prefix, np.array([[code]], np.int32)])
        if longer.shape[1] < codec.levels:
            free = _cheapest_below(point, longer, codec, taken)
            if free is not None:
                return free
        elif tuple(longer[0].tolist()) not in taken:
            path: list[int] = longer[0].tolist()
            return path
    return None


def count_collisions(codes: NDArray[np.int32]) -> dict[str, float]:
    """Count the items that share their code path with another item.

    Args:
        codes: int32 `[items, levels]`.

    Returns:
        `items`: items on shared paths; `sids`: number of shared paths; `largest`: items on the most crowded one;
        `rate`: `items` / all items; `surplus`: all items minus distinct paths.
    """
    _, sizes = np.unique(codes, axis=0, return_counts=True)
    shared = sizes[sizes > 1]
    return {
        "items": int(shared.sum()),
        "sids": len(shared),
        "surplus": int(len(codes) - len(sizes)),
        "largest": int(sizes.max()),
        "rate": float(shared.sum() / len(codes)),
    }
