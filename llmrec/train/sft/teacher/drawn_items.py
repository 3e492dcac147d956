"""Items that a teacher draws for its student to learn: behind a history, and beside what users have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from llmrec.train.sft.samples import Continuation, Halves, Ints
from llmrec.train.sft.teacher.distributions import STREAM, Teacher

NOTHING = np.empty(0, np.float16)
LEAST = -50.0
"""Log-probability of an item with probability 0, where an item must be drawn."""


@dataclass(frozen=True)
class SyntheticContinuations:
    """Synthetic items that the teacher draws after histories, a few for each, none twice.

    Attributes:
        teacher: who does.
        count: how many a history gets, fewer where the teacher has none left.
        seed: of the draws, with the epoch.
        history: number of items that a prompt holds. The teacher reads what the student will: before the last
            synthetic item those of a full prompt.
        keeps_chances: whether what the teacher thinks of the items' codes is kept with them, for losses that read it.
    """

    teacher: Teacher
    count: int
    seed: int
    history: int
    keeps_chances: bool = True

    def __call__(self, histories: Sequence[Sequence[str]], epoch: int) -> list[Continuation]:
        """Draw synthetic items for each history, one after the other, from the teacher's probabilities.

        Args:
            histories: item ids, oldest first, none empty.
            epoch: from 0; each draws anew.
        """
        rng = np.random.default_rng((self.seed, epoch, STREAM))
        some = self.teacher.at_once
        return [
            continuation
            for start in range(0, len(histories), some)
            for continuation in self._draw(histories[start : start + some], rng)
        ]

    def _draw(self, histories: Sequence[Sequence[str]], rng: np.random.Generator) -> list[Continuation]:
        names, numbers = self.teacher.catalogue.items, self.teacher.catalogue.index
        whole = [list(history) for history in histories]
        first = [max(0, len(history) + self.count - self.history - 1) for history in histories]
        chances: list[list[Halves]] = [[] for _ in histories]
        for _ in range(self.count):
            read = [items[min(start, len(items) - 1) :] for items, start in zip(whole, first, strict=True)]
            scores = self.teacher.scores(self.teacher.model, read)
            weights = np.exp(scores.astype(np.float64))
            for row, items in zip(weights, whole, strict=True):
                row[[numbers[item] for item in items]] = 0
            below = weights.cumsum(1)
            drawn = (below <= rng.random((len(whole), 1)) * below[:, -1:]).sum(1)
            if self.keeps_chances:
                packed = self.teacher.prefix_chances.pack(scores, np.minimum(drawn, len(names) - 1))
            for row, item in enumerate(drawn.tolist()):
                if item < len(names):  # otherwise the teacher has nothing left to name
                    whole[row].append(names[item])
                    if self.keeps_chances:
                        chances[row].append(packed[row])
        return [
            Continuation(items[len(history) :], np.concatenate([NOTHING, *of_items]))
            for items, history, of_items in zip(whole, histories, chances, strict=True)
        ]


@dataclass(frozen=True)
class Branching:
    """Items drawn by the teacher beside those that users have chosen: branches of the same trunk.

    Attributes:
        teacher: who draws.
        count: how many at each position.
        seed: of the draws; they are the same in every epoch.
    """

    teacher: Teacher
    count: int
    seed: int

    def __call__(self, owner: int, window: Ints) -> Ints:
        """Items drawn from the probabilities at each position of a window [n], other than the one chosen there.

        Args:
            owner: number of the user (`samples.owner_of`).
            window: indices of chosen items.

        Returns:
            int32 [n − 1, count], none twice in a row; the likeliest where fewer have a chance.
        """
        key = owner, window.tobytes()
        if key not in self._drawn:
            self._drawn[key] = self._draw(owner, torch.from_numpy(window.astype(np.int64)))
        return self._drawn[key]

    def _draw(self, owner: int, window: torch.Tensor) -> Ints:
        rng = np.random.default_rng((self.seed, owner, len(window), int(window[0]), STREAM))
        drawn, distributions = [], []
        for after, scores in self.teacher.scores_of_choices(owner, window):
            noise = torch.from_numpy(rng.gumbel(size=scores.shape).astype(np.float32))
            tilted = scores.log_softmax(1).clamp(min=LEAST) + noise
            chosen = window[after]
            tilted[torch.arange(len(after)), chosen] = -torch.inf
            drawn.append(tilted.topk(self.count, dim=1).indices)
            answers = torch.cat([chosen[:, None], drawn[-1]], dim=1)
            distributions.append(self.teacher.prefix_chances.along(scores, answers))
        beside = torch.cat(drawn)
        # The training will ask for the probabilities of just these answers.
        self.teacher.keep(owner, window, torch.cat([window[1:, None], beside], dim=1), distributions)
        items: Ints = beside.numpy().astype(np.int32)
        return items

    @cached_property
    def _drawn(self) -> dict[tuple[int, bytes], Ints]:
        """What was drawn for each owner and window; it is the same in every epoch."""
        return {}
