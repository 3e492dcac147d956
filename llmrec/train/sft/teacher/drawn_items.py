"""Items that a teacher draws for its student to learn: behind a history, and beside what users have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.train.sft.teacher.distributions import CHANCES, STREAM, Teacher


@dataclass(frozen=True)
class SyntheticContinuations:
    """Synthetic items that the teacher draws after histories, a few for each, none twice.

    Attributes:
        teacher: who does.
        count: how many a history gets, fewer where the teacher has none left.
        seed: of the draws, with the epoch.
    """

    teacher: Teacher
    count: int
    seed: int

    def __call__(self, histories: Sequence[Sequence[str]], epoch: int) -> list[list[str]]:
        """Draw synthetic items for each history, one after the other, from the teacher's probabilities.

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
                chance = np.exp(self.teacher.scores(self.teacher.model, some).astype(np.float64))
                for row, history in zip(chance, some, strict=True):
                    row[[numbers[item] for item in history]] = 0
                below = chance.cumsum(1)
                drawn = (below <= rng.random((len(some), 1)) * below[:, -1:]).sum(1)
                # A slice, because the teacher may have nothing left to name: `item` is then behind the last.
                for history, item in zip(some, drawn.tolist(), strict=True):
                    history += names[item : item + 1]
        return [row[len(history) :] for row, history in zip(whole, histories, strict=True)]


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
