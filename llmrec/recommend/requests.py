"""What ranked lists are wanted for, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Requests:
    """What lists are wanted for, one row a list.

    Attributes:
        histories: item ids, oldest first.
        prompts: token ids of the same histories.
        allowed: places in trie order of the items that a list may hold; None for all items, as a row or for all rows.
        denied: places in trie order of the items that it may not hold.
    """

    histories: Sequence[Sequence[str]]
    prompts: list[list[int]]
    allowed: list[list[int] | None] | None
    denied: list[list[int]]


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: its id, as text also where the data's ids are numbers.
        title: its title; its id where the run has no titles.
        score: sum of the log-probabilities of its SID tokens.
    """

    item_id: str
    title: str
    score: float
