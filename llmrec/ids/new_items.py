"""Semantic IDs for items that come after training, from the frozen quantizer."""

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
from llmrec.ids.inputs.text import item_texts
from llmrec.ids.inputs.vectors import encode, read_vectors
from llmrec.ids.paths import number_prefixes, rank_within
from llmrec.ids.tokenizer import Codec

DISTANCES, FUSION = "distances.npy", "fusion.safetensors"


def new_item_vectors(
    run: Path, recipe: Recipe, items: pl.DataFrame, files: dict[str, Path], order: str
) -> NDArray[np.float32]:
    """Vectors of new items, made as those of the training items were: float32 `[items, dim]`.

    Args:
        run: the run folder.
        recipe: its recipe.
        items: `item_id, title`, and further fields.
        files: input (`vectors`, `images`) → the file of the new items' own.
        order: the file that the items came from, for messages.

    Raises:
        UserError: a file of an input that the run has not, or an item for which no input gives a vector.
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
            "collaborative vectors there are none of before training"
        )
    fusion = _load_fusion(run)
    if fusion is None:
        return next(iter(parts.values()))
    for name, length in fusion.dims.items():
        parts.setdefault(name, np.full((len(items), length), np.nan, np.float32))
    return fusion.apply(parts, {name: np.isnan(part).all(axis=1) for name, part in parts.items()})


def assign_ids(
    codec: Codec, vectors: NDArray[np.float32], taken: NDArray[np.int32], sizes: Sequence[int]
) -> NDArray[np.int32]:
    """Semantic IDs of new items, unique among themselves and all that were ever given.

    The frozen quantizer gives the path. On it, items take the next codes of the extra level; where that has no
    more codes (or there is no such level and the path is taken), an item goes to the cheapest path with room,
    as long a prefix of its own kept as can be. Only codes that the model has tokens for are given.

    Args:
        codec: the frozen quantizer.
        vectors: float32 `[n, dim]`.
        taken: int32 `[m, levels]`, semantic IDs that were given before, those of retired items included.
        sizes: codes of each level that the model has tokens for, the extra level's last.

    Returns:
        int32 `[n, levels]`.

    Raises:
        UserError: vectors of another length, levels that are not the quantizer's, or no room.
    """
    _check(codec, vectors, taken, sizes)
    levels = codec.levels
    room = sizes[-1] if len(sizes) > levels else 1
    paths = codec.encode(vectors)
    known = np.concatenate([taken[:, :levels], paths])
    number = number_prefixes(known)[-1]
    before, here = number[: len(taken)], number[len(taken) :]
    following = np.zeros(number.max() + 1, np.int64)
    np.maximum.at(following, before, taken[:, levels] + 1 if len(sizes) > levels else 1)
    slots = following[here] + rank_within(here)
    moved = np.flatnonzero(slots >= room)
    if len(moved):
        following = np.minimum(following + np.bincount(here, minlength=len(following)), room)
        _, first = np.unique(number, return_index=True)
        free = dict(zip(map(tuple, known[first].tolist()), following.tolist(), strict=True))
        paths[moved], slots[moved] = _elsewhere(codec, vectors[moved], paths[moved], free, room)
    return np.column_stack([paths, slots]).astype(np.int32)[:, : len(sizes)]


def distances(codec: Codec, vectors: NDArray[np.float32], sids: NDArray[np.int32]) -> NDArray[np.float32]:
    """How far vectors lie from what their codes stand for: Euclidean, float32 `[n]`."""
    found = [
        np.linalg.norm(vectors[rows] - codec.reconstruct(sids[rows, : codec.levels]), axis=1)
        for rows in chunks(len(vectors))
    ]
    return np.concatenate(found).astype(np.float32)


def save_distances(folder: Path, codec: Codec, vectors: NDArray[np.float32], sids: NDArray[np.int32]) -> None:
    """Keep the percentiles 0 … 100 of the training items' distances, which new items are compared with."""
    scale = np.percentile(distances(codec, vectors, sids), np.arange(101)).astype(np.float32)
    np.save(folder / DISTANCES, scale, allow_pickle=False)


def percentiles(run: Path, found: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Which share of the training items lies nearer to the codebooks, in %, float32 `[n]`; None where not kept."""
    path = run / "ids" / DISTANCES
    if not path.is_file():
        return None
    scale = np.load(path, allow_pickle=False)
    return np.interp(found, scale, np.arange(len(scale), dtype=np.float32)).astype(np.float32)


def _load_fusion(run: Path) -> Fusion | None:
    from safetensors.numpy import load_file

    path = run / "ids" / FUSION
    return Fusion.from_tensors(load_file(path)) if path.is_file() else None


def _check(
    codec: Codec, vectors: NDArray[np.float32], taken: NDArray[np.int32], sizes: Sequence[int]
) -> None:
    dim = codec.reconstruct(np.zeros((1, 0), np.int32)).shape[1]
    if vectors.shape[1] != dim:
        raise UserError(f"the new items' vectors have {vectors.shape[1]} numbers, the run's have {dim}")
    if list(sizes[: codec.levels]) != list(codec.sizes) or len(sizes) - codec.levels not in (0, 1):
        raise UserError(
            f"the model knows {list(sizes)} codes a level, the quantizer gives {list(codec.sizes)}; "
            "run the stage sft again"
        )
    left = math.prod(sizes) - len(taken)
    if len(vectors) > left:
        raise UserError(f"{len(vectors)} new items, but only {left} semantic IDs are free; train again")


def _elsewhere(
    codec: Codec,
    vectors: NDArray[np.float32],
    paths: NDArray[np.int32],
    free: dict[tuple[int, ...], int],
    room: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Paths and slots of items whose own path is full; `free` holds each known path's next slot."""
    full = {path for path, slot in free.items() if slot >= room}
    found, slots = np.empty_like(paths), np.empty(len(paths), np.int64)
    points = codec.project(vectors)
    for item, own in enumerate(paths):
        free_one = free_path(points[item : item + 1], own, codec, full)
        if free_one is None:
            raise UserError(
                f"items: every path of {codec.sizes} codes is taken; train with more levels or codes"
            )
        path = tuple(free_one)
        found[item], slots[item] = path, free.get(path, 0)
        free[path] = int(slots[item]) + 1
        if free[path] >= room:
            full.add(path)
    return found, slots
