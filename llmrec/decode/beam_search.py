"""Tree-beam search: beams are branches of one token tree whose trunk, the prompt, is computed once.

Hugging Face `generate` copies the prompt's cache once a beam and reorders it every step. Here the beams
of a level are query positions of the user's own row; a mask lets each see the prompt and its ancestors, so
nothing is copied, and a level costs one forward of `width` tokens a user.

A textual ID shorter than the longest ends early. Its beam then waits behind those that still grow: it keeps its
score, and no more of it passes the model.

Each list comes with a certificate. A prefix's log-probability bounds that of every item under it, so a list
is the true top-K once its last score is at least that of the best prefix that was dropped on the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.item_mask import ItemMask
from llmrec.decode.gumbel_top_k import perturb
from llmrec.decode.kv_cache import TreeCache, prefill
from llmrec.decode.scoring import PLAIN, Scoring
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.models.head import head_over_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.item_trie import ItemTrie

MARGIN = 1e-4
"""By how much a list must beat what was dropped to be called exact: above float32's error of a score."""


@dataclass(frozen=True)
class TreeEngine:
    """A model and its catalogue, searched for the best items.

    Attributes:
        model: a causal language model in eval mode (Llama or Qwen type, with or without adapter).
        trie: the catalogue, on the model's device.
        token_ids: int64 [codes of all levels], the model's id of each compact token, −1 for a pad, on the
            model's device.
        pad_id: any valid token id.
        scoring: how a step down the trie is scored.
    """

    model: PreTrainedModel
    trie: ItemTrie
    token_ids: torch.Tensor
    pad_id: int = 0
    scoring: Scoring = PLAIN

    def beam_tokens(self, width: int) -> int:
        """Tokens that a user's beams take in the model's cache, over all levels."""
        if not self._padded:
            return width * (self.trie.length - 1)
        return sum(min(width, prefixes) for prefixes in self._growing)

    def head(self) -> contextlib.AbstractContextManager[None]:
        """Narrows the model's head to the catalogue's tokens where no other counts."""
        if self.scoring.normalise == "vocabulary":
            return contextlib.nullcontext()
        return head_over_tokens(self.model, self.token_ids)

    def columns(self, token: torch.Tensor) -> torch.Tensor:
        """Where the logits have compact tokens, int64 [...]; −1 for a pad."""
        ids = self.token_ids[token]
        return ids if self.scoring.normalise == "vocabulary" else torch.where(ids < 0, ids, token.long())

    @cached_property
    def _padded(self) -> bool:
        """Whether IDs may be shorter than the longest."""
        return bool((self.token_ids < 0).any())

    @cached_property
    def _growing(self) -> list[int]:
        """A bound on the prefixes of each depth but the first and last that pass the model."""
        base = self.trie.base
        tokens = [base.token[base.starts[d] : base.starts[d + 1]] for d in range(1, base.length)]
        return [int((self.token_ids[part.long()] >= 0).sum()) + self.trie.added for part in tokens]

    @torch.inference_mode()
    def search(
        self,
        prompts: Sequence[Sequence[int]],
        width: int,
        k: int | None = None,
        mask: ItemMask | None = None,
        floor: torch.Tensor | None = None,
        noise: torch.Generator | None = None,
    ) -> TopK:
        """Beam search over the trie for one batch of prompts, length penalty 0.

        Args:
            prompts: U token-id lists.
            width: beams.
            k: items returned, at most `width`; None for as many.
            mask: allow- and deny-lists of the U users.
            floor: float32 [U], scores below which no list item can lie: prefixes below are left out, which
                takes nothing from a certificate.
            noise: draw a sample of items without replacement instead (stochastic beam search, Kool et al.
                2019); lists are then in the order drawn.

        Raises:
            UserError: an empty prompt, one longer than the model's context, or `noise` with scores that are not
                those of the constrained policy, or with a floor.
        """
        policy = self.scoring.normalise == "allowed" and self.scoring.prior is None
        if noise is not None and not (policy and floor is None):
            raise UserError(
                "stochastic beams sample from the constrained policy: normalise: allowed, no prior"
            )
        k = width if k is None else k
        with self.head():
            state = prefill(self.model, prompts, self.beam_tokens(width), self.pad_id)
            beams = _Beams.start(len(prompts), self.model.device, noise)
            logits = state.logits
            for depth in range(self.trie.length):
                beams = self._step(depth, beams, logits, width, mask, floor)
                if depth + 1 < self.trie.length:
                    beams, logits = self._advance(depth + 1, beams, state)
        alive = beams.scores > -torch.inf
        items = torch.where(alive, self.trie.item(beams.nodes), -1)
        exact = None if noise is not None else _certify(beams, k)
        return TopK(items[:, :k].cpu().numpy(), beams.scores[:, :k].cpu().numpy(), exact)

    def _step(
        self,
        depth: int,
        beams: _Beams,
        logits: torch.Tensor,
        width: int,
        mask: ItemMask | None,
        floor: torch.Tensor | None,
    ) -> _Beams:
        """The best `width` children of all beams."""
        child, token, legal = self.trie.expand(beams.nodes, depth)
        if mask is not None and self.scoring.normalise == "allowed":
            legal &= mask.has_allowed_item(self.trie, child.flatten(1)).view_as(child)
        step = self._log_probs(depth, logits, child, token, legal)
        score = beams.scores.unsqueeze(-1) + step
        order = score if beams.noise is None else perturb(beams.order, score, beams.noise)
        order = order.flatten(1)
        if floor is not None:
            order = order.masked_fill(order < floor.unsqueeze(1) - MARGIN, -torch.inf)
        best, index = _best(order, width + 1, mask, self.trie, child.flatten(1))
        last = depth + 1 == self.trie.length
        dropped = best[:, width] if best.shape[1] > width and not last else None
        keep = max(1, int((best[:, :width] > -torch.inf).sum(1).max()))
        best, index = best[:, :keep], index[:, :keep]
        scores = score.flatten(1).gather(1, index).masked_fill(best == -torch.inf, -torch.inf)
        return _Beams(
            nodes=child.flatten(1).gather(1, index),
            tokens=token.flatten(1).gather(1, index),
            parents=index // child.shape[-1],
            scores=scores,
            order=best,
            bound=beams.bound if dropped is None else torch.maximum(beams.bound, dropped),
            noise=beams.noise,
        )

    def _log_probs(
        self, depth: int, logits: torch.Tensor, child: torch.Tensor, token: torch.Tensor, legal: torch.Tensor
    ) -> torch.Tensor:
        """Log-probability of each child, [U, B, F]: the first beams have logits, the others wait."""
        growing = logits.shape[1]
        waiting = torch.zeros_like(child[:, growing:], dtype=torch.float32)
        waiting = waiting.masked_fill(~legal[:, growing:], -torch.inf)
        if growing == 0:
            return waiting
        steps = self.scoring.log_probs(
            depth, logits, child[:, :growing], self.columns(token[:, :growing]), legal[:, :growing]
        )
        return steps if growing == child.shape[1] else torch.cat([steps, waiting], dim=1)

    def _advance(self, depth: int, beams: _Beams, state: TreeCache) -> tuple[_Beams, torch.Tensor]:
        """Next-token logits float [U, G, V] of the beams that grow, at most G a user, which now come first."""
        if not self._padded:
            return beams, state.advance(self.token_ids[beams.tokens], beams.parents)
        _, token, legal = self.trie.expand(beams.nodes, depth)
        ended = (legal & (self.token_ids[token] < 0)).any(-1) | (beams.scores == -torch.inf)
        beams = beams.take(ended.byte().argsort(dim=1, stable=True))
        growing = int((~ended).sum(1).max())
        if growing == 0:
            return beams, state.logits[:, :0]
        tokens = self.token_ids[beams.tokens[:, :growing]].clamp(min=0)
        # A beam that has ended may fill a column; its parent need not have had one.
        parents = beams.parents[:, :growing].clamp(max=state.beam_mask.shape[1] - 1)
        return beams, state.advance(tokens, parents)


