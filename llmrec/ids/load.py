"""Readers of the files that the ids stage writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import layout
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.progress.run_lock import unfinished


def load_sids(run: Path) -> tuple[list[str], NDArray[np.int32]]:
    """Item ids and their semantic IDs, int32 `[items, levels]`, in the order of `data/items.parquet`.

    Raises:
        UserError: the run has no semantic IDs, or has textual IDs.
    """
    path = _existing(run / layout.SIDS)
    table = pl.read_parquet(path)
    if "sid" not in table.columns:
        raise UserError(f"{path}: textual IDs, which have no codes; use an ids.quantizer.kind that has")
    width = table["sid"].list.len()[0]
    sids = table["sid"].explode().cast(pl.Int32).to_numpy().reshape(-1, width)
    return table["item_id"].cast(pl.String).to_list(), sids


def load_texts(run: Path) -> tuple[list[str], list[str]] | None:
    """Item ids and their textual IDs, in the order of `data/items.parquet`; None if the IDs are codes.

    Raises:
        UserError: the run has no semantic IDs.
    """
    table = pl.read_parquet(_existing(run / layout.SIDS))
    if "text" not in table.columns:
        return None
    return table["item_id"].cast(pl.String).to_list(), table["text"].to_list()


def load_sizes(run: Path) -> list[int]:
    """Number of codes of each level, with the extra level last.

    Raises:
        UserError: the run has no valid `ids/report.json`.
    """
    path = _existing(run / layout.IDS_REPORT)
    report = read_json(path)
    try:
        return [int(level["codes"]) for level in report["levels"]]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: names no codes a level; run the stage ids again") from None


def load_codebooks(run: Path) -> list[NDArray[np.float32]] | None:
    """Centroids of each level, float32 `[codes, dim]`, with the extra level last; None if IDs have no codebooks."""
    from safetensors.numpy import load_file

    path = run / "ids" / "codebooks.safetensors"
    if not path.is_file():
        return None
    levels = load_file(path)
    return [levels[f"level_{level}"] for level in range(len(levels))]


def code_vectors(
    run: Path, sids: NDArray[np.integer], further: NDArray[np.float32] | None = None
) -> NDArray[np.float32] | None:
    """Reconstruct item vectors from the codebooks: the sum of the centroids of an item's codes.

    Args:
        run: the run folder.
        sids: int `[items, levels]`, in any order.
        further: float32 `[codes, dim]`, centroids of codes that the last level has got since training.

    Returns:
        float32 `[items, dim]`, or None if the IDs have no codebooks.
    """
    codebooks = load_codebooks(run)
    if codebooks is None:
        return None
    if further is not None:
        codebooks[-1] = np.concatenate([codebooks[-1], further])
    vectors: NDArray[np.float32] = np.sum([book[sids[:, n]] for n, book in enumerate(codebooks)], axis=0)
    return vectors


def sort_in_trie_order(items: list[str], sids: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    """Sort items and semantic IDs, int32 `[items, levels]`, lexicographically by semantic ID."""
    order = np.lexsort(sids.T[::-1])
    return [items[row] for row in order], sids[order]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise unfinished(path.parents[1], "ids")
    return path
