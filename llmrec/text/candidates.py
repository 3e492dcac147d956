"""Candidates: a target among items that its user has not chosen."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


class CandidateSampler:
    """Draws candidates, uniformly from the catalogue.

    Args:
        items: the catalogue.
        seed: of the draws.
    """

    def __init__(self, items: Sequence[str], seed: int) -> None:
        self._items = items
        self._random = Random(seed)  # noqa: S311 - nothing secret
        self._chosen: tuple[Sequence[str], frozenset[str]] = ((), frozenset())

    def sample(self, target: str, count: int, chosen: Sequence[str]) -> list[str]:
        """Candidates for a target, in random order.

        Args:
            target: item id.
            count: how many candidates, the target among them; fewer where the catalogue has no more to offer.
            chosen: item ids that must not be drawn.
        """
        mine = self._set(chosen) | {target}
        left = len(self._items) - len(mine)
        found: dict[str, None] = {}
        if left < 2 * count:
            rest = [item for item in self._items if item not in mine]
            found = dict.fromkeys(self._random.sample(rest, min(count - 1, len(rest))))
        while len(found) < min(count - 1, left):
            item = self._items[int(self._random.random() * len(self._items))]
            if item not in mine:
                found[item] = None
        shown = list(found)
        shown.insert(self._random.randrange(len(shown) + 1), target)
        return shown

    def _set(self, chosen: Sequence[str]) -> frozenset[str]:
        """The same items as a set; one user's targets come one after another."""
        if chosen is not self._chosen[0]:
            self._chosen = chosen, frozenset(chosen)
        return self._chosen[1]
