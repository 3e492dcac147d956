"""Semantic IDs of items that are added after training, from the frozen quantizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.config import Recipe
from llmrec.errors import UserError
from llmrec.ids.codecs.kmeans import chunks
from llmrec.ids.collisions import free_path
from llmrec.ids.inputs.fusion import Fusion
from llmrec.ids.inputs.fusions import read_fusion
from llmrec.ids.inputs.text import item_texts
from llmrec.ids.inputs.vectors import encode, read_vectors
from llmrec.ids.paths import number_prefixes, rank_within
from llmrec.ids.tokenizer import Codec

DISTANCES, FUSION = "distances.npy", "fusion.safetensors"


def new_item_vectors(
    run: Path, recipe: Recipe, items: pl.DataFrame, files: dict[str, Path], order: str
) -> NDArray[np.float32]:
    """Vectors of new items, made in the same way as those of the training items: float32 `[items, dim]`.

    Args:
        run: the run folder.
        recipe: the run's recipe.
        items: `item_id, title`, and further fields.
        files: input (`vectors`, `images`) → file with the new items' vectors.
        order: name of the file that lists the items, for messages.

    Raises:
        UserError: a file for an input that the run does not use, or an item without a vector in any input.
    """
    inputs, names = recipe.ids.inputs, items["item_id"].to_list()
    unused = next((name for name in files if name not in inputs), None)
    if unused is not None:
        raise UserError(f"--{unused}: this run's IDs were made from {', '.join(inputs)}, not from {unused}")
    parts: dict[str, NDArray[np.float32]] = {}
    for name in inputs:
        if name == "text":
            parts[name] = encode(item_texts(items, recipe.ids.encoder.fields), recipe.ids.encoder)
        elif name in files:
            parts[name] = read_vectors(files[name], names, partial=len(inputs) > 1, order=order)
    if not parts:
        raise UserError(
            f"this run's IDs were made from {', '.join(inputs)}: give the new items' (--vectors, --images); "
            "new items have no collaborative vectors before training"
        )
    fusion = _load_fusion(run)
    if fusion is None:
        return next(iter(parts.values()))
    for part, length in fusion.dims.items():
        parts.setdefault(part, np.full((len(items), length), np.nan, np.float32))
    missing = {part: np.asarray(np.isnan(vectors).all(axis=1)) for part, vectors in parts.items()}
    return fusion.apply(parts, missing)


def own_part(run: Path, recipe: Recipe, files: dict[str, Path]) -> NDArray[np.bool_] | None:
    """Which numbers of their vectors new items have of themselves, bool `[dim]`; None for all of them.

    The others are predicted, as all that comes from collaborative vectors is.

    Args:
        run: the run folder.
        recipe: the run's recipe.
        files: as for `new_item_vectors`.
    """
    fusion = _load_fusion(run)
    return None if fusion is None else fusion.part_of({*files, "text"} & {*recipe.ids.inputs})


def assign_ids(
    codec: Codec,
    vectors: NDArray[np.float32],
    taken: NDArray[np.int32],
    sizes: Sequence[int],
    own_codes: bool = False,
) -> NDArray[np.int32]:
    """Semantic IDs of new items, distinct from each other and from all earlier IDs.

    The frozen quantizer gives the path, and items take the next free codes of the extra level. If that level is full
    (or absent and the path is taken), an item moves to the cheapest free path that keeps the longest prefix of its
    own. Only codes with tokens in the model are used. With codes of their own, new items have the quantizer's path
    and the codes after all others, for which the model has no tokens yet.

    Args:
        codec: the frozen quantizer.
        vectors: float32 `[n, dim]`.
        taken: int32 `[m, levels]`, semantic IDs that are in use, including those of retired items.
        sizes: number of codes of each level of the trained items, with the extra level last.
        own_codes: whether each item has a code of its own (`has_own_codes`).

    Returns:
        int32 `[n, levels]`.

    Raises:
        UserError: vectors of another length, other levels than the quantizer's, or no free path.
    """
    _check(codec, vectors, sizes)
    levels = codec.levels
    if own_codes:
        own = max(sizes[-1], int(taken[:, -1].max()) + 1) + np.arange(len(vectors))
        return np.column_stack([codec.encode(vectors), own]).astype(np.int32)
    room = math.prod(sizes) - len(taken)
    if len(vectors) > room:
        raise UserError(f"{len(vectors)} new items, but only {room} semantic IDs are free; train again")
    capacity = sizes[-1] if len(sizes) > levels else 1
    paths = codec.encode(vectors)
    all_paths = np.concatenate([taken[:, :levels], paths])
    number = number_prefixes(all_paths)[-1]
    old, new = number[: len(taken)], number[len(taken) :]
    next_slot = np.zeros(number.max() + 1, np.int64)
    np.maximum.at(next_slot, old, taken[:, levels] + 1 if len(sizes) > levels else 1)
    slots = next_slot[new] + rank_within(new)
    moved = np.flatnonzero(slots >= capacity)
    if len(moved):
        next_slot = np.minimum(next_slot + np.bincount(new, minlength=len(next_slot)), capacity)
        _, first = np.unique(number, return_index=True)
        free = dict(zip(map(tuple, all_paths[first].tolist()), next_slot.tolist(), strict=True))
        paths[moved], slots[moved] = _move_to_free_paths(codec, vectors[moved], paths[moved], free, capacity)
    return np.column_stack([paths, slots]).astype(np.int32)[:, : len(sizes)]


def has_own_codes(recipe: Recipe, codec: Codec, sids: NDArray[np.int32]) -> bool:
    """Whether each item has a code that no other has, on a level behind the quantizer's (`own_code`).

    Args:
        recipe: the recipe of the run that the IDs belong to.
        codec: its frozen quantizer.
        sids: int32 `[items, levels]`, semantic IDs of all its items.
    """
    ids = recipe.ids
    # Kept IDs have the rule of an earlier run.
    may = ids.collisions == "own_code" or ids.quantizer.kind == "kept"
    return may and sids.shape[1] > codec.levels and len(np.unique(sids[:, -1])) == len(sids)


def distances(codec: Codec, vectors: NDArray[np.float32], sids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Euclidean distance of each vector from the reconstruction of its codes, float32 `[n]`."""
    parts = [
        np.linalg.norm(vectors[rows] - codec.reconstruct(sids[rows, : codec.levels]), axis=1)
        for rows in chunks(len(vectors))
    ]
    return np.concatenate(parts).astype(np.float32)


