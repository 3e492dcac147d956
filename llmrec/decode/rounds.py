"""Beam search over a trie as rounds of questions, for an engine that only answers requests.

No I/O here: a driver sends the questions of a round wherever it likes, hands the answers back, and asks for the
next round's. The lists are those of the tree engine. A textual ID that has ended is asked nothing more.

Two things keep questions few. No child scores more than its parent, so a beam that lies below the level's `width`
best children so far has nothing to add: the first round of a level asks the beams that are likely to be needed, a
second those of the others that the answers have not ruled out. And a question goes on from its best answer for
`FURTHER` tokens, since a running request decodes a token for a fraction of what a new request costs; beams that
were foreseen in this way are not asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from llmrec.decode.catalogues import Catalogue, find
from llmrec.decode.mask import ItemMask
from llmrec.decode.tree_engine import MARGIN, TopK
from llmrec.decode.trie import ROOT
from llmrec.errors import UserError

FURTHER = 1
"""Tokens that a question goes on from its best answer."""
_ENDED = {-1: 0.0}
"""What follows a beam that only a pad may follow."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """What follows a prompt and a prefix?

    Attributes:
        tokens: token ids of the prompt and of the prefix.
        extra: the request's `extra_args`, which hold it to the catalogue.
        count: how many of the best legal next tokens are wanted at each step.
        steps: for how many tokens, each following the best one before.
    """

    tokens: list[int]
    extra: dict[str, Any]
    count: int
    steps: int


class Answer(NamedTuple):
    """What an engine says to a question.

    Attributes:
        tokens: the best tokens, one after the other, `steps` of them.
        steps: for each, token id → log-probability of what might have stood there.
    """

    tokens: Sequence[int]
    steps: Sequence[Mapping[int, float]]


class Rounds:
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
        self._name, self._catalogue = name, find(name)
        self._prompts, self._width = prompts, width
        self._lists = _Lists(mask, self._catalogue)
        users = np.array([u for u in range(len(prompts)) if self._lists.leave_any(u)], np.int64)
        self._depth = 0
        self._users = users
        self._nodes = np.full(len(users), ROOT)
        self._tokens = np.zeros((len(users), 0), np.int64)
        self._scores = np.zeros(len(users), np.float32)
        self._waiting = np.ones(len(users), bool)
        self._asked = np.arange(len(users))
        self._children: list[_Children] = []
        self._foreseen: dict[tuple[int, ...], Mapping[int, float]] = {}

    def questions(self) -> list[Question]:
        """This round's questions, at most one a beam; none once the search is over."""
        trie, asked = self._catalogue.trie, self._asked
        if self._depth == trie.length:
            return []
        steps = min(1 + FURTHER, trie.length - self._depth)
        count = min(self._width, max(trie.fanout[self._depth : self._depth + steps]))
        spans = [torch.stack(span, -1).tolist() for span in trie.spans(torch.from_numpy(self._nodes[asked]))]
        return [
            Question(
                [*self._prompts[user], *prefix],
                {"llmrec_catalogue": self._name, "llmrec_depth": self._depth}
                | self._lists.keys(user, [span[beam] for span in spans]),
                count,
                steps,
            )
            for beam, (user, prefix) in enumerate(
                zip(self._users[asked].tolist(), self._tokens[asked].tolist(), strict=True)
            )
        ]

    def take(self, answers: Sequence[Answer]) -> None:
        """Note the children of the beams asked; once no other beam can matter, keep the best `width` a user.

        Equal scores are kept in the order of the beams.

        Args:
            answers: one for each question of this round; tokens that lead to no item are passed over.
        """
        for beam, answer in zip(self._asked.tolist(), answers, strict=True):
            prefix = (int(self._users[beam]), *self._tokens[beam].tolist())
            for length, step in enumerate(answer.steps[1:], 1):
                self._foreseen[*prefix, *answer.tokens[:length]] = step
        self._hear(self._asked, [answer.steps[0] for answer in answers])
        self._asked = self._needed()
        while not len(self._asked) and self._depth < self._catalogue.length:
            self._grow()

    def _hear(self, beams: Ints, steps: Sequence[Mapping[int, float]]) -> None:
        """Note what follows some beams."""
        self._waiting[beams] = False
        self._children.append(self._read(beams, steps))

    def _needed(self) -> Ints:
        """The waiting beams that may still have one of their user's best children."""
        users = np.concatenate([self._users[found.beams] for found in self._children])
        scores = np.concatenate([found.scores for found in self._children])
        least = _kth_best(users, scores, len(self._prompts), self._width)
        return np.flatnonzero(self._waiting & (self._scores > least[self._users] - MARGIN))

    def _grow(self) -> None:
        """Keep the best children: the beams of the next level."""
        beams, nodes, tokens, scores = map(np.concatenate, zip(*self._children, strict=True))
        order = np.lexsort((nodes, beams, -scores, self._users[beams]))
        kept = order[_rank(self._users[beams][order]) < self._width]
        self._users, self._nodes, self._scores = self._users[beams][kept], nodes[kept], scores[kept]
        self._tokens = np.concatenate([self._tokens[beams[kept]], tokens[kept, None]], axis=1)
        self._depth += 1
        if self._depth < self._catalogue.length:
            self._begin()

    def _begin(self) -> None:
        """Hear the beams that have ended or were foreseen, and choose whom to ask first about this level."""
        self._children, self._waiting = [], self._growing()
        ended = np.flatnonzero(~self._waiting)
        self._hear(ended, [_ENDED] * len(ended))
        known, steps = [], []
        for beam in np.flatnonzero(self._waiting).tolist():
            step = self._foreseen.get((int(self._users[beam]), *self._tokens[beam].tolist()))
            if step is not None:
                known.append(beam)
                steps.append(step)
        self._hear(np.array(known, np.int64), steps)
        self._asked = self._likely()

    def _likely(self) -> Ints:
        """Those of the needed beams that will turn out so if scores go on to fall as they have, a level."""
        needed = self._needed()
        table = np.full((len(self._prompts), self._width), -np.inf, np.float32)
        table[self._users, _rank(self._users)] = self._scores
        children = (table[:, :, None] + table[:, None, :] / self._depth).reshape(len(table), -1)
        least = -np.partition(-children, self._width - 1, axis=1)[:, self._width - 1]
        likely = needed[self._scores[needed] > least[self._users[needed]]]
        return likely if len(likely) else needed

    def top(self) -> TopK:
        """The lists, once there are no more questions: items and scores [U, width]."""
        shape = (len(self._prompts), self._width)
        items, scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        rank = _rank(self._users)
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


def _rank(users: Ints) -> Ints:
    """Place of each row among its user's, from 0; the users ascend."""
    return np.arange(len(users)) - np.searchsorted(users, users)


def _kth_best(users: Ints, scores: npt.NDArray[np.float32], count: int, k: int) -> npt.NDArray[np.float32]:
    """Each user's k-th best score, float32 [count]; −inf where there are fewer."""
    order = np.lexsort((-scores, users))
    kth = order[_rank(users[order]) == k - 1]
    best = np.full(count, -np.inf, np.float32)
    best[users[kth]] = scores[kth]
    return best


class _Lists:
    """Allow- and deny-lists, cut down to what lies under a prefix: the rest cannot matter there."""

    def __init__(self, mask: ItemMask | None, catalogue: Catalogue) -> None:
        self._names, self._count = catalogue.items, catalogue.count
        rows: list[npt.NDArray[np.int64]] = [] if mask is None else list(mask.lists.cpu().numpy())
        self._rows = [row[: np.searchsorted(row, len(self._names))] for row in rows]
        self._allow = [] if mask is None else mask.allow.flatten().tolist()

    def leave_any(self, user: int) -> bool:
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
