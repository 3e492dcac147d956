"""Semantic IDs from an index file that another program made."""

from __future__ import annotations

from pathlib import Path

from llmrec.assets import expand_home
from llmrec.config.section import LocalPath
from llmrec.ids.exchange import read_index
from llmrec.ids.tokenizer import Codes, Signals, Tokenizer


class IndexTokenizer(Tokenizer):
    """Finished IDs from an index file of MiniOneRec, LC-Rec or LETTER."""

    path: LocalPath

    def external_files(self) -> list[Path]:
        """The index file."""
        return [expand_home(self.path)]

    def fit(self, signals: Signals, seed: int) -> Codes:
        """The code paths of an index file; the collision rule separates items that share a path.

        Args:
            signals: provides the item table.
            seed: not used, since nothing is random.

        Raises:
            UserError: the file is missing or invalid.
        """
        return read_index(expand_home(self.path), signals.items["item_id"].to_list())
