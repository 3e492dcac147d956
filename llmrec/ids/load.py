"""Reads what the ids stage wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.errors import UserError


def load_sids(run: Path) -> tuple[list[str], NDArray[np.int32]]:
    """Item ids and their semantic IDs, int32 `[items, levels]`, in the order of `data/items.parquet`.

    Raises:
        UserError: the run has no semantic IDs.
    """
    path = _existing(run / "ids" / "sids.parquet")
    table = pl.read_parquet(path)
    width = table["sid"].list.len()[0]
    sids = table["sid"].explode().cast(pl.Int32).to_numpy().reshape(-1, width)
    return table["item_id"].cast(pl.String).to_list(), sids


def load_codebooks(run: Path) -> list[NDArray[np.float32]]:
    """Centroids of each level, float32 `[codes, dim]`, the extra level's last.

    Raises:
        UserError: the run has no codebooks.
    """
    from safetensors.numpy import load_file

    levels = load_file(_existing(run / "ids" / "codebooks.safetensors"))
    return [levels[f"level_{level}"] for level in range(len(levels))]


def trie_order(items: list[str], sids: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    """Items and semantic IDs `[items, levels]` sorted lexicographically by semantic ID."""
    order = np.lexsort(sids.T[::-1])
    return [items[row] for row in order], sids[order]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage ids first")
    return path
