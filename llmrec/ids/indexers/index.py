"""Ready semantic IDs, made elsewhere."""

from __future__ import annotations

from pathlib import Path

from llmrec.config.tokenizers import IndexConfig
from llmrec.ids.exchange import read_index
from llmrec.ids.tokenizer import Codes, Signals


def fit(signals: Signals, config: IndexConfig, seed: int) -> Codes:
    """The code paths of an index file; items that share one are told apart by the collision rule.

    Args:
        signals: gives the item table.
        config: names the file.
        seed: not used: nothing is drawn.

    Raises:
        UserError: what the file has wrong.
    """
    return read_index(Path(config.path).expanduser(), signals.items["item_id"].to_list())
