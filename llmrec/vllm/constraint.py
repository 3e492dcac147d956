"""The mask of a batch of logits: each row's next tokens that lead to an allowed item of a catalogue.

This module does not import vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmrec.catalogue.catalogue import Catalogue, Prefixes, walk
from llmrec.catalogue.item_trie import ItemTrie
from llmrec.decode.scoring import log_normaliser


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
    """Turn logits into log-probabilities for legal tokens, −inf for all others.

    They are over the full vocabulary; of a model trained with `sft.softmax: children`, over the prefix's children.

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
    ids = ids.clamp(min=0)
    if catalogue.softmax == "children":
        total = logits.gather(1, ids).masked_fill_(~legal, -torch.inf).logsumexp(-1, keepdim=True)
        total.masked_fill_(total == -torch.inf, 0.0)
    else:
        total = log_normaliser(logits).unsqueeze(-1)
    if lists is not None:
        legal &= lists.has_allowed_item(catalogue.trie, child)
    scores = logits.gather(1, ids) - total
    # A token with a non-finite logit (masked by another processor, or overflow) is not legal.
    scores.masked_fill_(~(legal & scores.isfinite()), -torch.inf)
    has_no_token = (scores == -torch.inf).all(-1, keepdim=True)
    is_complete = (is_inside & ((prefixes.count == catalogue.length) | pads.any(-1))).unsqueeze(-1)
    end_score = logits.gather(1, end) - total
    counts = is_complete & end_score.isfinite() & (catalogue.softmax == "vocabulary")
    end_score = torch.where(counts, end_score, 0.0)
    end_score.masked_fill_(~has_no_token, -torch.inf)
    logits.fill_(-torch.inf)
    # Unused child slots repeat the token of another child, so a plain scatter could overwrite a legal token.
    logits.scatter_reduce_(1, torch.cat([ids, end], 1), torch.cat([scores, end_score], 1), "amax")
    return (has_no_token & ~is_complete).squeeze(-1) & ~_has_ended(prefixes, catalogue.length)


def _has_ended(prefixes: Prefixes, length: int) -> torch.Tensor:
    """Whether a row already has its end token, or more tokens than a complete semantic ID."""
    last = prefixes.tokens.gather(1, (prefixes.count - 1).clamp(0, length - 1).unsqueeze(-1)).squeeze(-1)
    return (prefixes.count > length) | ((prefixes.count > 0) & (last == prefixes.end))
