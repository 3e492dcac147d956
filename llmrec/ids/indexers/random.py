"""Random paths: a control that shows how much the structure of another tokenizer contributes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from llmrec.ids.indexers.paths import number_of_levels
from llmrec.ids.tokenizer import CodebookTokenizer, Codes, Signals, number_of_codes


class RandomTokenizer(CodebookTokenizer):
    """Random codes: the control that shows how much structured IDs gain."""

    has_unique_paths: ClassVar[bool] = True

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Distinct paths, drawn without replacement (RID of Hua et al. 2023).

        If there are more items than paths, levels are added, with a notice.
        """
        items = len(signals.items)
        size = number_of_codes(self.codes, items)
        levels = number_of_levels(items, size, self.levels)
        rng = np.random.default_rng(seed)
        # The number of a path must fit into 64 bits, so only the first levels are drawn without replacement.
        distinct = max(level for level in range(1, levels + 1) if size**level <= 2**62)
        numbers = rng.choice(size**distinct, items, replace=False)
        rest = rng.integers(0, size, (items, levels - distinct))
        digits = np.stack(np.unravel_index(numbers, (size,) * distinct), axis=1)
        codes = np.column_stack([digits, rest]).astype(np.int32)
        return Codes(codes, [size] * levels, unique=True)
