"""Beam search over a trie as rounds of requests, for an engine that only answers requests.

This module does no I/O. A driver sends the requests of a level to an engine, passes the responses back, and fetches
the requests of the next level. The lists equal those of the tree engine. A finished textual ID needs no requests.

Each request decodes greedily to the end of an ID, because another token of a running request costs far less than a
new request. Steps that later levels need are thereby prefetched: in a trained model about half of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.item_mask import ItemMask
from llmrec.catalogue.registry import find_catalogue
from llmrec.catalogue.trie import ROOT
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.ids.paths import rank_within
from llmrec.vllm.request_keys import write_request

_PAD_ONLY = {-1: 0.0}
"""Step of a finished beam, which only a pad may follow."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepRequest:
    """A request for the best next tokens after a prompt and a prefix.

    Attributes:
        tokens: token ids of the prompt and of the prefix.
        extra_args: the request's `extra_args`, which name the catalogue and the lists.
        count: number of best legal next tokens to return at each step.
        steps: number of tokens to decode greedily.
    """

    tokens: list[int]
    extra_args: dict[str, Any]
    count: int
    steps: int


class StepResponse(NamedTuple):
    """An engine's response to a request.

    Attributes:
        tokens: the greedily decoded tokens.
        steps: for each decoded token, the best tokens at its position: token id → log-probability.
    """

    tokens: Sequence[int]
    steps: Sequence[Mapping[int, float]]


class BeamSearchRounds:
    """Exact beam search for U users, length penalty 0.

    Args:
        name: name of the registered catalogue.
        prompts: U token-id lists.
        width: number of beams and of returned items.
        mask: allow- and deny-lists of the U users.

    Raises:
        UserError: an empty prompt, or an unknown catalogue.
    """

    def __init__(
        self, name: str, prompts: Sequence[Sequence[int]], width: int, mask: ItemMask | None = None
    ) -> None:
        if not all(prompts):
            raise UserError("a prompt is empty: nothing to decode from")
        self._name, self._catalogue = name, find_catalogue(name)
        self._prompts, self._width = prompts, width
        self._lists = _PrefixLists(mask, self._catalogue)
        self._depth = 0
        self._beams = _Beams.start([user for user in range(len(prompts)) if self._lists.has_items(user)])
        self._pending = np.arange(len(self._beams.users))  # beams whose children are asked for
        self._children: list[_Children] = []  # of the others
        self._prefetched: dict[tuple[int, ...], Mapping[int, float]] = {}

    def requests(self) -> list[StepRequest]:
        """Requests of this level, at most one a beam; an empty list when the search is complete."""
        trie, pending = self._catalogue.trie, self._pending
        if self._depth == trie.length:
            return []
        count = min(self._width, max(trie.fanout[self._depth :]))
        nodes = torch.from_numpy(self._beams.nodes[pending])
        spans = [torch.stack(span, -1).tolist() for span in trie.spans(nodes)]
        return [
            StepRequest(
                [*self._prompts[user], *prefix],
                write_request(self._name, self._depth, *self._lists.of(user, [span[row] for span in spans])),
                count,
                trie.length - self._depth,
            )
            for row, (user, prefix) in enumerate(
                zip(self._beams.users[pending].tolist(), self._beams.tokens[pending].tolist(), strict=True)
            )
        ]

    def update(self, responses: Sequence[StepResponse]) -> None:
        """Keep the best children of all beams, `width` a user; equal scores stay in the order of the beams.

        Args:
            responses: one for each request of this level; tokens that lead to no item are skipped.
        """
        for beam, response in zip(self._pending.tolist(), responses, strict=True):
            for length, step in enumerate(response.steps[1:], 1):
                self._prefetched[*self._prefix(beam), *response.tokens[:length]] = step
        self._children.append(self._read(self._pending, [response.steps[0] for response in responses]))
        self._finish_level()
        while len(self._beams.users) and not len(self._pending) and self._depth < self._catalogue.length:
            self._finish_level()

    def _prefix(self, beam: int) -> tuple[int, ...]:
        """A beam's user and tokens."""
        return (int(self._beams.users[beam]), *self._beams.tokens[beam].tolist())

    def _finish_level(self) -> None:
        """Keep the best children as the beams of the next level."""
        parents, nodes, tokens, scores = map(np.concatenate, zip(*self._children, strict=True))
        users = self._beams.users[parents]
        order = np.lexsort((nodes, parents, -scores, users))
        kept = order[rank_within(users[order]) < self._width]
        prefixes = self._beams.tokens[parents[kept]]
        longer = np.concatenate([prefixes, tokens[kept, None]], axis=1)
        self._beams = _Beams(users[kept], nodes[kept], longer, scores[kept])
        self._depth += 1
        if self._depth < self._catalogue.length:
            self._begin_level()

    def _begin_level(self) -> None:
        """Add children of finished and prefetched beams; the remaining beams become requests."""
        is_unfinished = self._is_unfinished()
        steps = [
            self._prefetched.get(self._prefix(beam)) if grows else _PAD_ONLY
            for beam, grows in enumerate(is_unfinished.tolist())
        ]
        has_step = np.array([step is not None for step in steps], bool)
        self._pending = np.flatnonzero(~has_step)
        known = [step for step in steps if step is not None]
        self._children = [self._read(np.flatnonzero(has_step), known)]

    def top(self) -> TopK:
        """The lists [U, width] of a complete search."""
        shape = (len(self._prompts), self._width)
        items, scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        users, nodes, _, values = self._beams
        rank = rank_within(users)
        items[users, rank] = self._catalogue.trie.item(torch.from_numpy(nodes)).numpy()
        scores[users, rank] = values
        return TopK(items, scores)

    def _is_unfinished(self) -> npt.NDArray[np.bool_]:
        """Whether a token other than a pad may follow each beam."""
        ids = self._catalogue.token_ids
        _, compact, legal = self._catalogue.trie.expand(torch.from_numpy(self._beams.nodes), self._depth)
        is_unfinished: npt.NDArray[np.bool_] = (legal & (ids[compact] >= 0)).any(1).numpy()
        return is_unfinished

    def _read(self, beams: Ints, steps: Sequence[Mapping[int, float]]) -> _Children:
        """Children of these beams as arrays, without tokens that lead to no item."""
        row = np.repeat(np.arange(len(beams)), [len(step) for step in steps])
        total = len(row)
        tokens = np.fromiter((token for step in steps for token in step), np.int64, total)
        log_probs = np.fromiter((value for step in steps for value in step.values()), np.float32, total)
        nodes = torch.from_numpy(self._beams.nodes[beams])
        child, compact, legal = self._catalogue.trie.expand(nodes, self._depth)
        ids = self._catalogue.token_ids
        stride = int(max(ids.max(), tokens.max(initial=0))) + 2  # a pad is −1
        keys = (torch.arange(len(child)).unsqueeze(1) * stride + ids[compact])[legal].numpy()
        order = np.argsort(keys)
        step_keys = row * stride + tokens
        place = np.searchsorted(keys, step_keys, sorter=order).clip(max=len(keys) - 1)
        is_child = np.zeros(total, bool)
        if len(keys):
            is_child = (keys[order[place]] == step_keys) & (log_probs > -np.inf)
        parents = beams[row[is_child]]
        return _Children(
            parents,
            child[legal].numpy()[order[place[is_child]]],
            tokens[is_child],
            self._beams.scores[parents] + log_probs[is_child],
        )


