"""One distinct token for each item."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from llmrec.ids.tokenizer import Codes, Signals, Tokenizer


class SingleTokenizer(Tokenizer):
    """One distinct token for each item."""

    has_unique_paths: ClassVar[bool] = True
    levels: ClassVar[int] = 1

    def fit(self, signals: Signals, seed: int) -> Codes:
        """One level with as many codes as items, in catalogue order (IID of Hua et al. 2023)."""
        items = len(signals.items)
        return Codes(np.arange(items, dtype=np.int32)[:, None], [items], unique=True)
