"""The loss whose softmax is over the vocabulary, as any language model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from llmrec.token_tree import IGNORE
from llmrec.train.sft.losses.token_targets import TokenTargets

if TYPE_CHECKING:
    from llmrec.train.sft.losses import LossesOfLogits
    from llmrec.train.sft.teacher.distributions import Teacher, TeacherDistribution


@dataclass(frozen=True)
class VocabularyLoss:
    """−log p(label), each token among all tokens of the vocabulary.

    Attributes:
        teacher: whose probabilities are learned beside the labels; None for none.
    """

    teacher: Teacher | None = None

    @contextmanager
    def head(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Iterator[LossesOfLogits]:
        """The head as it is (`llmrec.train.sft.losses.Loss`)."""
        yield partial(self._losses, batch)

    def _losses(self, batch: Mapping[str, Any], logits: torch.Tensor, is_training: bool) -> torch.Tensor:
        labels = torch.as_tensor(batch["host_labels"])
        labels = labels[labels != IGNORE]
        if self.teacher is not None and is_training:
            targets = taught_targets(labels, self.teacher, self.teacher.distributions(batch))
        else:
            targets = TokenTargets.of_labels(labels)
        return targets.to(logits.device).losses(logits)


def taught_targets(
    labels: torch.Tensor, teacher: Teacher, distributions: Sequence[TeacherDistribution]
) -> TokenTargets:
    """Targets of labels over the vocabulary, in which a teacher has its share.

    Args:
        labels: int64 [n], on the host.
        teacher: who teaches.
        distributions: what it says of some of the labels.

    Returns:
        For each label (1 − w) of itself and w of the teacher's probabilities, w its share; 0 where it says nothing.
    """
    left, parts = torch.ones(len(labels)), []
    for level in distributions:
        share = teacher.share(level.is_observed)
        left[level.label_index] = 1 - share
        row, slot = level.probabilities.nonzero(as_tuple=True)
        of_teacher = share[row] * level.probabilities[row, slot]
        parts.append((level.label_index[row], level.tokens[row, slot], of_teacher))
    itself = left.nonzero()[:, 0]
    return TokenTargets.joined([(itself, labels[itself], left[itself]), *parts])
