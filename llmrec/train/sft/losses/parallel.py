"""The loss of targets whose codes are all predicted at once, from the position before the item.

Hou et al., Generating long semantic IDs in parallel for recommendation (RPG), KDD 2025 (multi-token prediction);
Lin et al., Order-agnostic identifier for large language model-based generative recommendation (SETRec), SIGIR 2025.
A position has the probabilities of each level's codes, and those of different levels are independent given the
history.

The softmax is within a level and not over the vocabulary. Over the vocabulary the L codes of one position would
share a probability of 1, so that none could have more than 1/L in the long run, and the product would be no
distribution over code sequences. The loss is the mean over the codes, as the loss of codes that follow one another
is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from llmrec.decode.parallel_codes import code_log_probs
from llmrec.models.device import to_device
from llmrec.text.target_tree import TargetTree
from llmrec.token_tree import IGNORE

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.train.sft.losses import LossesOfLogits
    from llmrec.train.sft.samples import TrainingTree
    from llmrec.train.sft.teacher.distributions import Teacher


def one_label_an_item(trees: Iterable[TrainingTree]) -> Iterator[TrainingTree]:
    """Training trees in which a next item's first code alone is a label; it stands for all of them (`ParallelLoss`).

    Trees that ask anything but which item is next are left as they are.
    """
    for one in trees:
        yield replace(one, tree=with_first_labels(one.tree)) if len(one.window_items) else one


def with_first_labels(tree: TargetTree) -> TargetTree:
    """A tree with the first label of each answer, and without tokens that no label is behind.

    In depth-first order the first label of an answer is that of its first code.
    """
    lengths, first = np.unique(tree.history_length, return_index=True)
    first = first[lengths > 0]
    labels = np.full_like(tree.labels, IGNORE)
    labels[first] = tree.labels[first]
    before = np.concatenate([[0], np.cumsum(labels != IGNORE)])
    kept = before[tree.end] > before[:-1]
    place = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    lengths = np.where(labels == IGNORE, 0, tree.history_length)
    ends = place[tree.end]
    return TargetTree(tree.input_ids[kept], tree.depth[kept], ends[kept], labels[kept], lengths[kept])


@dataclass(frozen=True)
class ParallelLoss:
    """Losses of a batch whose next items have one label each, as `one_label_an_item` makes them.

    Attributes:
        catalogue: the items, on the CPU.
        teacher: whose probabilities are learned beside the users' choices; None for none.
    """

    catalogue: Catalogue
    teacher: Teacher | None = None

    @contextmanager
    def head(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Iterator[LossesOfLogits]:
        """The head as it is (`llmrec.train.sft.losses.Loss`)."""
        yield lambda logits, is_training: self.losses(logits.float(), batch, is_training)

    def losses(self, logits: torch.Tensor, batch: Mapping[str, Any], is_training: bool) -> torch.Tensor:
        """Losses of a batch's labels.

        With p the probabilities of a level's codes, a next item's loss is −(1/L) Σ_l log p(its code of level l). A
        teacher's probabilities q of the items give each code the sum over the items that have it; its cross-entropy
        −(1/L) Σ_l Σ_c q(c) log p(c) is that between the item distributions, divided by L. Labels of other tasks have
        −log p(label) over the vocabulary.

        Args:
            logits: float [n, V] of the labelled positions, row after row.
            batch: as `llmrec.train.sft.batches.TreeCollator` gives it, n labels in it.
            is_training: whether the teacher counts: validation has the users' choices alone.

        Returns:
            float32 [n].
        """
        labels, after, window = (
            torch.as_tensor(batch[name]) for name in ("host_labels", "history_length", "window_items")
        )
        learned = labels != IGNORE
        labels, after, row = labels[learned], after[learned], learned.nonzero()[:, 0]
        at = ((after > 0) & (after < (window >= 0).sum(1)[row])).nonzero()[:, 0]
        losses = cross_entropy(logits, to_device(labels, logits.device), reduction="none")
        if not len(at):
            return losses
        row, after = row[at], after[at]
        device = logits.device
        columns = to_device(self.catalogue.token_ids, device)
        log_probs = code_log_probs(logits[to_device(at, device)][:, columns], self.catalogue.trie.codes)
        answers = to_device(self._paths[window[row, after]], device)
        chosen = -log_probs.gather(1, answers).mean(1)
        if self.teacher is not None and is_training:
            chances = self.teacher.code_probabilities(batch, row, after)
            taught = -(to_device(chances, device) * log_probs).sum(1) / self.catalogue.length
            is_observed = after < torch.as_tensor(batch["observed"])[row]
            chosen = self.teacher.mix(chosen, taught, to_device(is_observed, device))
        return losses.index_put((to_device(at, device),), chosen)

    @cached_property
    def _paths(self) -> torch.Tensor:
        """Compact tokens of each item, int64 [items, L]."""
        return self.catalogue.paths
