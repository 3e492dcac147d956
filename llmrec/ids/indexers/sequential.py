"""Sequential paths: items that follow each other in the training histories get consecutive numbers."""

from __future__ import annotations

import sys

import numpy as np

from llmrec.ids.indexers.paths import number_of_levels
from llmrec.ids.tokenizer import CodebookTokenizer, Codes, Signals, number_of_codes


class SequentialTokenizer(CodebookTokenizer):
    """Items numbered in the order in which the training histories first show them."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Items numbered as the histories first show them, user by user (SID of Hua et al. 2023).

        Items of no history come last, in catalogue order. The r-th of n items gets the first digits of the fraction
        r/n in base `codes`, most significant first: neighbours share prefixes, and every code of the first
        level serves equally many items, however few the catalogue needs of all paths.

        A catalogue with more items than paths gets more levels, with a notice.
        """
        items = len(signals.items)
        size = number_of_codes(self.codes, items)
        levels = number_of_levels(items, size, self.levels)
        shown = np.concatenate([np.empty(0, np.int64), *signals.histories])
        if not len(shown):
            print(
                "ids.quantizer: no training interactions; items are numbered as in the catalogue",
                file=sys.stderr,
            )
        found, first = np.unique(shown, return_index=True)
        order = np.concatenate([found[np.argsort(first)], np.setdiff1d(np.arange(items), found)])
        remainder = np.empty(items, np.int64)
        remainder[order] = np.arange(items)
        columns = []
        for _ in range(levels):
            digit, remainder = np.divmod(remainder * size, items)
            columns.append(digit.astype(np.int32))
        return Codes(np.stack(columns, axis=1), [size] * levels, unique=True)
