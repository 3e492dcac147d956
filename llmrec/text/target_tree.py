"""Token trees of a user's targets: each label of an answer knows how long a history it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.token_tree import Ints, TokenTree, TreeBuilder

BRANCH = 1 << 16
"""What `history_length` of an item beside the target is above: see `TargetTree`."""


@dataclass(frozen=True)
class TargetTree(TokenTree):
    """A token tree whose samples are the targets of a window of a user's items.

    Distillation looks the window's items up by it (`llmrec.train.sft.teacher`).

    Attributes:
        history_length: int32 [T]; for a label, how many items of the window come before the answer that the label
            belongs to; 0 where there is no label. An item beside the window's own answer has `BRANCH` added
            for the first such item after these, twice for the second, and so on.
    """

    history_length: Ints


class TargetTreeBuilder(TreeBuilder):
    """Grows a TargetTree from training samples."""

    def __init__(self) -> None:
        super().__init__()
        self._history_lengths: list[int] = []

    def add(self, tokens: Sequence[int], scored: int, shared: int = 0, history_length: int = 0) -> None:
        """Add a sample.

        Args:
            tokens: as for `TreeBuilder.add`, like `scored` and `shared`.
            scored: depth of the first token that is learned, at least 1.
            shared: number of leading tokens taken over from the previous sample without looking.
            history_length: items of the window before the sample's answer.
        """
        super().add(tokens, scored, shared)
        self._history_lengths.append(history_length)

    def build(self) -> TargetTree:
        """Build the tree in depth-first order."""
        tree, samples = self.build_with_samples()
        # Positions without a label have sample −1, and so read the 0 that is put behind.
        lengths = np.array([*self._history_lengths, 0], np.int32)[samples]
        return TargetTree(tree.input_ids, tree.depth, tree.end, tree.labels, lengths)
