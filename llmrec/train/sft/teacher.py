"""A collaborative model as the teacher of a language model: its word on every code of every answer.

Knowledge distillation (Hinton et al., Distilling the knowledge in a neural network, 2015) over the catalogue's trie:
at each code of an answer the teacher's chances of the items still reachable, summed under each next code, stand
beside the one code that came next. Behind a user's last training item, where no label is known, the teacher goes on
by itself; its samples are learned as sequences are in Kim & Rush, Sequence-level knowledge distillation, EMNLP 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.token_tree import IGNORE

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.collaborative.system import Baseline

CHANCES = 1 << 21
"""Chances of items that are held at once."""
STREAM = 1
"""Sets the draws of made-up items apart from the others that a seed and an epoch start."""


@dataclass(frozen=True)
class TeacherDistribution:
    """What a teacher says to some of a batch's labels, all of one level.

    Attributes:
        label_index: which labels, int64 [m].
        tokens: token ids it chooses among, int64 [m, F].
        probabilities: float32 [m, F]; 0 in slots without a token.
        is_observed: whether the label is what the user has chosen, bool [m].
    """

    label_index: torch.Tensor
    tokens: torch.Tensor
    probabilities: torch.Tensor
    is_observed: torch.Tensor


@dataclass(frozen=True)
class Teacher:
    """A collaborative model that knows the catalogue.

    Attributes:
        model: gives the chance of each item to be next.
        catalogue: its trie on the CPU.
        weight: share of the teacher's word in the loss, where the user's choice is known.
    """

    model: Baseline
    catalogue: Catalogue
    weight: float

    def losses(
        self, log_probs: torch.Tensor, losses: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Losses of a batch's labels, the teacher's cross-entropy mixed in where it has one.

        Args:
            log_probs: float [n, V] of the labelled positions, row after row.
            losses: float [n], −log p(label).
            batch: as `llmrec.train.sft.samples.TreeCollator` gives it, `n` labels in it.

        Returns:
            float [n]: (1 − weight) losses + weight Σ −q log p; of items that the teacher made up its word alone.
        """
        mixed = losses.clone()
        for word in self.distributions(batch):
            at, tokens, chances, real = (value.to(losses.device) for value in vars(word).values())
            said = -(chances * log_probs[at[:, None], tokens]).sum(1)
            share = torch.where(real, self.weight, 1.0)
            mixed = mixed.index_put((at,), torch.lerp(losses[at], said, share))
        return mixed

    def distributions(self, batch: Mapping[str, torch.Tensor]) -> list[TeacherDistribution]:
        """What the teacher says to a batch's labels, level by level of the semantic IDs.

        Args:
            batch: as for `losses`.
        """
        labels, history_length, window_items, observed = (
            batch[name].cpu() for name in ("shift_labels", "history_length", "window_items", "observed")
        )
        learned = labels != IGNORE
        labels, history_length, row = labels[learned], history_length[learned], learned.nonzero()[:, 0]
        asks = (history_length > 0) & (history_length < (window_items >= 0).sum(1)[row])
        if not asks.any():
            return []
        answer = window_items[row, history_length.where(asks, 0)]
        level = torch.full_like(labels, -1)
        for depth, codes in enumerate(self._spelling.T):
            level[asks & (labels == codes[answer])] = depth
        at = (level >= 0).nonzero()[:, 0]
        if not len(at):
            return []
        asked, question = torch.unique(torch.stack([row[at], history_length[at]]), dim=1, return_inverse=True)
        real = history_length[at] < observed[row[at]]
        words = []
        for depth, (tokens, chances) in enumerate(self._level_distributions(window_items, *asked)):
            mine = level[at] == depth
            which = question[mine]
            words.append(TeacherDistribution(at[mine], tokens[which], chances[which], real[mine]))
        return words

    def _level_distributions(
        self, window_items: torch.Tensor, row: torch.Tensor, history_length: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each level the tokens [q, F] that may follow an answer's codes so far, and their chances [q, F]."""
        trie, items = self.catalogue.trie, self.catalogue.items
        histories = [
            [items[item] for item in window_items[who, :count].tolist()]
            for who, count in zip(row.tolist(), history_length.tolist(), strict=True)
        ]
        nodes = self._nodes[window_items[row, history_length]]
        parts: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(trie.length)]
        several = max(1, CHANCES // trie.items)
        for start in range(0, len(histories), several):
            some = slice(start, start + several)
            prior = CollaborativePrior(trie, self.model.log_probs(histories[some], items))
            for depth, part in enumerate(parts):
                child, token, legal = trie.expand(nodes[some, depth, None], depth)
                chances = prior.log_prob(child, legal).exp()
                part.append((self.catalogue.token_ids[token[:, 0].long()], chances[:, 0]))
        return [(torch.cat([a for a, _ in part]), torch.cat([b for _, b in part])) for part in parts]

    @cached_property
    def _spelling(self) -> torch.Tensor:
        """Token ids of each item, int64 [items, L]."""
        return self.catalogue.tokens

    @cached_property
    def _nodes(self) -> torch.Tensor:
        """Nodes of each item's codes so far, int64 [items, L]: the root, then one a level."""
        trie = self.catalogue.trie.base
        return trie.item_nodes(torch.arange(trie.items))[:, :-1]


@dataclass(frozen=True)
class SyntheticContinuations:
    """Items that the teacher makes up behind histories, a few each, none twice.

    Attributes:
        teacher: who does.
        count: how many a history gets, fewer where the teacher has none left.
        seed: of the draws, with the epoch.
    """

    teacher: Teacher
    count: int
    seed: int

    def __call__(self, histories: Sequence[Sequence[str]], epoch: int) -> list[list[str]]:
        """One draw for each history, item by item, each from the teacher's chances after those before.

        Args:
            histories: item ids, oldest first, none empty.
            epoch: from 0; each draws anew.
        """
        rng = np.random.default_rng((self.seed, epoch, STREAM))
        names, numbers = self.teacher.catalogue.items, self.teacher.catalogue.index
        whole = [list(history) for history in histories]
        several = max(1, CHANCES // len(names))
        for start in range(0, len(whole), several):
            some = whole[start : start + several]
            for _ in range(self.count):
                chance = np.exp(self.teacher.model.log_probs(some, names).astype(np.float64))
                for row, history in zip(chance, some, strict=True):
                    row[[numbers[item] for item in history]] = 0
                below = chance.cumsum(1)
                drawn = (below <= rng.random((len(some), 1)) * below[:, -1:]).sum(1)
                # A slice, because the teacher may have nothing left to name: `item` is then behind the last.
                for history, item in zip(some, drawn.tolist(), strict=True):
                    history += names[item : item + 1]
        return [row[len(history) :] for row, history in zip(whole, histories, strict=True)]
