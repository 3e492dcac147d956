"""Category paths: items of the same category share prefixes."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

from llmrec.config.ids import Levels
from llmrec.errors import UserError
from llmrec.ids.indexers.paths import padded
from llmrec.ids.tokenizer import Codes, Signals, Tokenizer


class CategoryTokenizer(Tokenizer):
    """The category path, with at most `levels` levels."""

    levels: Levels = 4

    def fit(self, signals: Signals, seed: int) -> Codes:
        """An item's path consists of its categories, broadest first (semantic indexing of Hua et al. 2023).

        A name has one code a level, whatever its parent is. So "Moisturizers" under "Face" and "Moisturizers" under
        "Body" share a token. The same holds for genres, which form a list and not a tree. Leading names that all
        items share (a common root) are left out. A path that ends early, or has no name, is filled with code 0.

        Raises:
            UserError: the items have no categories, or `categories` is not a column of lists of names.
        """
        names = _names(signals.items)
        without = sum(not path for path in names)
        if without == len(names):
            raise UserError("ids.quantizer.kind: category: no item has a category; choose another kind")
        if without:
            print(
                f"ids.quantizer: {without} of {len(names)} items have no category; they share a path",
                file=sys.stderr,
            )
        root = _common_root([path for path in names if path])
        names = [path[root : root + self.levels] for path in names]
        depth = max(map(len, names))
        if not depth:
            print(
                "ids.quantizer: the categories do not distinguish any items; all items share a path",
                file=sys.stderr,
            )
        paths = np.full((len(names), max(depth, 1)), -1, np.int32)
        for level in range(depth):
            vocabulary = sorted({path[level] for path in names if len(path) > level})
            code = {name: number for number, name in enumerate(vocabulary)}
            for item, path in enumerate(names):
                if len(path) > level:
                    paths[item, level] = code[path[level]]
        return padded(paths)


def _common_root(paths: list[list[str]]) -> int:
    """Number of leading names that all paths share."""
    levels = enumerate(zip(*paths, strict=False))
    return next((depth for depth, names in levels if len(set(names)) > 1), min(map(len, paths)))


def _names(items: pl.DataFrame) -> list[list[str]]:
    """Each item's category names, without empty ones."""
    if "categories" not in items.columns:
        raise UserError(
            "ids.quantizer.kind: category needs a column categories in data/items.parquet; "
            "name it in the card's items.columns, or choose another kind"
        )
    dtype = items["categories"].dtype
    if not isinstance(dtype, pl.List) or dtype.inner.is_nested():
        raise UserError(
            f"data/items.parquet: categories holds {dtype}, and lists of names are needed; "
            "name a column of lists in the card's items.columns, or choose another kind"
        )
    lists = items["categories"].cast(pl.List(pl.String)).to_list()
    return [[name.strip() for name in path or [] if name and name.strip()] for path in lists]
