"""In-context examples: what other users took after which history, in training interactions alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec.data.examples import training_histories

ChosenBy = Literal["random", "similar"]


class ExamplePool:
    """Users with at least two training items: the last is what they took next, those before it are their history.

    Only training interactions are read, so no held-out target can be an example's target or stand in its history.

    Args:
        users: user ids.
        items: for each user, training items, oldest first. Users with fewer than two are left out.
        history: number of last items of a history by which users are compared.
        seed: seed of the draws.
    """

    def __init__(self, users: Sequence[str], items: Sequence[Sequence[str]], history: int, seed: int) -> None:
        kept = [(user, list(row)) for user, row in zip(users, items, strict=True) if len(row) > 1]
        self._place = {user: place for place, (user, _) in enumerate(kept)}
        self._items = [row for _, row in kept]
        self._history, self._seed = history, seed

    @classmethod
    def load(cls, run: Path, history: int, seed: int) -> ExamplePool:
        """Read the training interactions of a run."""
        table = training_histories(run)
        return cls(table["user_id"].to_list(), table["items"].to_list(), history, seed)

    def choose(self, user: str, history: Sequence[str], count: int, by: ChosenBy) -> list[list[str]]:
        """Choose examples for a user; the user is never one of them.

        - `random`: a draw for each user, as in Brown et al., Language models are few-shot learners, NeurIPS 2020. It
          depends on the seed and the user's id alone, not on who else is evaluated.
        - `similar`: the users whose last items have the largest cosine to the user's last items, both as sets. The
          most similar stands last, next to the question (Liu et al., What makes good in-context examples for GPT-3?,
          DeeLIO 2022, with text embeddings in place of items). Equal similarities are taken in the order of the data.

        Args:
            user: user id, who need not have training interactions.
            history: the user's items before the target, oldest first.
            count: number of examples; fewer come back where there are fewer users.
            by: how they are chosen.

        Returns:
            For each example its items, oldest first; the last is what its user took next.
        """
        own = self._place.get(user, -1)
        if by == "similar":
            order = np.argsort(-self._similarities(history), kind="stable")
            return [self._items[place] for place in order[order != own][:count][::-1]]
        # One more than is needed, in case the user is among them.
        generator = np.random.default_rng([self._seed, zlib.crc32(user.encode())])
        drawn = generator.choice(len(self._items), min(count + 1, len(self._items)), replace=False)
        return [self._items[place] for place in drawn[drawn != own][:count]]

    def _similarities(self, history: Sequence[str]) -> npt.NDArray[np.float64]:
        """Cosines of a history's last items to those of each user of the pool, float64 [users]."""
        codes, sets, sizes = self._sets
        known = sorted({codes[item] for item in history[-self._history :] if item in codes})
        common = np.asarray(sets[:, known].sum(axis=1), np.float64).ravel()
        similarities: npt.NDArray[np.float64] = common / np.sqrt(sizes * max(1, len(known)))
        return similarities

    @cached_property
    def _sets(self) -> tuple[dict[str, int], sparse.csc_array, npt.NDArray[np.float64]]:
        """Item id → column; who has which item among the last, binary [users, items]; items a user, [users]."""
        rows = [set(items[:-1][-self._history :]) for items in self._items]
        codes = {item: code for code, item in enumerate(sorted(set().union(*rows)))}
        columns = [codes[item] for row in rows for item in sorted(row)]
        sizes = np.array([len(row) for row in rows])
        places = np.repeat(np.arange(len(rows)), sizes)
        sets = sparse.coo_array((np.ones(len(columns)), (places, columns)), shape=(len(rows), len(codes)))
        return codes, sets.tocsc(), sizes.astype(np.float64)
