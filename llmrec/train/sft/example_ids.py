"""Example semantic IDs for a preview of a run whose IDs are not made yet, so that a preview trains nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import layout
from llmrec.config import Recipe
from llmrec.data.examples import load_items
from llmrec.files import link_or_copy, write_json
from llmrec.ids.collisions import adds_level
from llmrec.ids.tokenizer import auto_codes

LEVELS = 3
"""Levels of example IDs whose recipe does not say it in numbers."""


def write_example_run(recipe: Recipe, run: Path, folder: Path) -> None:
    """Write a run folder that has a run's data, and random IDs of the recipe's size in place of those to come.

    Args:
        recipe: the resolved recipe.
        run: run folder with a finished data stage.
        folder: an empty folder.
    """
    for path in sorted((run / "data").iterdir()):
        link_or_copy(path, folder / "data" / path.name)
    items = load_items(run)["item_id"]
    tokenizer = recipe.ids.quantizer
    codes, levels = getattr(tokenizer, "codes", None), getattr(tokenizer, "levels", None)
    codes = codes if isinstance(codes, int) else auto_codes(len(items))
    levels = levels if isinstance(levels, int) else LEVELS
    if recipe.ids.collision_rule == "own_code" and adds_level(recipe.ids):
        sids = with_own_codes(len(items), codes, levels, recipe.seed)
    else:
        sids = example_sids(len(items), codes, levels, recipe.seed)
    (folder / "ids").mkdir()
    table = pl.DataFrame(
        {"item_id": items, "sid": sids.tolist()}, schema_overrides={"sid": pl.List(pl.Int32)}
    )
    table.write_parquet(folder / layout.SIDS)
    sizes = (sids.max(0) + 1).tolist()
    write_json(folder / layout.IDS_REPORT, {"levels": [{"codes": size} for size in sizes]})


def example_sids(items: int, codes: int, levels: int, seed: int) -> NDArray[np.int32]:
    """Return different IDs, spread evenly and in random order, int32 `[items, levels]`; more levels if they must."""
    codes = max(codes, 2)
    while codes**levels < items:
        levels += 1
    order = np.random.default_rng(seed).permutation(items).tolist()
    numbers = [place * codes**levels // items for place in order]
    return np.array(
        [[number // codes ** (levels - 1 - level) % codes for level in range(levels)] for number in numbers],
        np.int32,
    ).reshape(items, levels)


def with_own_codes(items: int, codes: int, levels: int, seed: int) -> NDArray[np.int32]:
    """Return IDs of `levels` random codes and one that no other item has, int32 `[items, levels + 1]`."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(codes, size=(items, levels), dtype=np.int32)
    return np.hstack([shared, rng.permutation(items).astype(np.int32)[:, None]])
