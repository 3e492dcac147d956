"""What indexers share: paths of uneven depth made equal, and the room that a code space has."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.tokenizer import Codes


def padded(paths: NDArray[np.int32]) -> Codes:
    """Paths of equal length from paths that end early.

    On a level where some path has ended, code 0 says so and the others count from 1; on a level that every
    path reaches, codes count from 0. So whether a path goes on is read from its own codes.

    Args:
        paths: int32 `[items, levels]`, -1 from where a path ends.
    """
    codes = paths + (paths.min(axis=0) < 0)
    return Codes(codes.astype(np.int32), [int(size) for size in codes.max(axis=0) + 1])


def number_of_levels(items: int, codes: int, asked: int) -> int:
    """Levels as asked, or as many more as it takes to have a path for each item, with a notice.

    Args:
        items: number of items.
        codes: codes of each level, 2 or more unless there is but one item.
        asked: levels asked for.
    """
    levels = asked
    while codes**levels < items:
        levels += 1
    if levels > asked:
        print(
            f"ids.quantizer.levels: {asked} level(s) of {codes} codes are {codes**asked} paths, too few for {items} "
            f"items; using {levels} levels",
            file=sys.stderr,
        )
    return levels
