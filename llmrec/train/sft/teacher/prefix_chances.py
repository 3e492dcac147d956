"""Probabilities of the codes on the way to items, from the scores of all items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.train.sft.samples import Halves

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue


@dataclass(frozen=True)
class PrefixChances:
    """The codes that may follow the prefixes of items, and their probabilities.

    Below, F is the largest number of codes that may follow a prefix of a level, and L the number of levels.

    Attributes:
        catalogue: the items, with the trie on the CPU.
    """

    catalogue: Catalogue

    def next_tokens(self, items: torch.Tensor) -> list[torch.Tensor]:
        """For each level, the tokens [q, F] that may follow the codes of `items` [q] before it."""
        trie, nodes = self.catalogue.trie, self._nodes[items]
        children = [trie.expand(nodes[:, depth, None], depth)[1] for depth in range(trie.length)]
        return [self.catalogue.token_ids[token[:, 0].long()] for token in children]

    def along(self, scores: torch.Tensor, answers: torch.Tensor) -> list[torch.Tensor]:
        """Probabilities [q, A, F] at each level along the codes of `answers` [q, A], from `scores` [q, items]."""
        trie = self.catalogue.trie
        prior, nodes = CollaborativePrior(trie, scores), self._nodes[answers]
        levels = []
        for depth in range(trie.length):
            child, _, legal = trie.expand(nodes[..., depth], depth)
            levels.append(prior.log_prob(child, legal).exp())
        return levels

    def pack(self, scores: npt.NDArray[np.float32], items: npt.NDArray[np.int64]) -> list[Halves]:
        """Probabilities of the codes on the way to one item a row, to be written down.

        Args:
            scores: of all items, in trie order, [q, items].
            items: an item for each row, [q].

        Returns:
            For each row, those of the codes that may come first, then those that may follow its item's first code, ….
        """
        answers = torch.from_numpy(items)
        legal = self._legal(answers)
        chances = torch.zeros(legal.shape)
        for depth, level in enumerate(self.along(torch.from_numpy(scores), answers[:, None])):
            chances[:, depth, : level.shape[2]] = level[:, 0]
        return [row[mask].numpy().astype(np.float16) for row, mask in zip(chances, legal, strict=True)]

    def unpack(
        self, written: torch.Tensor, items: torch.Tensor, is_written: torch.Tensor
    ) -> list[torch.Tensor]:
        """Probabilities that `pack` gave for items, for each level [q, F].

        Args:
            written: float [B, N], what stands in each row of a batch: the items' probabilities one after the other,
                then −1. A row may begin with those of items that it does not have.
            items: int64 [B, W].
            is_written: which of these are meant, bool [B, W], q in all.
        """
        legal = self._legal(items[is_written])
        sizes = torch.zeros(len(items), dtype=torch.long)
        sizes.index_add_(0, is_written.nonzero()[:, 0], legal.sum((1, 2)))
        end = (written >= 0).sum(1, keepdim=True)
        place = torch.arange(written.shape[1])
        chances = torch.zeros(legal.shape)
        chances[legal] = written[(place >= end - sizes[:, None]) & (place < end)]
        return [chances[:, depth, :width] for depth, width in enumerate(self.catalogue.trie.fanout)]

    def _legal(self, items: torch.Tensor) -> torch.Tensor:
        """Which codes of each level may follow, on the way to `items` [q]: bool [q, L, F]."""
        trie, nodes = self.catalogue.trie, self._nodes[items]
        legal = torch.zeros(len(items), trie.length, max(trie.fanout), dtype=torch.bool)
        for depth, width in enumerate(trie.fanout):
            legal[:, depth, :width] = trie.expand(nodes[:, depth], depth)[2]
        return legal

    @cached_property
    def _nodes(self) -> torch.Tensor:
        """Nodes of each item's prefixes, int64 [items, L]: the root, then one for each level."""
        trie = self.catalogue.trie.base
        return trie.item_nodes(torch.arange(trie.items))[:, :-1]
