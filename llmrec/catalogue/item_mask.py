"""Allow- and deny-lists: which prefixes of a trie still lead to an item that a request may be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.item_trie import ItemTrie


@dataclass(frozen=True)
class ItemMask:
    """One list of items a request, allowed or denied; a prefix is closed once no allowed item is under it.

    Attributes:
        lists: int64 [U, S], items (trie order) of each request, sorted, padded at the end with a number beyond.
        is_allow_list: bool [U, 1]; whether a request's list names what is allowed, or what is denied.
        any_allow: whether any of them names what is allowed.
    """

    lists: torch.Tensor
    is_allow_list: torch.Tensor
    any_allow: bool

    def has_allowed_item(self, trie: ItemTrie, nodes: torch.Tensor) -> torch.Tensor:
        """Whether prefixes lead to an allowed item.

        Args:
            trie: the catalogue.
            nodes: int64 [U, N].

        Returns:
            bool [U, N].
        """
        listed = torch.zeros_like(nodes)
        for low, high in trie.spans(nodes):
            listed += torch.searchsorted(self.lists, high.contiguous())
            listed -= torch.searchsorted(self.lists, low.contiguous())
        return torch.where(self.is_allow_list, listed > 0, listed < trie.count(nodes))

    def allowed_items(self, items: int) -> torch.Tensor:
        """Which of all items each request may be given, bool [U, items]."""
        listed = torch.zeros((len(self.lists), items + 1), dtype=torch.bool, device=self.lists.device)
        listed = listed.scatter_(1, self.lists.clamp(max=items), True)[:, :items]
        return listed == self.is_allow_list

    def select(self, index: torch.Tensor) -> ItemMask:
        """The mask of some of the requests, int64 [u]."""
        return ItemMask(self.lists[index], self.is_allow_list[index], self.any_allow)


MaskFactory = Callable[[list[int]], ItemMask | None]
"""A function of the numbers of some requests; returns their mask."""


def mask_factory(
    trie: ItemTrie,
    allow: Sequence[Sequence[int] | None] | None = None,
    deny: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
) -> MaskFactory:
    """Masks of some of U requests at a time: that of all is as wide as the longest list of any of them.

    The arguments are those of `build_item_mask`.
    """

    def of(requests: list[int]) -> ItemMask | None:
        some_allow = None if allow is None else [allow[request] for request in requests]
        some_deny = None if deny is None else [deny[request] for request in requests]
        return build_item_mask(trie, some_allow, some_deny, device)

    return of


def build_item_mask(
    trie: ItemTrie,
    allow: Sequence[Sequence[int] | None] | None = None,
    deny: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
) -> ItemMask | None:
    """The mask of U requests; where a request has both lists, what is allowed and not denied.

    Args:
        trie: the catalogue.
        allow: for each request, items (trie order) it may be given; None for the whole catalogue.
        deny: for each request, items it must not be given.
        device: the trie's device.

    Returns:
        The mask, or None where no request has a list.
    """
    requests = len(allow if allow is not None else deny or [])
    allowed = allow or [None] * requests
    denied = deny or [[]] * requests
    if not any(row is not None for row in allowed) and not any(len(row) for row in denied):
        return None
    # Items that have been removed count neither as allowed nor as denied.
    rows = [
        np.setdiff1d(_list(allow_row, deny_row), trie.removed, assume_unique=True)
        for allow_row, deny_row in zip(allowed, denied, strict=True)
    ]
    lists = np.full((requests, max(1, *(len(row) for row in rows))), np.iinfo(np.int64).max)
    for out, row in zip(lists, rows, strict=True):
        out[: len(row)] = row
    flags = torch.tensor([[row is not None] for row in allowed])
    any_allow = bool(flags.any())
    on_device = torch.from_numpy(lists).to(device, non_blocking=True)
    return ItemMask(on_device, flags.to(device, non_blocking=True), any_allow)


def _list(allow: Sequence[int] | None, deny: Sequence[int]) -> npt.NDArray[np.int64]:
    hidden = np.unique(np.asarray(deny, np.int64))
    return hidden if allow is None else np.setdiff1d(np.asarray(allow, np.int64), hidden)
