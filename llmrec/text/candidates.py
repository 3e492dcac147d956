"""Candidate lists: a target among items that its user has not chosen."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


class CandidateSampler:
    """Samples candidates uniformly from the catalogue.

    Args:
        items: item ids of the catalogue.
        seed: seed of the draws.
    """

    def __init__(self, items: Sequence[str], seed: int) -> None:
        self._items = items
        self._random = Random(seed)  # noqa: S311 - nothing secret
        self._chosen: tuple[Sequence[str], frozenset[str]] = ((), frozenset())

    def sample(self, target: str, count: int, chosen: Sequence[str]) -> list[str]:
        """Sample candidates for a target.

        Args:
            target: item id.
            count: number of candidates, the target included; fewer if the catalogue has too few items.
            chosen: item ids that must not be drawn.

        Returns:
            Item ids in random order, the target among them.
        """
        excluded = self._as_set(chosen) | {target}
        eligible_count = len(self._items) - len(excluded)
        negatives: dict[str, None] = {}
        if eligible_count < 2 * count:
            eligible = [item for item in self._items if item not in excluded]
            negatives = dict.fromkeys(self._random.sample(eligible, min(count - 1, len(eligible))))
        while len(negatives) < min(count - 1, eligible_count):
            item = self._items[int(self._random.random() * len(self._items))]
            if item not in excluded:
                negatives[item] = None
        candidates = list(negatives)
        candidates.insert(self._random.randrange(len(candidates) + 1), target)
        return candidates

    def _as_set(self, chosen: Sequence[str]) -> frozenset[str]:
        """Return the items as a set. The last set is cached, because one user's targets follow one another."""
        if chosen is not self._chosen[0]:
            self._chosen = chosen, frozenset(chosen)
        return self._chosen[1]
