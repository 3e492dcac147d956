"""Constraints of vLLM requests: parsing of `llmrec_*` keys, and masking of a batch of logits.

This module does not import vLLM.
"""

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

PREFIX = "llmrec"
"""How every key of ours begins, in any case, so that a misspelt one is refused and not passed over."""
KEYS = ("llmrec_catalogue", "llmrec_depth", "llmrec_allow", "llmrec_deny")


@dataclass(frozen=True)
class ConstrainedRequest:
    """A request whose output must be an item of a catalogue.

    Attributes:
        catalogue: the items.
        depth: number of tokens at the end of the prompt that are SID tokens of a prefix.
        items: int64 [n], sorted items (trie order): the allowed ones, or the denied ones.
        is_allow_list: whether `items` are the allowed ones.
    """

    catalogue: Catalogue
    depth: int
    items: npt.NDArray[np.int64]
    is_allow_list: bool


def read_request(extra: Mapping[str, Any] | None) -> ConstrainedRequest | None:
    """Read `SamplingParams.extra_args`.

    Args:
        extra: `llmrec_catalogue`: name of a registered catalogue; `llmrec_depth`: number of tokens at the end of the
            prompt that are SID tokens of a prefix; `llmrec_allow`, `llmrec_deny`: lists of item ids. Keys that do not
            begin with `llmrec` are ignored.

    Returns:
        The request, or None if no key begins with `llmrec`.

    Raises:
        UserError: an unknown key, catalogue or item, a value of the wrong type, a depth out of range, or lists
            that allow no item.
    """
    options = {key: value for key, value in (extra or {}).items() if has_our_prefix(key)}
    if not options:
        return None
    unknown = next((key for key in options if key not in KEYS), None)
    if unknown is not None:
        raise UserError(f"{' '.join(unknown.split())[:60]}: no such key; there are: {', '.join(KEYS)}")
    name = options.get("llmrec_catalogue")
    if not isinstance(name, str):
        raise UserError(f"llmrec_catalogue: expected a catalogue's name, found {preview(name)}")
    catalogue = find_catalogue(name)
    depth = options.get("llmrec_depth", 0)
    if not isinstance(depth, int) or isinstance(depth, bool) or not 0 <= depth < catalogue.length:
        raise UserError(f"llmrec_depth: expected 0 to {catalogue.length - 1}, found {preview(depth)}")
    allowed = _items(options, "llmrec_allow", catalogue)
    denied = _items(options, "llmrec_deny", catalogue)
    deny_list = np.unique(np.asarray(denied or [], np.int64))
    if allowed is None:
        if len(deny_list) == catalogue.count:
            raise UserError("llmrec_deny: names every item of the catalogue, so none is left")
        return ConstrainedRequest(catalogue, depth, deny_list, is_allow_list=False)
    allow_list = np.setdiff1d(np.asarray(allowed, np.int64), deny_list)
    if not len(allow_list):
        raise UserError("llmrec_allow: no item is left; leave the key out to allow the whole catalogue")
    return ConstrainedRequest(catalogue, depth, allow_list, is_allow_list=True)


def _items(options: dict[str, Any], key: str, catalogue: Catalogue) -> list[int] | None:
    value = options.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{key}: expected a list of item ids as strings, found {preview(value)}")
    return catalogue.indices(value, key)


def has_our_prefix(key: object) -> bool:
    """Whether a key of a request is meant for llmrec."""
    return isinstance(key, str) and key.lower().startswith(PREFIX)


def preview(value: object) -> str:
    """A value of a request on one line, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass(frozen=True)
class RowLists:
    """Allow- and deny-lists of R rows in one array, so that a long list does not lengthen the lists of other rows.

    Attributes:
        keys: int64 [n], sorted; item i of row r is the number `r · stride + i`.
        is_allow_list: bool [R, 1], whether a row's list contains the allowed items.
        stride: a number above the number of items.
    """

    keys: torch.Tensor
    is_allow_list: torch.Tensor
    stride: int

    def has_allowed_item(self, trie: ItemTrie, nodes: torch.Tensor) -> torch.Tensor:
        """Whether nodes, int64 [R, N], lead to an allowed item: bool [R, N]."""
        row = torch.arange(len(nodes), device=nodes.device).unsqueeze(1) * self.stride
        listed = torch.zeros_like(nodes)
        for low, high in trie.spans(nodes):
            listed += torch.searchsorted(self.keys, row + high) - torch.searchsorted(self.keys, row + low)
        return torch.where(self.is_allow_list, listed > 0, listed < trie.count(nodes))


def constrain(
    logits: torch.Tensor, catalogue: Catalogue, prefixes: Prefixes, lists: RowLists | None
) -> torch.Tensor:
    """Turn logits into log-probabilities of the full vocabulary for legal tokens, −inf for all others.

    A token is legal if it leads to an allowed item. Only the end token is legal after a complete semantic ID (for a
    textual ID: after its end marker), and in rows without any legal token.

    Args:
        logits: float32 [R, V], changed in place.
        catalogue: the items, on the same device.
        prefixes: SID tokens already generated in each row.
        lists: the rows' allow- and deny-lists; None if no row has one.

    Returns:
        bool [R], whether a row's prefix is dead: it is not in the trie, or no allowed item is under it.
    """
    nodes, is_inside = walk(catalogue, prefixes)
    child, token, legal = catalogue.trie.expand(nodes)
    ids, end = catalogue.token_ids[token], prefixes.end.unsqueeze(-1)
    pads = legal & (ids < 0)
    legal &= is_inside.unsqueeze(-1) & ~pads
    if lists is not None:
        legal &= lists.has_allowed_item(catalogue.trie, child)
    ids = ids.clamp(min=0)
    total = log_normaliser(logits).unsqueeze(-1)
    scores = logits.gather(1, ids) - total
    # A token with a non-finite logit (masked by another processor, or overflow) is not legal.
    scores.masked_fill_(~(legal & scores.isfinite()), -torch.inf)
    has_no_token = (scores == -torch.inf).all(-1, keepdim=True)
    is_complete = (is_inside & ((prefixes.count == catalogue.length) | pads.any(-1))).unsqueeze(-1)
    end_score = logits.gather(1, end) - total
    end_score = torch.where(is_complete & end_score.isfinite(), end_score, 0.0)
    end_score.masked_fill_(~has_no_token, -torch.inf)
    logits.fill_(-torch.inf)
    # Unused child slots repeat the token of another child, so a plain scatter could overwrite a legal token.
    logits.scatter_reduce_(1, torch.cat([ids, end], 1), torch.cat([scores, end_score], 1), "amax")
    return (has_no_token & ~is_complete).squeeze(-1) & ~_has_ended(prefixes, catalogue.length)


def _has_ended(prefixes: Prefixes, length: int) -> torch.Tensor:
    """Whether a row already has its end token, or more tokens than a complete semantic ID."""
    last = prefixes.tokens.gather(1, (prefixes.count - 1).clamp(0, length - 1).unsqueeze(-1)).squeeze(-1)
    return (prefixes.count > length) | ((prefixes.count > 0) & (last == prefixes.end))
