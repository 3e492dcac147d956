"""Items added to and removed from a trie without building it anew, until the next build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.item_trie import ItemTrie
from llmrec.catalogue.trie import ROOT, Trie
from llmrec.errors import UserError


@dataclass(frozen=True)
class Overlay:
    """A trie with changes on top, stepped like the trie itself.

    Added items are numbered from `base.items` on, in lexicographic order of their semantic IDs, so those under
    a prefix are a range too. Prefixes that only they have are nodes from `base.nodes` on; a base node that
    gained children keeps its own and lists the new ones here.

    Attributes:
        base: the trie below.
        removed: int64 [R], removed items of the base, sorted.
        alive: int32 [base items + 1]; base items before an index that are not removed.
        changed_nodes: int64 [K], nodes with added items under them, sorted.
        first: int64 [K + 1]; new children of touched node k are `child[first[k] : first[k + 1]]`.
        child: int64 [C], nodes.
        token: int64 [C], the compact tokens that lead there.
        low: int64 [K]; added items under touched node k are `low[k] : high[k]`.
        high: int64 [K].
        grown: the most new children of a node, per depth.
        added: number of added items.
    """

    base: Trie
    removed: npt.NDArray[np.int64]
    alive: torch.Tensor
    changed_nodes: torch.Tensor
    first: torch.Tensor
    child: torch.Tensor
    token: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    grown: tuple[int, ...]
    added: int

    @property
    def codes(self) -> tuple[int, ...]:
        """Codes of each level."""
        return self.base.codes

    @property
    def device(self) -> torch.device:
        """Where the arrays lie."""
        return self.base.device

    @property
    def items(self) -> int:
        """Number of item indices: the base's, removed ones included, and the added."""
        return self.base.items + self.added

    @property
    def length(self) -> int:
        """Levels of a semantic ID."""
        return self.base.length

    @property
    def fanout(self) -> tuple[int, ...]:
        """A bound of a node's children, per depth."""
        return tuple(old + new for old, new in zip(self.base.fanout, self.grown, strict=True))

    def expand(
        self, nodes: torch.Tensor, depth: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children of prefixes, as `Trie.expand` gives them; prefixes whose items are all gone are not legal."""
        old = nodes < self.base.nodes
        child, token, legal = self.base.expand(torch.where(old, nodes, self.base.nodes - 1), depth)
        legal = legal & old.unsqueeze(-1) & (self.count(child) > 0)
        grown = max(self.grown) if depth is None else self.grown[depth]
        row, hit = self._find(nodes)
        begin = self.first[row].unsqueeze(-1)
        count = torch.where(hit, self.first[row + 1] - self.first[row], 0).unsqueeze(-1)
        slot = torch.arange(grown, device=nodes.device)
        new = slot < count
        index = torch.where(new, begin + slot, 0)
        extra = (self.child[index], self.token[index], new)
        return tuple(torch.cat(pair, -1) for pair in zip((child, token, legal), extra, strict=True))  # type: ignore[return-value]

    def spans(self, nodes: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Ranges of items under prefixes: base items, then added ones, int64 pairs [...]."""
        old = nodes < self.base.nodes
        low, high = self.base.spans(torch.where(old, nodes, ROOT))[0]
        row, hit = self._find(nodes)
        items = self.base.items
        added = (items + torch.where(hit, self.low[row], 0), items + torch.where(hit, self.high[row], 0))
        return [(torch.where(old, low, 0), torch.where(old, high, 0)), added]

    def count(self, nodes: torch.Tensor) -> torch.Tensor:
        """How many items lie under prefixes, removed ones left out, int64 [...]."""
        (low, high), (added_low, added_high) = self.spans(nodes)
        return (self.alive[high] - self.alive[low]).long() + added_high - added_low

    def item(self, leaves: torch.Tensor) -> torch.Tensor:
        """Items of nodes of the last depth, int64 [...]."""
        (low, _), (added_low, added_high) = self.spans(leaves)
        return torch.where(added_high > added_low, added_low, low)

    def to(self, device: torch.device | str) -> Overlay:
        """The same overlay on a device."""
        names = ("alive", "changed_nodes", "first", "child", "token", "low", "high")
        arrays = {name: getattr(self, name).to(device) for name in names}
        return Overlay(self.base.to(device), self.removed, **arrays, grown=self.grown, added=self.added)

    def _find(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of `changed_nodes`, and whether the nodes are there."""
        row = torch.searchsorted(self.changed_nodes, nodes.contiguous()).clamp(
            max=len(self.changed_nodes) - 1
        )
        return row, self.changed_nodes[row] == nodes


def build_overlay(trie: Trie, added: npt.NDArray[np.integer], removed: Sequence[int] = ()) -> Overlay:
    """Put changes on top of a trie.

    Args:
        trie: the catalogue, on the CPU.
        added: int [A, L], semantic IDs of new items: unique, in lexicographic order.
        removed: items (trie order) that leave.

    Raises:
        UserError: an added item has the semantic ID of another, a code out of range or no place in the order;
            an unknown item is removed; nothing is left.
    """
    gone = np.unique(np.asarray(removed, np.int64))
    if len(gone) and not 0 <= gone[0] <= gone[-1] < trie.items:
        raise UserError(f"removed item {int(gone[-1])} is not one of the catalogue's {trie.items}")
    if len(gone) == trie.items and not len(added):
        raise UserError("the catalogue is empty: every item is removed")
    alive = np.ones(trie.items, np.int32)
    alive[gone] = 0
    changes = Trie.build(np.asarray(added), trie.codes) if len(added) else None
    grafted = _graft(trie, changes, alive)
    counts = torch.from_numpy(np.concatenate([[0], np.cumsum(alive)]).astype(np.int32))
    return Overlay(trie, gone, counts, **grafted, added=len(added))


def _graft(trie: Trie, changes: Trie | None, alive: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Lay the trie of the added items over the base: the overlay's `changed_nodes` to `grown`."""
    if changes is None:
        nothing = {name: torch.zeros(1, dtype=torch.long) for name in ("child", "token", "low", "high")}
        none, empty = torch.full((1,), -1), torch.zeros(2, dtype=torch.long)
        return {"changed_nodes": none, "first": empty, "grown": (0,) * trie.length} | nothing
    place = torch.empty(changes.nodes, dtype=torch.long)
    place[ROOT] = ROOT
    fresh = torch.zeros(changes.nodes, dtype=torch.bool)
    parent = torch.repeat_interleave(
        torch.arange(changes.nodes), (changes.first[1:] - changes.first[:-1]).long()
    )
    for depth in range(trie.length):
        here = torch.arange(changes.starts[depth + 1], changes.starts[depth + 2])
        above = parent[here - 1]
        child, token, legal = trie.expand(torch.where(fresh[above], ROOT, place[above]), depth)
        same = legal & (token == changes.token[here].unsqueeze(-1)) & ~fresh[above].unsqueeze(-1)
        fresh[here] = ~same.any(-1)
        place[here] = torch.where(fresh[here], trie.nodes + here, (child * same).sum(-1))
    leaves = torch.arange(changes.starts[-2], changes.nodes)
    taken = ~fresh[leaves] & (torch.from_numpy(alive)[trie.item(place[leaves].clamp(max=trie.nodes - 1))] > 0)
    if taken.any():
        raise UserError("an added item has the semantic ID of an item that is there")
    return _tables(changes, place, fresh, parent)


def _tables(changes: Trie, place: torch.Tensor, fresh: torch.Tensor, parent: torch.Tensor) -> dict[str, Any]:
    changed_nodes, order = place.sort()
    new = fresh[1:].nonzero().squeeze(-1) + 1
    new = new[place[parent[new - 1]].argsort(stable=True)]
    owner = place[parent[new - 1]]
    first = torch.searchsorted(owner, torch.cat([changed_nodes, changed_nodes[-1:] + 1]))
    depth = torch.bucketize(parent[new - 1], torch.tensor(changes.starts[1:-1]), right=True)
    counts = [owner[depth == d].unique(return_counts=True)[1] for d in range(changes.length)]
    grown = tuple(int(count.max()) if len(count) else 0 for count in counts)
    child = torch.cat([place[new], torch.zeros(1, dtype=torch.long)])
    token = torch.cat([changes.token[new].long(), torch.zeros(1, dtype=torch.long)])
    ranges = {"low": changes.low[order].long(), "high": changes.high[order].long()}
    return {
        "changed_nodes": changed_nodes,
        "first": first,
        "child": child,
        "token": token,
        "grown": grown,
    } | ranges


def item_paths(trie: ItemTrie) -> torch.Tensor:
    """Compact tokens of each item, int64 [items, L] on the CPU; −1 for an item that an overlay has removed."""
    trie = trie.to("cpu")
    paths = torch.full((trie.items, trie.length), -1)
    nodes = torch.zeros(1, dtype=torch.long)
    tokens = torch.zeros((1, 0), dtype=torch.long)
    for depth in range(trie.length):
        child, token, legal = trie.expand(nodes, depth)
        parent, slot = legal.nonzero(as_tuple=True)
        nodes = child[parent, slot]
        tokens = torch.cat([tokens[parent], token[parent, slot].unsqueeze(1)], dim=1)
    paths[trie.item(nodes)] = tokens
    return paths
