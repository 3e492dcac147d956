"""What indexers share: paths of uneven depth made equal, and the room that a code space has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import UserError
from llmrec.ids.tokenizer import Codes

_MAX_LEVELS = 8
_MAX_CODES = 65536


def padded(paths: NDArray[np.int32]) -> Codes:
    """Paths of equal length from paths that end early.

    On a level where some path has ended, code 0 says so and the others count from 1; on a level that every
    path reaches, codes count from 0. So whether a path goes on is read from its own codes.

    Args:
        paths: int32 `[items, levels]`, -1 from where a path ends.
    """
    codes = paths + (paths.min(axis=0) < 0)
    return Codes(codes.astype(np.int32), [int(size) for size in codes.max(axis=0) + 1])


def require_room(items: int, codes: int, levels: int) -> None:
    """Check that there is a path for each item.

    Raises:
        UserError: naming the fewest codes and the fewest levels that would do.
    """
    if codes**levels >= items:
        return
    wider = next((n for n in range(codes, _MAX_CODES + 1) if n**levels >= items), None)
    deeper = next((n for n in range(levels, _MAX_LEVELS + 1) if codes**n >= items), None)
    remedies = [f"{key}: {n}" for key, n in (("codes", wider), ("levels", deeper)) if n is not None]
    raise UserError(
        f"ids.quantizer: {levels} level(s) of {codes} codes are {codes**levels} paths, too few for {items} items; "
        f"set {' or '.join(remedies)}"
    )
