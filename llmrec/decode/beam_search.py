"""Tree-beam search: beams are branches of one token tree, and its trunk, the prompt, is computed once.

Hugging Face `generate` copies the prompt's cache for each beam and reorders the cache at every step. Here the beams
of a level are query positions in the user's own row. A mask lets each beam attend to the prompt and its ancestors.
So nothing is copied, and a level costs one forward pass of `width` tokens a user.

A textual ID may be shorter than the longest one. A finished beam keeps its score, moves behind the unfinished beams,
and is no longer sent through the model.

Each list comes with a certificate. The log-probability of a prefix is an upper bound on that of every item under it.
So a list is the true top-K if its last score is at least that of the best prefix that the search dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from llmrec.catalogue.item_mask import ItemMask
from llmrec.decode.kv_cache import TreeCache, prefill
from llmrec.decode.scoring import PLAIN, Scoring, is_precise, perturb
from llmrec.decode.top_k import TopK, fetch
from llmrec.errors import UserError
from llmrec.models.layers.head import head_over_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.item_trie import ItemTrie

MARGIN = 1e-4
"""Least distance of a certified list's last score from the best dropped prefix; above float32's error of a score."""
ROUGH_MARGIN = 0.5
"""The same of a model in 16 bits, whose scores depend on what else is in a batch; there it proves nothing."""


@dataclass(frozen=True)
class TreeEngine:
    """Searches a catalogue for the items that a model scores best.

    Attributes:
        model: a causal language model in eval mode (Llama or Qwen type, with or without adapter).
        trie: the catalogue, on the model's device.
        token_ids: int64 [codes of all levels], the model's id of each compact token, −1 for a pad, on the
            model's device.
        pad_id: any valid token id.
        scoring: how the children of a prefix are scored.
    """

    model: PreTrainedModel
    trie: ItemTrie
    token_ids: torch.Tensor
    pad_id: int = 0
    scoring: Scoring = PLAIN

    def beam_tokens(self, width: int) -> int:
        """Number of cache positions that the beams of one user take, over all levels."""
        if not self._has_pads:
            return width * (self.trie.length - 1)
        return sum(min(width, prefixes) for prefixes in self._unfinished_prefixes)

    def head(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the LM head scores catalogue tokens only, unless scores are over the vocabulary."""
        if self.scoring.normalise == "vocabulary":
            return contextlib.nullcontext()
        return head_over_tokens(self.model, self.token_ids)

    def columns(self, token: torch.Tensor) -> torch.Tensor:
        """Column of each compact token in the logits, int64 [...]; −1 for a pad."""
        ids = self.token_ids[token]
        return ids if self.scoring.normalise == "vocabulary" else torch.where(ids < 0, ids, token.long())

    @property
    def is_precise(self) -> bool:
        """Whether the model's scores are precise enough that a search can prove a list."""
        return is_precise(self.model)

    @property
    def margin(self) -> float:
        """Least distance of a list's last score from the best dropped prefix at which the list counts as complete."""
        return MARGIN if self.is_precise else ROUGH_MARGIN

    @cached_property
    def _has_pads(self) -> bool:
        """Whether the catalogue has IDs shorter than the longest one."""
        return bool((self.token_ids < 0).any())

    @cached_property
    def _unfinished_prefixes(self) -> list[int]:
        """Upper bound on the unfinished prefixes of each depth from 1 to L − 1."""
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
            width: number of beams.
            k: items returned, at most `width`; None returns `width` items.
            mask: allow- and deny-lists of the U users.
            floor: float32 [U], lower bound on the scores of a list's items. Prefixes below it are dropped; this does
                not weaken the certificate.
            noise: if set, samples items without replacement (stochastic beam search, Kool et al. 2019); a list is
                then in the order of the draws.

        Raises:
            UserError: an empty prompt, one longer than the model's context, or `noise` with a floor or with scores
                other than those of the constrained policy.
        """
        is_policy = self.scoring.normalise == "allowed" and self.scoring.prior is None
        if noise is not None and not (is_policy and floor is None):
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
        has_item = beams.scores > -torch.inf
        found = torch.where(has_item, self.trie.item(beams.nodes), -1)
        proven = _certify(beams, k, self.margin)
        items, scores, is_exact = fetch(found[:, :k], beams.scores[:, :k], proven[:, None])
        return TopK(items, scores, None if noise is not None else is_exact[:, 0])

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
            order = order.masked_fill(order < floor.unsqueeze(1) - self.margin, -torch.inf)
        best, index = _best(order, width + 1, mask, self.trie, child.flatten(1))
        is_last = depth + 1 == self.trie.length
        dropped = best[:, width] if best.shape[1] > width and not is_last else None
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
        """Log-probability of each child, [U, B, F]; only the first beams have logits, the others are finished."""
        unfinished = logits.shape[1]
        pads = torch.zeros_like(child[:, unfinished:], dtype=torch.float32)
        pads = pads.masked_fill(~legal[:, unfinished:], -torch.inf)
        if unfinished == 0:
            return pads
        steps = self.scoring.log_probs(
            depth, logits, child[:, :unfinished], self.columns(token[:, :unfinished]), legal[:, :unfinished]
        )
        return steps if unfinished == child.shape[1] else torch.cat([steps, pads], dim=1)

    def _advance(self, depth: int, beams: _Beams, state: TreeCache) -> tuple[_Beams, torch.Tensor]:
        """Sort unfinished beams first; return the beams, and next-token logits float [U, G, V] of the first G beams.

        G is the largest number of unfinished beams of a user.
        """
        if not self._has_pads:
            return beams, state.advance(self.token_ids[beams.tokens], beams.parents)
        _, token, legal = self.trie.expand(beams.nodes, depth)
        is_finished = (legal & (self.token_ids[token] < 0)).any(-1) | (beams.scores == -torch.inf)
        beams = beams.take(is_finished.byte().argsort(dim=1, stable=True))
        unfinished = int((~is_finished).sum(1).max())
        if unfinished == 0:
            return beams, state.logits[:, :0]
        tokens = self.token_ids[beams.tokens[:, :unfinished]].clamp(min=0)
        # A finished beam may fill up a column. Its parent may have had no column, so the index is clamped.
        parents = beams.parents[:, :unfinished].clamp(max=state.beam_mask.shape[1] - 1)
        return beams, state.advance(tokens, parents)


@dataclass(frozen=True)
class _Beams:
    """Beams of one level; tensors [U, B] unless stated otherwise.

    Attributes:
        nodes: trie node of each beam.
        tokens: compact token that leads to the node.
        parents: index of the beam of the level before that each beam continues.
        scores: log-probability of each prefix; −inf for no beam.
        order: value that the beams are sorted by: the score, or with noise the perturbed log-probability.
        bound: float32 [U], best score of a prefix that the search has dropped.
        noise: generator of stochastic beam search, or None.
    """

    nodes: torch.Tensor
    tokens: torch.Tensor
    parents: torch.Tensor
    scores: torch.Tensor
    order: torch.Tensor
    bound: torch.Tensor
    noise: torch.Generator | None

    def take(self, order: torch.Tensor) -> _Beams:
        """The beams in the order of these indices, int64 [U, B]."""
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

    A denied item excludes at most one candidate. So with short deny-lists only the first few candidates are checked.
    """
    if mask is None:
        return order.topk(min(count, order.shape[1]), dim=1)
    checked = order.shape[1] if mask.any_allow else min(order.shape[1], count + mask.lists.shape[1])
    best, index = order.topk(checked, dim=1)
    best = best.masked_fill(~mask.has_allowed_item(trie, nodes.gather(1, index)), -torch.inf)
    best, place = best.topk(min(count, checked), dim=1)
    return best, index.gather(1, place)


def _certify(beams: _Beams, k: int, margin: float) -> torch.Tensor:
    """Whether each list is provably the true top-k, bool [U]."""
    last = beams.scores[:, k - 1] if beams.scores.shape[1] >= k else torch.full_like(beams.bound, -torch.inf)
    return (beams.bound == -torch.inf) | (last >= beams.bound + margin)
