"""Items that a teacher draws for its student to learn: behind a history, and beside what users have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.train.sft.samples import Continuation, Halves
from llmrec.train.sft.teacher.distributions import CHANCES, STREAM, Teacher

NOTHING = np.empty(0, np.float16)


@dataclass(frozen=True)
class SyntheticContinuations:
    """Synthetic items that the teacher draws after histories, a few for each, none twice.

    Attributes:
        teacher: who does.
        count: how many a history gets, fewer where the teacher has none left.
        seed: of the draws, with the epoch.
        history: number of items that a prompt holds. The teacher reads as many as the student will: before the last
            synthetic item those of a full prompt.
    """

    teacher: Teacher
    count: int
    seed: int
    history: int

    def __call__(self, histories: Sequence[Sequence[str]], epoch: int) -> list[Continuation]:
        """Draw synthetic items for each history, one after the other, from the teacher's probabilities.

        Args:
            histories: item ids, oldest first, none empty.
            epoch: from 0; each draws anew.
        """
        rng = np.random.default_rng((self.seed, epoch, STREAM))
        several = max(1, CHANCES // len(self.teacher.catalogue.items))
        return [
            continuation
            for start in range(0, len(histories), several)
            for continuation in self._draw(histories[start : start + several], rng)
        ]

    def _draw(self, histories: Sequence[Sequence[str]], rng: np.random.Generator) -> list[Continuation]:
        names, numbers = self.teacher.catalogue.items, self.teacher.catalogue.index
        read = [list(history[-max(1, self.history + 1 - self.count) :]) for history in histories]
        before = list(map(len, read))
        taken = [[numbers[item] for item in history] for history in histories]
        chances: list[list[Halves]] = [[] for _ in histories]
        for _ in range(self.count):
            scores = self.teacher.scores(self.teacher.model, read)
            below = np.exp(scores.astype(np.float64))
            for row, out in zip(below, taken, strict=True):
                row[out] = 0
            np.cumsum(below, axis=1, out=below)
            drawn = (below <= rng.random((len(read), 1)) * below[:, -1:]).sum(1)
            of_codes = self.teacher.codes.pack(scores, np.minimum(drawn, len(names) - 1))
            for row, item in enumerate(drawn.tolist()):
                if item < len(names):  # otherwise the teacher has nothing left to name
                    read[row].append(names[item])
                    taken[row].append(item)
                    chances[row].append(of_codes[row])
        return [
            Continuation(items[count:], np.concatenate([NOTHING, *of_items]))
            for items, count, of_items in zip(read, before, chances, strict=True)
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