def save_distances(folder: Path, codec: Codec, vectors: NDArray[np.float32], sids: NDArray[np.int32]) -> None:
    """Write percentiles 0 … 100 of the training items' distances, for comparison with new items."""
    scale = np.percentile(distances(codec, vectors, sids), np.arange(101)).astype(np.float32)
    np.save(folder / DISTANCES, scale, allow_pickle=False)


def percentiles(run: Path, distances: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Share of the training items with a smaller distance, in %, float32 `[n]`; None without `distances.npy`."""
    path = run / "ids" / DISTANCES
    if not path.is_file():
        return None
    scale = np.load(path, allow_pickle=False)
    return np.interp(distances, scale, np.arange(len(scale), dtype=np.float32)).astype(np.float32)


def _load_fusion(run: Path) -> Fusion | None:
    from safetensors.numpy import load_file

    path = run / "ids" / FUSION
    return read_fusion(load_file(path)) if path.is_file() else None


def _check(codec: Codec, vectors: NDArray[np.float32], sizes: Sequence[int]) -> None:
    dim = codec.reconstruct(np.zeros((1, 0), np.int32)).shape[1]
    if vectors.shape[1] != dim:
        raise UserError(f"the new items' vectors have {vectors.shape[1]} numbers, the run's have {dim}")
    if list(sizes[: codec.levels]) != list(codec.sizes) or len(sizes) - codec.levels not in (0, 1):
        raise UserError(
            f"the model has tokens for {list(sizes)} codes a level, the quantizer has {list(codec.sizes)}; "
            "run the stage sft again"
        )


def _move_to_free_paths(
    codec: Codec,
    vectors: NDArray[np.float32],
    paths: NDArray[np.int32],
    free: dict[tuple[int, ...], int],
    capacity: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Paths and slots of items whose own path is full.

    `free` maps each path in use to its next free slot, and is changed in place.
    """
    full = {path for path, slot in free.items() if slot >= capacity}
    new_paths = np.empty_like(paths)
    slots = np.empty(len(paths), np.int64)
    points = codec.project(vectors)
    for item, full_path in enumerate(paths):
        cheapest = free_path(points[item : item + 1], full_path, codec, full)
        if cheapest is None:
            raise UserError(
                f"items: every path of {codec.sizes} codes is taken; train with more levels or codes"
            )
        path = tuple(cheapest)
        new_paths[item] = path
        slots[item] = free.get(path, 0)
        free[path] = int(slots[item]) + 1
        if free[path] >= capacity:
            full.add(path)
    return new_paths, slots
