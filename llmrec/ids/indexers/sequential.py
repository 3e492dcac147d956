"""Sequential paths: items that follow each other in the training histories get consecutive numbers."""

from __future__ import annotations

import sys
from typing import ClassVar

import numpy as np

from llmrec.ids.indexers.paths import number_of_levels
from llmrec.ids.tokenizer import CodebookTokenizer, Codes, Signals, number_of_codes


class SequentialTokenizer(CodebookTokenizer):
    """Items numbered in the order of their first occurrence in the training histories."""

    has_unique_paths: ClassVar[bool] = True

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Number the items by their first occurrence in the histories, user by user (SID of Hua et al. 2023).

        Items of no history come last, in catalogue order. The r-th of n items gets the first digits of the fraction
        r/n in base `codes`, most significant first. So neighbours share prefixes, and all codes of the first level
        have equally many items, even if the catalogue uses only a small part of all paths.

        If there are more items than paths, levels are added, with a notice.
        """
        items = len(signals.items)
        size = number_of_codes(self.codes, items)
        levels = number_of_levels(items, size, self.levels)
        occurrences = np.concatenate([np.empty(0, np.int64), *signals.histories])
        if not len(occurrences):
            print(
                "ids.quantizer: no training interactions; items are numbered as in the catalogue",
                file=sys.stderr,
            )
        seen, first_index = np.unique(occurrences, return_index=True)
        order = np.concatenate([seen[np.argsort(first_index)], np.setdiff1d(np.arange(items), seen)])
        remainder = np.empty(items, np.int64)
        remainder[order] = np.arange(items)
        columns = []
        for _ in range(levels):
            digit, remainder = np.divmod(remainder * size, items)
            columns.append(digit.astype(np.int32))
        return Codes(np.stack(columns, axis=1), [size] * levels, unique=True)
