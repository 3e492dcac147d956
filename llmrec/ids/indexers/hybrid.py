"""Collaborative paths that end with a token for each item."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from llmrec.ids.indexers.collaborative import CollaborativeTokenizer
from llmrec.ids.tokenizer import Codes, Signals


class HybridTokenizer(CollaborativeTokenizer):
    """The collaborative path, followed by one distinct token for each item."""

    has_unique_paths: ClassVar[bool] = True

    def fit(self, signals: Signals, seed: int) -> Codes:
        """The collaborative path, followed by one distinct code for each item (CID + IID of Hua et al. 2023).

        Raises:
            UserError: no user has two training items.
        """
        shared = super().fit(signals, seed)
        items = len(shared.codes)
        codes = np.column_stack([shared.codes, np.arange(items, dtype=np.int32)])
        return Codes(codes, [*shared.sizes, items], unique=True)
