"""What a request to vLLM asks of a catalogue, and how a batch of logits is held to it. Knows no vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.catalogue import Catalogue, Prefixes, walk
from llmrec.catalogue.item_trie import ItemTrie
from llmrec.catalogue.registry import find_catalogue
from llmrec.decode.scoring import log_normaliser
from llmrec.errors import UserError

PREFIX = "llmrec_"
KEYS = ("llmrec_catalogue", "llmrec_depth", "llmrec_allow", "llmrec_deny")


@dataclass(frozen=True)
class ConstrainedRequest:
    """A request under a catalogue.

    Attributes:
        catalogue: its items.
        depth: how many of the prompt's last tokens are SID tokens of a prefix.
        items: int64 [n], sorted: items (trie order) that `allow` allows, or that are denied.
        is_allow_list: whether `items` names what is allowed.
    """

    catalogue: Catalogue
    depth: int
    items: npt.NDArray[np.int64]
    is_allow_list: bool


def read_request(extra: Mapping[str, Any] | None) -> ConstrainedRequest | None:
    """Read `SamplingParams.extra_args`.

    Args:
        extra: `llmrec_catalogue`: a registered catalogue's name; `llmrec_depth`: how many of the prompt's last
            tokens are SID tokens of a prefix; `llmrec_allow`, `llmrec_deny`: lists of item ids. Keys without
            `llmrec_` are not looked at.

    Returns:
        The request, or None where no key begins with `llmrec_`.

    Raises:
        UserError: an unknown key, catalogue or item, a value of the wrong type, a depth out of range, or lists
            that allow no item.
    """
    asked = {key: value for key, value in (extra or {}).items() if key.startswith(PREFIX)}
    if not asked:
        return None
    unknown = next((key for key in asked if key not in KEYS), None)
    if unknown is not None:
        raise UserError(f"{unknown[:60]}: no such key; there are: {', '.join(KEYS)}")
    name = asked.get("llmrec_catalogue")
    if not isinstance(name, str):
        raise UserError(f"llmrec_catalogue: expected a catalogue's name, found {_shown(name)}")
    catalogue = find_catalogue(name)
    depth = asked.get("llmrec_depth", 0)
    if not isinstance(depth, int) or isinstance(depth, bool) or not 0 <= depth < catalogue.length:
        raise UserError(f"llmrec_depth: expected 0 to {catalogue.length - 1}, found {_shown(depth)}")
    allowed = _items(asked, "llmrec_allow", catalogue)
    denied = _items(asked, "llmrec_deny", catalogue)
    hidden = np.unique(np.asarray(denied or [], np.int64))
    if allowed is None:
        if len(hidden) == catalogue.count:
            raise UserError("llmrec_deny: names every item of the catalogue, so none is left")
        return ConstrainedRequest(catalogue, depth, hidden, is_allow_list=False)
    left = np.setdiff1d(np.asarray(allowed, np.int64), hidden)
    if not len(left):
        raise UserError("llmrec_allow: no item is left; leave the key out to allow the whole catalogue")
    return ConstrainedRequest(catalogue, depth, left, is_allow_list=True)


def _items(asked: dict[str, Any], key: str, catalogue: Catalogue) -> list[int] | None:
    value = asked.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{key}: expected a list of item ids as strings, found {_shown(value)}")
    return catalogue.indices(value, key)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass(frozen=True)
class RowLists:
    """Allow- and deny-lists of R rows laid end to end, so that one long list costs the others nothing.

    Attributes:
        keys: int64 [n], sorted: item i of row r as `r · stride + i`.
        is_allow_list: bool [R, 1], whether a row's list names what is allowed.
        stride: more than the number of items.
    """

    keys: torch.Tensor
    is_allow_list: torch.Tensor
    stride: int

    def has_allowed_item(self, trie: ItemTrie, nodes: torch.Tensor) -> torch.Tensor:
        """Whether prefixes, int64 [R, N], lead to an allowed item: bool [R, N]."""
        row = torch.arange(len(nodes), device=nodes.device).unsqueeze(1) * self.stride
        listed = torch.zeros_like(nodes)
        for low, high in trie.spans(nodes):
            listed += torch.searchsorted(self.keys, row + high) - torch.searchsorted(self.keys, row + low)
        return torch.where(self.is_allow_list, listed > 0, listed < trie.count(nodes))


def constrain(
    logits: torch.Tensor, catalogue: Catalogue, prefixes: Prefixes, lists: RowLists | None
) -> torch.Tensor:
    """Turn logits into log-probabilities of the full vocabulary for legal tokens, −inf for all others.

    Legal are the tokens that lead to an allowed item; after a whole semantic ID (of a textual one, its end
    marker), and where nothing is legal, the end token alone.

    Args:
        logits: float32 [R, V], changed in place.
        catalogue: the items, on the same device.
        prefixes: what the rows have behind them.
        lists: the rows' allow- and deny-lists; None where no row has one.

    Returns:
        bool [R], the rows whose prefix is dead: it leaves the trie, or no allowed item is under it.
    """
    nodes, inside = walk(catalogue, prefixes)
    child, token, legal = catalogue.trie.expand(nodes)
    ids, end = catalogue.token_ids[token], prefixes.end.unsqueeze(-1)
    pads = legal & (ids < 0)
    legal &= inside.unsqueeze(-1) & ~pads
    if lists is not None:
        legal &= lists.has_allowed_item(catalogue.trie, child)
    ids = ids.clamp(min=0)
    total = log_normaliser(logits).unsqueeze(-1)
    scores = logits.gather(1, ids) - total
    # A logit that is not finite (another processor's mask, an overflow) is no way on.
    scores.masked_fill_(~(legal & scores.isfinite()), -torch.inf)
    stuck = (scores == -torch.inf).all(-1, keepdim=True)
    whole = (inside & ((prefixes.count == catalogue.length) | pads.any(-1))).unsqueeze(-1)
    ending = logits.gather(1, end) - total
    ending = torch.where(whole & ending.isfinite(), ending, 0.0).masked_fill_(~stuck, -torch.inf)
    logits.fill_(-torch.inf)
    # Slots that are no children repeat another's token, so a plain scatter could overwrite a legal one.
    logits.scatter_reduce_(1, torch.cat([ids, end], 1), torch.cat([scores, ending], 1), "amax")
    return (stuck & ~whole).squeeze(-1) & ~_ended(prefixes, catalogue.length)


def _ended(prefixes: Prefixes, length: int) -> torch.Tensor:
    """Which rows already hold their end token, or have gone beyond a whole semantic ID."""
    last = prefixes.tokens.gather(1, (prefixes.count - 1).clamp(0, length - 1).unsqueeze(-1)).squeeze(-1)
    return (prefixes.count > length) | ((prefixes.count > 0) & (last == prefixes.end))