@dataclass(frozen=True)
class _Beams:
    """Beams of one level, [U, B] each; `bound` [U] is the best score of a prefix dropped so far."""

    nodes: torch.Tensor
    tokens: torch.Tensor
    parents: torch.Tensor
    scores: torch.Tensor
    order: torch.Tensor
    bound: torch.Tensor
    noise: torch.Generator | None

    def take(self, order: torch.Tensor) -> _Beams:
        """The beams in another order, int64 [U, B]."""
        names = ("nodes", "tokens", "parents", "scores", "order")
        return replace(self, **{name: getattr(self, name).gather(1, order) for name in names})

    @classmethod
    def start(cls, users: int, device: torch.device, noise: torch.Generator | None) -> _Beams:
        root = torch.zeros((users, 1), dtype=torch.long, device=device)
        zero = torch.zeros((users, 1), device=device)
        return cls(root, root, root, zero, zero, torch.full((users,), -torch.inf, device=device), noise)


def _best(
    order: torch.Tensor, count: int, mask: ItemMask | None, trie: ItemTrie, nodes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best `count` candidates that lead to an allowed item: (order, index), [U, ≤ count], descending.

    A denied item closes at most one candidate, so with short deny-lists only the first few need a look.
    """
    if mask is None:
        return order.topk(min(count, order.shape[1]), dim=1)
    look = order.shape[1] if mask.any_allow else min(order.shape[1], count + mask.lists.shape[1])
    best, index = order.topk(look, dim=1)
    best = best.masked_fill(~mask.has_allowed_item(trie, nodes.gather(1, index)), -torch.inf)
    best, place = best.topk(min(count, look), dim=1)
    return best, index.gather(1, place)


def _certify(beams: _Beams, k: int) -> npt.NDArray[np.bool_]:
    """Which lists provably hold the true top-k."""
    last = beams.scores[:, k - 1] if beams.scores.shape[1] >= k else torch.full_like(beams.bound, -torch.inf)
    nothing = beams.bound == -torch.inf
    exact: npt.NDArray[np.bool_] = (nothing | (last >= beams.bound + MARGIN)).cpu().numpy()
    return exact
