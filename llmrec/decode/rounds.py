"""Beam search over a trie as rounds of questions, one a level, for an engine that only answers requests.

No I/O here: a driver sends the questions of a level wherever it likes, hands the answers back, and asks for the
next level's. The lists are those of the tree engine. A textual ID that has ended is asked nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.decode.catalogues import Catalogue, find
from llmrec.decode.mask import ItemMask
from llmrec.decode.tree_engine import TopK
from llmrec.decode.trie import ROOT
from llmrec.errors import UserError

_ENDED = {-1: 0.0}
"""The answer of a beam that only a pad may follow."""


@dataclass(frozen=True)
class Question:
    """What follows a prompt and a prefix?

    Attributes:
        tokens: token ids of the prompt and of the prefix.
        extra: the request's `extra_args`, which hold it to the catalogue.
        count: how many of the best legal next tokens are wanted.
    """

    tokens: list[int]
    extra: dict[str, Any]
    count: int


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
        self._asked = np.ones(len(users), bool)

    def questions(self) -> list[Question]:
        """This level's questions, one a beam that has not ended; none once the search is over."""
        trie = self._catalogue.trie
        if self._depth == trie.length:
            return []
        count = min(self._width, trie.fanout[self._depth])
        asked = self._asked
        spans = [torch.stack(span, -1).tolist() for span in trie.spans(torch.from_numpy(self._nodes[asked]))]
        return [
            Question(
                [*self._prompts[user], *prefix],
                {"llmrec_catalogue": self._name, "llmrec_depth": self._depth}
                | self._lists.keys(user, [span[beam] for span in spans]),
                count,
            )
            for beam, (user, prefix) in enumerate(
                zip(self._users[asked].tolist(), self._tokens[asked].tolist(), strict=True)
            )
        ]

    def take(self, answers: Sequence[Mapping[int, float]]) -> None:
        """Keep the best children of all beams, `width` a user; equal scores in the order of the beams.

        Args:
            answers: for each question of this level, token id → log-probability; tokens that lead to no
                item are passed over.
        """
        given = iter(answers)
        self._grow([next(given) if asked else _ENDED for asked in self._asked])
        while len(self._asked) and not self._asked.any() and self._depth < self._catalogue.length:
            self._grow([_ENDED] * len(self._asked))

    def _grow(self, answers: Sequence[Mapping[int, float]]) -> None:
        """Keep the best children, given an answer a beam."""
        beams, nodes, tokens, steps = self._children(answers)
        scores = self._scores[beams] + steps
        order = np.lexsort((nodes, beams, -scores, self._users[beams]))
        users = self._users[beams][order]
        rank = np.arange(len(users)) - np.searchsorted(users, users)
        kept = order[rank < self._width]
        self._users, self._nodes, self._scores = self._users[beams][kept], nodes[kept], scores[kept]
        self._tokens = np.concatenate([self._tokens[beams[kept]], tokens[kept, None]], axis=1)
        self._depth += 1
        self._asked = self._growing()

    def top(self) -> TopK:
        """The lists, once there are no more questions: items and scores [U, width]."""
        shape = (len(self._prompts), self._width)
        items, scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        rank = np.arange(len(self._users)) - np.searchsorted(self._users, self._users)
        found = self._catalogue.trie.item(torch.from_numpy(self._nodes)).numpy()
        items[self._users, rank], scores[self._users, rank] = found, self._scores
        return TopK(items, scores)

    def _growing(self) -> npt.NDArray[np.bool_]:
        """Which beams something other than a pad may follow."""
        trie, ids = self._catalogue.trie, self._catalogue.token_ids
        if self._depth == trie.length:
            return np.zeros(len(self._nodes), bool)
        _, compact, legal = trie.expand(torch.from_numpy(self._nodes), self._depth)
        growing: npt.NDArray[np.bool_] = (legal & (ids[compact] >= 0)).any(1).numpy()
        return growing

    def _children(
        self, answers: Sequence[Mapping[int, float]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The answers as arrays: beam, child node, token id and log-probability of each legal token."""
        beams = np.repeat(np.arange(len(answers)), [len(answer) for answer in answers])
        total = len(beams)
        tokens = np.fromiter((token for answer in answers for token in answer), np.int64, total)
        steps = np.fromiter((step for answer in answers for step in answer.values()), np.float32, total)
        child, compact, legal = self._catalogue.trie.expand(torch.from_numpy(self._nodes), self._depth)
        ids = self._catalogue.token_ids
        stride = int(max(ids.max(), tokens.max(initial=0))) + 2  # from the pad's −1 on
        keys = (torch.arange(len(child)).unsqueeze(1) * stride + ids[compact])[legal].numpy()
        order = np.argsort(keys)
        wanted = beams * stride + tokens
        place = np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)
        known = (keys[order[place]] == wanted) & (steps > -np.inf) if len(keys) else np.zeros(total, bool)
        nodes = child[legal].numpy()[order[place[known]]]
        return beams[known], nodes, tokens[known], steps[known]


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