class _Beams(NamedTuple):
    """Beams of one depth, as arrays [n], the users in ascending order.

    Attributes:
        users: whose beam it is.
        nodes: trie node.
        tokens: token ids of the prefix, [n, depth].
        scores: log-probability of the prefix.
    """

    users: Ints
    nodes: Ints
    tokens: Ints
    scores: npt.NDArray[np.float32]

    @classmethod
    def start(cls, users: Sequence[int]) -> _Beams:
        """An empty prefix for each of some users."""
        count = len(users)
        empty = np.zeros((count, 0), np.int64)
        return cls(np.array(users, np.int64), np.full(count, ROOT), empty, np.zeros(count, np.float32))


class _Children(NamedTuple):
    """Children of beams, as arrays [n].

    Attributes:
        parents: index of the parent beam.
        nodes: trie node.
        tokens: token id.
        scores: log-probability of the child's prefix.
    """

    parents: Ints
    nodes: Ints
    tokens: Ints
    scores: npt.NDArray[np.float32]


class _PrefixLists:
    """Allow- and deny-lists, restricted to the items under a prefix; other items do not matter there."""

    def __init__(self, mask: ItemMask | None, catalogue: Catalogue) -> None:
        self._names, self._count = catalogue.items, catalogue.count
        rows: list[npt.NDArray[np.int64]] = [] if mask is None else list(mask.lists.cpu().numpy())
        self._rows = [row[: np.searchsorted(row, len(self._names))] for row in rows]
        self._allow = [] if mask is None else mask.is_allow_list.flatten().tolist()

    def has_items(self, user: int) -> bool:
        """Whether any item is allowed for a user."""
        if not self._rows:
            return True
        return len(self._rows[user]) > 0 if self._allow[user] else len(self._rows[user]) < self._count

    def of(self, user: int, spans: Sequence[Sequence[int]]) -> tuple[list[str] | None, list[str]]:
        """Return the allowed items (None for all) and the denied ones among these ranges of items."""
        if not self._rows:
            return None, []
        row = self._rows[user]
        listed = np.concatenate([row[slice(*np.searchsorted(row, span))] for span in spans])
        names = [self._names[item] for item in listed.tolist()]
        return (names, []) if self._allow[user] else (None, names)
