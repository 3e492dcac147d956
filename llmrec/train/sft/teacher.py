"""A collaborative model as the teacher of a language model: its probabilities at every code of every answer.

Knowledge distillation (Hinton et al., Distilling the knowledge in a neural network, 2015) over the catalogue's trie.
The label names one next code. The teacher adds a distribution over all next codes: the sum of its probabilities of
the items that each code still leads to. After a user's last training item there is no label, and the teacher draws
the items itself; its samples are learned as in Kim & Rush, Sequence-level knowledge distillation, EMNLP 2016.
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
"""Probabilities of items that are held in memory at once."""
STREAM = 1
"""Separates the draws of synthetic items from other draws with the same seed and epoch."""


@dataclass(frozen=True)
class TeacherDistribution:
    """A teacher's distributions for m of a batch's labels, all of one level of the semantic IDs.

    Attributes:
        label_index: int64 [m], positions of these labels among the batch's labels.
        tokens: int64 [m, F], token ids of the possible next codes.
        probabilities: float32 [m, F], the teacher's probability of each; 0 in slots without a token.
        is_observed: bool [m], whether the user has chosen the item; else the teacher has drawn it.
    """

    label_index: torch.Tensor
    tokens: torch.Tensor
    probabilities: torch.Tensor
    is_observed: torch.Tensor


@dataclass(frozen=True)
class Teacher:
    """A collaborative model that knows the catalogue.

    Attributes:
        model: gives the probability of each item to be next.
        catalogue: the items, with their trie on the CPU.
        weight: share of the teacher's cross-entropy in the loss of items that the user has chosen.
    """

    model: Baseline
    catalogue: Catalogue
    weight: float

    def losses(
        self, log_probs: torch.Tensor, losses: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Mix the teacher's cross-entropy into the losses of a batch's labels.

        Args:
            log_probs: float [n, V] of the labelled positions, row after row.
            losses: float [n], −log p(label).
            batch: a batch of `llmrec.train.sft.samples.TreeCollator` with n labels.

        Returns:
            float [n]: (1 − weight) losses + weight Σ −q log p. Labels of items that the teacher has drawn get
            Σ −q log p alone, and labels that name no item keep their loss.
        """
        device, mixed = losses.device, losses.clone()
        for level in self.distributions(batch):
            index, probabilities = level.label_index.to(device), level.probabilities.to(device)
            scores = log_probs[index[:, None], level.tokens.to(device)]
            cross_entropy = -(probabilities * scores).sum(1)
            share = torch.where(level.is_observed.to(device), self.weight, 1.0)
            mixed = mixed.index_put((index,), torch.lerp(losses[index], cross_entropy, share))
        return mixed

    def distributions(self, batch: Mapping[str, torch.Tensor]) -> list[TeacherDistribution]:
        """Compute the teacher's distributions for a batch's labels.

        Args:
            batch: as for `losses`.

        Returns:
            One entry per level of the semantic IDs; none if no label is a code of a next item.
        """
        labels, history_length, window_items, observed = (
            batch[name].cpu() for name in ("shift_labels", "history_length", "window_items", "observed")
        )
        learned = labels != IGNORE
        labels, history_length, row = labels[learned], history_length[learned], learned.nonzero()[:, 0]
        is_next_item = (history_length > 0) & (history_length < (window_items >= 0).sum(1)[row])
        if not is_next_item.any():
            return []
        answer = window_items[row, history_length.where(is_next_item, 0)]
        level = torch.full_like(labels, -1)
        for depth, codes in enumerate(self._item_tokens.T):
            level[is_next_item & (labels == codes[answer])] = depth
        index = (level >= 0).nonzero()[:, 0]
        if not len(index):
            return []
        # All codes of one answer share their history: the teacher is asked once.
        pairs = torch.stack([row[index], history_length[index]])
        questions, question = torch.unique(pairs, dim=1, return_inverse=True)
        is_observed = history_length[index] < observed[row[index]]
        distributions = []
        for depth, (tokens, probabilities) in enumerate(self._level_distributions(window_items, *questions)):
            of_level = level[index] == depth
            asked = question[of_level]
            distributions.append(
                TeacherDistribution(
                    index[of_level], tokens[asked], probabilities[asked], is_observed[of_level]
                )
            )
        return distributions

    def _level_distributions(
        self, window_items: torch.Tensor, row: torch.Tensor, history_length: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each level, the tokens [q, F] that may follow an answer's codes so far, and their probabilities [q, F].

        Args:
            window_items: int64 [B, W], as the batch has them.
            row: int64 [q], the window of each of q answers.
            history_length: int64 [q], items of the window before the answer.
        """
        trie, items = self.catalogue.trie, self.catalogue.items
        histories = [
            [items[item] for item in window_items[window, :count].tolist()]
            for window, count in zip(row.tolist(), history_length.tolist(), strict=True)
        ]
        nodes = self._nodes[window_items[row, history_length]]
        parts: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(trie.length)]
        block = max(1, CHANCES // trie.items)
        for start in range(0, len(histories), block):
            answers = slice(start, start + block)
            prior = CollaborativePrior(trie, self.model.log_probs(histories[answers], items))
            for depth, part in enumerate(parts):
                child, token, legal = trie.expand(nodes[answers, depth, None], depth)
                probabilities = prior.log_prob(child, legal).exp()
                part.append((self.catalogue.token_ids[token[:, 0].long()], probabilities[:, 0]))
        return [
            (torch.cat([tokens for tokens, _ in part]), torch.cat([values for _, values in part]))
            for part in parts
        ]

    @cached_property
    def _item_tokens(self) -> torch.Tensor:
        """Token ids of each item, int64 [items, L]."""
        return self.catalogue.tokens

    @cached_property
    def _nodes(self) -> torch.Tensor:
        """Nodes of each item's codes so far, int64 [items, L]: the root, then one a level."""
        trie = self.catalogue.trie.base
        return trie.item_nodes(torch.arange(trie.items))[:, :-1]


@dataclass(frozen=True)
class SyntheticContinuations:
    """Draws items from the teacher after histories; no item comes twice in a history.

    Attributes:
        teacher: the teacher.
        count: items for each history; fewer if the teacher has no other item left.
        seed: seed of the draws, together with the epoch.
    """

    teacher: Teacher
    count: int
    seed: int

    def __call__(self, histories: Sequence[Sequence[str]], epoch: int) -> list[list[str]]:
        """Draw a continuation of each history, item by item, each given the items before it.

        Args:
            histories: item ids, oldest first, none empty.
            epoch: number of the epoch, from 0; each epoch has other draws.

        Returns:
            For each history, the ids of at most `count` items.
        """
        rng = np.random.default_rng((self.seed, epoch, STREAM))
        names, numbers = self.teacher.catalogue.items, self.teacher.catalogue.index
        continued = [list(history) for history in histories]
        block = max(1, CHANCES // len(names))
        for start in range(0, len(continued), block):
            rows = continued[start : start + block]
            for _ in range(self.count):
                probabilities = np.exp(self.teacher.model.log_probs(rows, names).astype(np.float64))
                for row, history in zip(probabilities, rows, strict=True):
                    row[[numbers[item] for item in history]] = 0
                cumulative = probabilities.cumsum(1)
                drawn = (cumulative <= rng.random((len(rows), 1)) * cumulative[:, -1:]).sum(1)
                # A slice, because the teacher may have no item left: `item` is then beyond the last name.
                for history, item in zip(rows, drawn.tolist(), strict=True):
                    history += names[item : item + 1]
        return [row[len(history) :] for row, history in zip(continued, histories, strict=True)]
