"""The catalogue's trie as CSR arrays: sorted SIDs, and for each prefix where its children and items lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmrec.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Level:
    """Prefixes of one depth, in lexicographic order; root level has one, the empty prefix.

    Attributes:
        children: int64 [nodes + 1]; children of node n are nodes `children[n] : children[n + 1]` one deeper.
        leaves: int64 [nodes + 1]; items under node n are `leaves[n] : leaves[n + 1]` in trie order.
        codes: int64 [children]; the code that leads to each child.
    """

    children: npt.NDArray[np.int64]
    leaves: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]


def build_levels(sids: npt.NDArray[np.integer]) -> list[Level]:
    """CSR levels of a trie.

    Args:
        sids: int [items, L], unique rows in lexicographic order.

    Returns:
        L levels, from the root down; the children of the last one are the items.

    Raises:
        UserError: an empty catalogue, or rows that are not unique and sorted.
    """
    items, length = sids.shape
    if items == 0:
        raise UserError("the catalogue is empty: no item has a semantic ID")
    # changed[i, l]: row i differs from row i - 1 in one of the first l + 1 codes, so a new prefix begins.
    changed = np.ones((items, length), bool)
    np.logical_or.accumulate(sids[1:] != sids[:-1], axis=1, out=changed[1:])
    if not changed[:, -1].all():
        raise UserError("two items share one semantic ID")
    first_difference = changed[1:].argmax(axis=1)
    rows = np.arange(1, items)
    if (sids[rows, first_difference] < sids[rows - 1, first_difference]).any():
        raise UserError("semantic IDs are not in trie order")
    starts = [np.zeros(1, np.int64)] + [np.flatnonzero(changed[:, level]) for level in range(length)]
    levels = []
    for level in range(length):
        leaves = np.append(starts[level], items)
        children = np.searchsorted(starts[level + 1], leaves)
        levels.append(Level(children, leaves, sids[starts[level + 1], level].astype(np.int64)))
    return levels


class Trie:
    """A trie on a device, stepped for a whole batch of prefixes at once.

    Args:
        sids: int [items, L], unique, in trie order.
        token_ids: for each level, token id of each code, int [codes].
        device: where the arrays live.
    """

    def __init__(
        self, sids: npt.NDArray[np.integer], token_ids: list[npt.NDArray[np.integer]], device: str = "cpu"
    ) -> None:
        import torch

        def put(array: npt.NDArray[np.integer]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device)

        levels = build_levels(sids)
        self.items = len(sids)
        self.length = len(levels)
        self._children = [put(level.children) for level in levels]
        self._leaves = [put(level.leaves) for level in levels] + [put(np.arange(self.items + 1))]
        self._tokens = [put(token_ids[i][level.codes]) for i, level in enumerate(levels)]
        self._fanout = [int(np.diff(level.children).max()) for level in levels]

    def step(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children of prefixes.

        Args:
            level: depth of the prefixes, 0 for the root.
            nodes: int64 [...], prefixes of that depth.

        Returns:
            `child` int64 [..., F]: prefixes one deeper; `token` int64 [..., F]: the token ids that lead
            there; `legal` bool [..., F]: which of the F slots (the level's largest fan-out) are children.
        """
        import torch

        first = self._children[level][nodes].unsqueeze(-1)
        end = self._children[level][nodes + 1].unsqueeze(-1)
        child = first + torch.arange(self._fanout[level], device=nodes.device)
        legal = child < end
        child = torch.where(legal, child, first)
        return child, self._tokens[level][child], legal

    def open(self, depth: int, nodes: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Whether prefixes still lead to an item that is not masked.

        Args:
            depth: depth of the prefixes (L: items).
            nodes: int64 [U, N].
            masked: int64 [U, S], each user's masked items (trie order) sorted, without duplicates, padded at
                the end with the number of items.

        Returns:
            bool [U, N].
        """
        import torch

        low = self._leaves[depth][nodes].contiguous()
        high = self._leaves[depth][nodes + 1].contiguous()
        hidden = torch.searchsorted(masked, high) - torch.searchsorted(masked, low)
        return hidden < high - low
