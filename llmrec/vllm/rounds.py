"""Beam search over a trie as rounds of questions, for an engine that only answers requests.

No I/O here: a driver sends the questions of a level wherever it likes, hands the answers back, and asks for the
next level's. The lists are those of the tree engine. A textual ID that has ended is asked nothing more.

A question goes on from its best answer to the end of an ID, since a running request decodes a token for a fraction of
what a new request costs. A beam that was foreseen in this way is not asked about again: in a trained model about
half of them.
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

_ENDED = {-1: 0.0}
"""What follows a beam that only a pad may follow."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepRequest:
    """What follows a prompt and a prefix?

    Attributes:
        tokens: token ids of the prompt and of the prefix.
        extra_args: the request's `extra_args`, which hold it to the catalogue.
        count: how many of the best legal next tokens are wanted at each step.
        steps: for how many tokens, each following the best before it.
    """

    tokens: list[int]
    extra_args: dict[str, Any]
    count: int
    steps: int


class StepResponse(NamedTuple):
    """What an engine says to a question.

    Attributes:
        tokens: the best tokens, one after the other, `steps` of them.
        steps: for each, token id → log-probability of what might have stood there.
    """

    tokens: Sequence[int]
    steps: Sequence[Mapping[int, float]]


class BeamSearchRounds:
    """Exact beam search for U users, length penalty 0.

    Args:
        name: the registered catalogue's.
        prompts: U token-id lists.
        width: beams, and items returned.
        mask: allow- and deny-lists of the U users.

    Raises:
        UserError: an empty prompt, or no catalogue of that name.
    """

    def __init__(
        self, name: str, prompts: Sequence[Sequence[int]], width: int, mask: ItemMask | None = None
    ) -> None:
        if not all(prompts):
            raise UserError("a prompt is empty: nothing to decode from")
        self._name, self._catalogue = name, find_catalogue(name)
        self._prompts, self._width = prompts, width
        self._lists = _PrefixLists(mask, self._catalogue)
        users = np.array([u for u in range(len(prompts)) if self._lists.has_items(u)], np.int64)
        self._depth = 0
        self._users = users
        self._nodes = np.full(len(users), ROOT)
        self._tokens = np.zeros((len(users), 0), np.int64)
        self._scores = np.zeros(len(users), np.float32)
        self._pending = np.arange(len(users))
        self._heard: list[_Children] = []
        self._prefetched: dict[tuple[int, ...], Mapping[int, float]] = {}

    def requests(self) -> list[StepRequest]:
        """This level's questions, at most one a beam; none once the search is over."""
        trie, asked = self._catalogue.trie, self._pending
        if self._depth == trie.length:
            return []
        count = min(self._width, max(trie.fanout[self._depth :]))
        spans = [torch.stack(span, -1).tolist() for span in trie.spans(torch.from_numpy(self._nodes[asked]))]
        return [
            StepRequest(
                [*self._prompts[user], *prefix],
                {"llmrec_catalogue": self._name, "llmrec_depth": self._depth}
                | self._lists.keys(user, [span[beam] for span in spans]),
                count,
                trie.length - self._depth,
            )
            for beam, (user, prefix) in enumerate(
                zip(self._users[asked].tolist(), self._tokens[asked].tolist(), strict=True)
            )
        ]

    def update(self, answers: Sequence[StepResponse]) -> None:
        """Keep the best children of all beams, `width` a user; equal scores in the order of the beams.

        Args:
            answers: one for each question of this level; tokens that lead to no item are passed over.
        """
        for beam, answer in zip(self._pending.tolist(), answers, strict=True):
            for length, step in enumerate(answer.steps[1:], 1):
                self._prefetched[*self._prefix(beam), *answer.tokens[:length]] = step
        self._hear(self._pending, [answer.steps[0] for answer in answers])
        self._grow()
        while len(self._users) and not len(self._pending) and self._depth < self._catalogue.length:
            self._grow()

    def _prefix(self, beam: int) -> tuple[int, ...]:
        """A beam's user and tokens."""
        return (int(self._users[beam]), *self._tokens[beam].tolist())

    def _hear(self, beams: Ints, steps: Sequence[Mapping[int, float]]) -> None:
        """Note what follows some beams."""
        self._heard.append(self._read(beams, steps))

    def _grow(self) -> None:
        """Keep the best children: the beams of the next level."""
        beams, nodes, tokens, scores = map(np.concatenate, zip(*self._heard, strict=True))
        order = np.lexsort((nodes, beams, -scores, self._users[beams]))
        kept = order[rank_within(self._users[beams][order]) < self._width]
        self._users, self._nodes, self._scores = self._users[beams][kept], nodes[kept], scores[kept]
        self._tokens = np.concatenate([self._tokens[beams[kept]], tokens[kept, None]], axis=1)
        self._depth += 1
        if self._depth < self._catalogue.length:
            self._begin()

    def _begin(self) -> None:
        """Hear the beams that have ended or were foreseen; the others are to be asked."""
        growing = self._growing()
        steps = [
            self._prefetched.get(self._prefix(beam)) if grows else _ENDED
            for beam, grows in enumerate(growing.tolist())
        ]
        known = np.array([step is not None for step in steps], bool)
        self._pending, self._heard = np.flatnonzero(~known), []
        self._hear(np.flatnonzero(known), [step for step in steps if step is not None])

    def top(self) -> TopK:
        """The lists, once there are no more questions: items and scores [U, width]."""
        shape = (len(self._prompts), self._width)
        items, scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        rank = rank_within(self._users)
        found = self._catalogue.trie.item(torch.from_numpy(self._nodes)).numpy()
        items[self._users, rank], scores[self._users, rank] = found, self._scores
        return TopK(items, scores)

    def _growing(self) -> npt.NDArray[np.bool_]:
        """Which beams something other than a pad may follow."""
        ids = self._catalogue.token_ids
        _, compact, legal = self._catalogue.trie.expand(torch.from_numpy(self._nodes), self._depth)
        growing: npt.NDArray[np.bool_] = (legal & (ids[compact] >= 0)).any(1).numpy()
        return growing

    def _read(self, beams: Ints, steps: Sequence[Mapping[int, float]]) -> _Children:
        """What follows some beams as arrays, without tokens that lead to no item."""
        row = np.repeat(np.arange(len(beams)), [len(step) for step in steps])
        total = len(row)
        tokens = np.fromiter((token for step in steps for token in step), np.int64, total)
        log_probs = np.fromiter((one for step in steps for one in step.values()), np.float32, total)
        nodes = torch.from_numpy(self._nodes[beams])
        child, compact, legal = self._catalogue.trie.expand(nodes, self._depth)
        ids = self._catalogue.token_ids
        stride = int(max(ids.max(), tokens.max(initial=0))) + 2  # from the pad's −1 on
        keys = (torch.arange(len(child)).unsqueeze(1) * stride + ids[compact])[legal].numpy()
        order = np.argsort(keys)
        wanted = row * stride + tokens
        place = np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)
        known = (keys[order[place]] == wanted) & (log_probs > -np.inf) if len(keys) else np.zeros(total, bool)
        found = beams[row[known]]
        return _Children(
            found,
            child[legal].numpy()[order[place[known]]],
            tokens[known],
            self._scores[found] + log_probs[known],
        )


