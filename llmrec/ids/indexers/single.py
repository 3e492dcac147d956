"""One distinct token for each item."""

from __future__ import annotations

import numpy as np

from llmrec.ids.tokenizer import Codes, Signals, Tokenizer


class SingleTokenizer(Tokenizer):
    """One distinct token for each item."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """One level with as many codes as items, in catalogue order (IID of Hua et al. 2023)."""
        items = len(signals.items)
        return Codes(np.arange(items, dtype=np.int32)[:, None], [items], unique=True)
