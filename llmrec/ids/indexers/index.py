"""Semantic IDs from an index file that another program made."""

from __future__ import annotations

from pathlib import Path

from llmrec.config.tokenizers import IndexConfig
from llmrec.ids.exchange import read_index
from llmrec.ids.tokenizer import Codes, Signals


def fit(signals: Signals, config: IndexConfig, seed: int) -> Codes:
    """The code paths of an index file; the collision rule separates items that share a path.

    Args:
        signals: provides the item table.
        config: names the file.
        seed: not used, since nothing is random.

    Raises:
        UserError: the file is missing or invalid.
    """
    return read_index(Path(config.path).expanduser(), signals.items["item_id"].to_list())
