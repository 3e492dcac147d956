"""Shared by the indexers: paths of equal length, and the number of levels for a catalogue."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.tokenizer import Codes


def padded(paths: NDArray[np.int32]) -> Codes:
    """Pad paths of different length to equal length.

    At a level where a path has ended, code 0 marks the end and other codes count from 1. At a level that every path
    reaches, codes count from 0. So the codes of a path tell where it ends.

    Args:
        paths: int32 `[items, levels]`, -1 after the end of a path.
    """
    codes = paths + (paths.min(axis=0) < 0)
    return Codes(codes.astype(np.int32), [int(size) for size in codes.max(axis=0) + 1])


def number_of_levels(items: int, codes: int, setting: int) -> int:
    """The setting, or the least number of levels with a path for each item, with a notice.

    Args:
        items: number of items.
        codes: number of codes of each level; at least 2, unless there is only one item.
        setting: number of levels in the recipe.
    """
    levels = setting
    while codes**levels < items:
        levels += 1
    if levels > setting:
        print(
            f"ids.quantizer.levels: {setting} level(s) of {codes} codes are {codes**setting} paths, too few for "
            f"{items} items; using {levels} levels",
            file=sys.stderr,
        )
    return levels
