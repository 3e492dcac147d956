"""The catalogue's trie as CSR arrays: nodes numbered level by level, children of a node side by side.

Items stand in trie order (semantic IDs sorted lexicographically), so the items under a prefix are a range, and
whether a prefix still leads to an allowed item is a matter of counting (`llmrec.catalogue.item_mask`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from llmrec.errors import UserError
from llmrec.files import cause_of

ROOT = 0
_ARRAYS = ("first", "token", "low", "high")
_NUMBERS = ("starts", "codes", "fanout")


@dataclass(frozen=True)
class Trie:
    """A trie over compact tokens: code `c` of level `l` is `codes[0] + … + codes[l - 1] + c`.

    Attributes:
        first: int32 [nodes + 1]; children of node n are nodes `first[n] : first[n + 1]`.
        token: int32 [nodes]; the compact token that leads to a node (root: 0, without meaning).
        low: int32 [nodes]; items under node n are `low[n] : high[n]`, in trie order.
        high: int32 [nodes].
        starts: first node of each depth 0 … L, then the number of nodes.
        codes: codes of each level.
        fanout: the most children of a node, per depth 0 … L − 1.
    """

    first: torch.Tensor
    token: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    starts: tuple[int, ...]
    codes: tuple[int, ...]
    fanout: tuple[int, ...]

    @classmethod
    def build(cls, sids: npt.NDArray[np.integer], codes: Sequence[int]) -> Trie:
        """A trie on the CPU.

        Args:
            sids: int [items, L], unique rows in lexicographic order.
            codes: codes of each level; larger than any code in `sids`.

        Raises:
            UserError: an empty catalogue, codes out of range, or rows that are not unique and sorted.
        """
        _check(sids, codes)
        items, length = sids.shape
        rows = [np.zeros(1, np.int64)]
        begins = np.zeros(items, bool)  # row i differs from row i − 1 in a code so far: a new prefix
        begins[0] = True
        tokens = [np.zeros(1, np.int64)]
        offsets = np.concatenate([[0], np.cumsum(codes)])
        for level in range(length):
            begins[1:] |= sids[1:, level] != sids[:-1, level]
            rows.append(np.flatnonzero(begins))
            tokens.append(sids[rows[-1], level] + offsets[level])
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        first = [starts[d + 1] + np.searchsorted(rows[d + 1], rows[d]) for d in range(length)]
        first.append(np.full(items + 1, starts[-1]))
        return cls(
            first=_int32(first),
            token=_int32(tokens),
            low=_int32(rows),
            high=_int32([np.append(row[1:], items) for row in rows]),
            starts=tuple(starts.tolist()),
            codes=tuple(int(n) for n in codes),
            fanout=tuple(int(np.diff(np.append(first[d], starts[d + 2])).max()) for d in range(length)),
        )

    def save(self, path: Path) -> None:
        """Write the trie as safetensors."""
        from safetensors.torch import save_file

        shape = {name: " ".join(map(str, getattr(self, name))) for name in _NUMBERS}
        save_file({name: getattr(self, name) for name in _ARRAYS}, path, metadata=shape)

    @classmethod
    def open(cls, path: Path) -> Trie:
        """Map a saved trie into memory: pages are read when they are stepped over, and shared by processes.

        Raises:
            UserError: a missing or broken file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                texts = file.metadata() or {}
                starts, codes, fanout = (
                    tuple(int(number) for number in texts[name].split()) for name in _NUMBERS
                )
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
                trie = cls(**arrays, starts=starts, codes=codes, fanout=fanout)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: no trie that can be read: {cause_of(error)}") from None
        trie._check_shape(path)
        return trie

    def to(self, device: torch.device | str) -> Trie:
        """The same trie on a device."""
        arrays = {name: getattr(self, name).to(device) for name in _ARRAYS}
        return Trie(**arrays, starts=self.starts, codes=self.codes, fanout=self.fanout)

    @property
    def base(self) -> Trie:
        """This trie: nothing lies on top of it."""
        return self

    @property
    def removed(self) -> npt.NDArray[np.int64]:
        """Items that may not come out: none, int64 [0]."""
        return np.empty(0, np.int64)

    @property
    def added(self) -> int:
        """Number of items that were added since training: none."""
        return 0

    @property
    def device(self) -> torch.device:
        """Where the arrays lie."""
        return self.first.device

    @property
    def items(self) -> int:
        """Number of items."""
        return self.starts[-1] - self.starts[-2]

    @property
    def length(self) -> int:
        """Levels of a semantic ID."""
        return len(self.codes)

    @property
    def nodes(self) -> int:
        """Number of prefixes, the empty one and the items included."""
        return self.starts[-1]

    def expand(
        self, nodes: torch.Tensor, depth: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children of prefixes, for a whole batch in one call.

        Args:
            nodes: int64 [...].
            depth: depth of all of them; None where they differ.

        Returns:
            `child` int64 [..., F], nodes one deeper; `token` int32 [..., F], the compact tokens that lead
            there; `legal` bool [..., F], which of the F slots (the largest fan-out of that depth) are children.
        """
        # index_select, not indexing: its cost hardly grows with the fan-out.
        flat = nodes.reshape(-1)
        first = self.first.index_select(0, flat).long().unsqueeze(-1)
        end = self.first.index_select(0, flat + 1).long().unsqueeze(-1)
        fanout = max(self.fanout) if depth is None else self.fanout[depth]
        child = first + torch.arange(fanout, device=nodes.device)
        legal = child < end
        child = torch.minimum(child, end - 1)
        token = self.token.index_select(0, child.view(-1))
        shape = (*nodes.shape, fanout)
        return child.view(shape), token.view(shape), legal.view(shape)

    def spans(self, nodes: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Ranges of items under prefixes: int64 pairs [...], `low` and `high` (one pair here)."""
        return [(self.low[nodes].long(), self.high[nodes].long())]

    def count(self, nodes: torch.Tensor) -> torch.Tensor:
        """How many items lie under prefixes, int64 [...]."""
        return (self.high[nodes] - self.low[nodes]).long()

    def item(self, leaves: torch.Tensor) -> torch.Tensor:
        """Items (trie order) of nodes of the last depth, int64 [...]."""
        return self.low[leaves].long()

    def item_nodes(self, items: torch.Tensor) -> torch.Tensor:
        """Nodes on the way to items, int64 [n] in trie order: int64 [n, L + 1], the root first, the items last."""
        levels = [
            begin + torch.searchsorted(self.low[begin:end], items.int(), right=True) - 1
            for begin, end in itertools.pairwise(self.starts)
        ]
        return torch.stack(levels, dim=1)

    def walk(self, tokens: Sequence[int]) -> int | None:
        """The node that compact tokens lead to from the root; None where they leave the trie."""
        node = ROOT
        for token in tokens:
            begin, end = int(self.first[node]), int(self.first[node + 1])
            child = begin + int(torch.searchsorted(self.token[begin:end], token))
            if child == end or self.token[child] != token:
                return None
            node = child
        return node

    def _check_shape(self, path: Path) -> None:
        """Raise a UserError unless the arrays have the lengths that the file's numbers say."""
        right = (
            len(self.starts) == self.length + 2
            and len(self.fanout) == self.length > 0
            and all(getattr(self, name).dtype == torch.int32 for name in _ARRAYS)
            and len(self.first) == self.nodes + 1
            and all(len(getattr(self, name)) == self.nodes for name in _ARRAYS[1:])
        )
        if not right:
            raise UserError(f"{path}: a trie whose parts do not fit each other")


def _int32(parts: list[npt.NDArray[np.int64]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int32))


def _check(sids: npt.NDArray[np.integer], codes: Sequence[int]) -> None:
    """Raise a UserError unless rows are semantic IDs, unique and in lexicographic order."""
    if len(sids) == 0:
        raise UserError("the catalogue is empty: no item has a semantic ID")
    if sids.ndim != 2 or sids.shape[1] != len(codes):
        raise UserError(f"semantic IDs of shape {sids.shape}, but {len(codes)} levels of codes")
    if sids.min() < 0 or (sids.max(axis=0) >= codes).any():
        raise UserError(f"semantic IDs with codes beyond the {list(codes)} of their levels")
    differs = sids[1:] != sids[:-1]
    if not differs.any(axis=1).all():
        raise UserError("two items share one semantic ID")
    level = differs.argmax(axis=1)
    rows = np.arange(1, len(sids))
    if (sids[rows, level] < sids[rows - 1, level]).any():
        raise UserError("semantic IDs are not in trie order")
