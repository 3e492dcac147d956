"""What the searches, masks and rewards need of a catalogue's trie, whether or not it has changed since training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from llmrec.catalogue.trie import Trie


class ItemTrie(Protocol):
    """A trie of semantic IDs: `Trie` as it was trained, or `Overlay` with the changes since then on top."""

    @property
    def base(self) -> Trie:
        """The trie as it was trained: a `Trie` is its own base."""

    @property
    def codes(self) -> tuple[int, ...]:
        """Codes of each level."""

    @property
    def fanout(self) -> tuple[int, ...]:
        """A bound of a node's children, per depth."""

    @property
    def removed(self) -> npt.NDArray[np.int64]:
        """Items of the base that may no longer come out, sorted: int64 [R]."""

    @property
    def added(self) -> int:
        """Number of items that the base does not have; their numbers follow those of the base."""

    @property
    def items(self) -> int:
        """Number of item indices, removed and added items included."""

    @property
    def length(self) -> int:
        """Levels of a semantic ID."""

    @property
    def device(self) -> torch.device:
        """Where the arrays lie."""

    def expand(
        self, nodes: torch.Tensor, depth: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children of prefixes, for a whole batch in one call.

        Args:
            nodes: int64 [...].
            depth: depth of all of them; None where they differ.

        Returns:
            `child` int64 [..., F], nodes one deeper; `token` int [..., F], the compact tokens that lead there;
            `legal` bool [..., F], which of the F slots are children that lead to an item.
        """

    def spans(self, nodes: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Ranges of items under prefixes: int64 pairs [...], `low` and `high`."""

    def count(self, nodes: torch.Tensor) -> torch.Tensor:
        """How many items lie under prefixes, removed ones left out, int64 [...]."""

    def item(self, leaves: torch.Tensor) -> torch.Tensor:
        """Items (trie order) of nodes of the last depth, int64 [...]."""

    def to(self, device: torch.device | str) -> Self:
        """The same trie on a device."""