class _Children(NamedTuple):
    """Children of beams: their beam, node, token id and score, an array each."""

    beams: Ints
    nodes: Ints
    tokens: Ints
    scores: npt.NDArray[np.float32]


class _PrefixLists:
    """Allow- and deny-lists, cut down to what lies under a prefix: the rest cannot matter there."""

    def __init__(self, mask: ItemMask | None, catalogue: Catalogue) -> None:
        self._names, self._count = catalogue.items, catalogue.count
        rows: list[npt.NDArray[np.int64]] = [] if mask is None else list(mask.lists.cpu().numpy())
        self._rows = [row[: np.searchsorted(row, len(self._names))] for row in rows]
        self._allow = [] if mask is None else mask.is_allow_list.flatten().tolist()

    def has_items(self, user: int) -> bool:
        """Whether a user may be given any item."""
        if not self._rows:
            return True
        return len(self._rows[user]) > 0 if self._allow[user] else len(self._rows[user]) < self._count

    def keys(self, user: int, spans: Sequence[Sequence[int]]) -> dict[str, list[str]]:
        """The keys of a request whose prefix holds these ranges of items."""
        if not self._rows:
            return {}
        row = self._rows[user]
        listed = np.concatenate([row[slice(*np.searchsorted(row, span))] for span in spans])
        if not len(listed) and not self._allow[user]:
            return {}
        key = "llmrec_allow" if self._allow[user] else "llmrec_deny"
        return {key: [self._names[item] for item in listed.tolist()]}
