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

CODES, LEVELS = 256, 3
"""Size of example IDs whose recipe does not say it in numbers."""


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
    codes, levels = (_number(getattr(recipe.ids.quantizer, name, None)) for name in ("codes", "levels"))
    sids = example_sids(len(items), codes or CODES, levels or LEVELS, recipe.seed)
    (folder / "ids").mkdir()
    table = pl.DataFrame(
        {"item_id": items, "sid": sids.tolist()}, schema_overrides={"sid": pl.List(pl.Int32)}
    )
    table.write_parquet(folder / layout.SIDS)
    write_json(folder / layout.IDS_REPORT, {"levels": [{"codes": codes or CODES}] * sids.shape[1]})


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


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value > 1 else None
