"""The loss whose softmax, at a code, is over the children of the prefix: the codes that can lead to an item.

A decoder that is constrained by the trie never chooses another token, so lists need no probabilities of others. And
to score them is most of a step's work where each item has a code of its own. The items' probabilities still add up to
1: this is a hierarchical softmax (Morin & Bengio, Hierarchical probabilistic neural network language model, AISTATS
2005) whose tree is the catalogue's. Labels that are no codes, such as words of other tasks, keep the softmax over the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from llmrec.models.device import to_device
from llmrec.models.layers.child_head import ChildPositions, head_over_children, split_logits
from llmrec.token_tree import IGNORE

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.train.sft.losses import LossesOfLogits
    from llmrec.train.sft.teacher.distributions import Teacher, TeacherDistribution


@dataclass(frozen=True)
class ChildrenLoss:
    """−log p(label), each code among those that may follow its prefix, each other token among the vocabulary.

    Attributes:
        catalogue: the items, on the CPU; their codes have tokens of their own.
        teacher: whose probabilities are learned beside the labels; None for none.
    """

    catalogue: Catalogue
    teacher: Teacher | None = None

    @contextmanager
    def head(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Iterator[LossesOfLogits]:
        """The head scores the children alone, and the vocabulary where a label is no code."""
        device = batch["shift_labels"].device
        others, levels = self._positions(batch)
        others, levels = (
            to_device(others, device),
            {depth: level.to(device) for depth, level in levels.items()},
        )
        with head_over_children(model, others, list(levels.values())):
            yield partial(self._losses, batch, others, levels)

    def _losses(
        self,
        batch: Mapping[str, Any],
        others: torch.Tensor,
        levels: Mapping[int, ChildPositions],
        logits: torch.Tensor,
        is_training: bool,
    ) -> torch.Tensor:
        """Losses of n labels, float32 [n].

        With a teacher's probabilities q they are (1 − weight) · −log p(label) + weight · Σ −q log p, and the
        sum alone for synthetic items.

        Args:
            batch: as for `head`.
            others: labels that are no codes, int64 [w].
            levels: those that are, by their depth.
            logits: of a forward in `head`, flat.
            is_training: whether the teacher counts.
        """
        labels = batch["shift_labels"]
        labels = labels[labels != IGNORE]
        words, log_probs = split_logits(logits, len(others), list(levels.values()))
        of_words = cross_entropy(words.float(), labels[others], reduction="none")
        losses = torch.zeros(len(labels), device=logits.device).index_put((others,), of_words)
        taught = self.teacher.distributions(batch) if self.teacher is not None and is_training else []
        for (depth, level), scores in zip(levels.items(), log_probs, strict=True):
            is_label = (level.tokens == labels[level.at, None]) & level.legal
            of_level = -scores.gather(1, is_label.byte().argmax(1, keepdim=True))[:, 0]
            if taught:
                of_level = self._mixed(of_level, scores, level, taught[depth])
            losses = losses.index_put((level.at,), of_level)
        return losses

    def _mixed(
        self,
        losses: torch.Tensor,
        log_probs: torch.Tensor,
        level: ChildPositions,
        taught: TeacherDistribution,
    ) -> torch.Tensor:
        """A level's losses [m] with the teacher's cross-entropy in those of next items.

        Args:
            losses: −log p(label), float32 [m].
            log_probs: of the children, in the order in which the teacher has them, float32 [m, F].
            level: the positions.
            taught: what the teacher says of some of them.
        """
        assert self.teacher is not None
        index, chances, is_observed = (
            to_device(value, losses.device)
            for value in (taught.label_index, taught.probabilities, taught.is_observed)
        )
        row = torch.searchsorted(level.at, index)
        of_teacher = -(chances * log_probs.masked_fill(~level.legal, 0.0)[row]).sum(1)
        return losses.index_put((row,), self.teacher.mix(losses[row], of_teacher, is_observed))

    def _positions(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[int, ChildPositions]]:
        """Labels that are no codes, int64 [w], and those that are, by their depth; on the host."""
        trie = self.catalogue.trie.base
        labels, prefixes = (torch.as_tensor(batch[name]) for name in ("host_labels", "prefix_nodes"))
        learned = labels != IGNORE
        labels, prefixes = labels[learned], prefixes[learned]
        is_other, levels = torch.ones_like(labels, dtype=torch.bool), {}
        for depth in range(trie.length):
            begin, end = trie.starts[depth : depth + 2]
            at = ((prefixes >= begin) & (prefixes < end)).nonzero()[:, 0]
            _, token, legal = trie.expand(prefixes[at], depth)
            tokens = self.catalogue.token_ids[token.long()]
            here = ((tokens == labels[at, None]) & legal).any(1)
            at, tokens, legal = at[here], tokens[here], legal[here]
            is_other[at] = False
            if len(at):
                levels[depth] = ChildPositions.of(at, prefixes[at], tokens, legal)
        return is_other.nonzero()[:, 0], levels
