"""Items that a teacher draws for its student to learn: behind a history, and beside what users have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.train.sft.samples import Continuation, Halves
from llmrec.train.sft.teacher.distributions import STREAM, Teacher

NOTHING = np.empty(0, np.float16)


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

    def __call__(self, owner: int, window: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Indices [n − 1, count] of the items drawn beside those of a window [n], for `samples.Branch`."""
        drawn = self.teacher.beside(owner, window, self.count, self.seed)
        items: npt.NDArray[np.int32] = drawn.numpy().astype(np.int32)
        return items
