"""Collaborative paths that end with a token for each item."""

from __future__ import annotations

import numpy as np

from llmrec.config.tokenizers import HybridConfig
from llmrec.ids.indexers import collaborative
from llmrec.ids.tokenizer import Codes, Signals


def fit(signals: Signals, config: HybridConfig, seed: int) -> Codes:
    """The collaborative path, followed by one distinct code for each item (CID + IID of Hua et al. 2023).

    Raises:
        UserError: no user has two training items.
    """
    shared = collaborative.fit(signals, config, seed)
    items = len(shared.codes)
    codes = np.column_stack([shared.codes, np.arange(items, dtype=np.int32)])
    return Codes(codes, [*shared.sizes, items], unique=True)
