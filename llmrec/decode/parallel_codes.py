"""Lists of a model that predicts all codes of an item at once: every item is scored in one forward pass.

Hou et al., Generating long semantic IDs in parallel for recommendation (RPG), KDD 2025: given the history, an
item's codes are independent, and its log-probability is the sum of theirs. One position thus ranks the whole
catalogue, and no prefix is searched or dropped. RPG has a network for each code on top of the last hidden state;
here the LM head's rows of a level's tokens are in that place. RPG visits items along a graph, which is faster in a
very large catalogue; here all of them are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.kv_cache import prefill
from llmrec.decode.scoring import Scoring, is_precise, split_for_cache
from llmrec.decode.top_k import TopK, fetch
from llmrec.models.layers.head import head_over_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.catalogue.item_mask import ItemMask

SCORED_PROMPTS = 32
"""Prompts that pass through the model at once where given items are scored."""


def code_log_probs(logits: torch.Tensor, codes: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of all codes, each among the codes of its level.

    Args:
        logits: float [..., C], a column for each code: level after level, in the order of compact tokens.
        codes: number of codes of each level; their sum is C.

    Returns:
        float32 [..., C]; the probabilities of each level sum to 1.
    """
    return torch.cat([level.log_softmax(-1) for level in logits.float().split(list(codes), dim=-1)], dim=-1)


def item_log_probs(log_probs: torch.Tensor, paths: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of items: the sums of those of their codes.

    Args:
        log_probs: float32 [U, C], of `code_log_probs`.
        paths: int64 [items, L], compact tokens of each item.

    Returns:
        float32 [U, items].
    """
    scores = log_probs.index_select(1, paths[:, 0])
    for level in paths.T[1:]:
        scores += log_probs.index_select(1, level)
    return scores


def code_chances(chances: torch.Tensor, paths: torch.Tensor, codes: int) -> torch.Tensor:
    """Probabilities of codes: at each level, the sums over the items that have them.

    Args:
        chances: float [n, items], probabilities of items.
        paths: int64 [items, L], compact tokens of each item.
        codes: number of codes of all levels, C.

    Returns:
        float [n, C].
    """
    of_items = chances.T.contiguous()  # sums of whole rows are faster than sums of columns
    sums = chances.new_zeros(codes, len(chances))
    for level in paths.T:
        sums.index_add_(0, level, of_items)
    return sums.T


@dataclass(frozen=True)
class ParallelEngine:
    """Ranks a catalogue by a model that predicts all codes of an item at once.

    Attributes:
        model: a causal language model in eval mode, trained with `sft.parallel_codes`.
        catalogue: the items, on the model's device.
        paths: int64 [items, L], `catalogue.paths` on the model's device.
        pad_id: any valid token id.
    """

    model: PreTrainedModel
    catalogue: Catalogue
    paths: torch.Tensor
    pad_id: int = 0

    @property
    def is_precise(self) -> bool:
        """Whether scores do not depend on what else is in a batch, so that a list is provably the true top-K."""
        return is_precise(self.model)

    def beam_tokens(self, width: int) -> int:
        """Cache positions beside the prompt: none, whatever the width."""
        return 0

    @torch.inference_mode()
    def search(
        self,
        prompts: Sequence[Sequence[int]],
        width: int,
        k: int | None = None,
        mask: ItemMask | None = None,
        floor: torch.Tensor | None = None,
    ) -> TopK:
        """The best items after one batch of prompts. All items are compared, so every list is exact.

        Args:
            prompts: U token-id lists.
            width: number of items returned where `k` is None; no beams are searched.
            k: items returned, fewer if the catalogue has fewer.
            mask: allow- and deny-lists of the U users.
            floor: not needed; the tree engine's bound.

        Raises:
            UserError: an empty prompt, or one longer than the model's context.
        """
        trie = self.catalogue.trie
        log_probs = self._code_log_probs(prompts)
        allowed = None if mask is None else mask.allowed_items(trie.items)
        removed = torch.from_numpy(trie.removed).to(log_probs.device)
        found = []
        for rows in split_for_cache(torch.arange(len(prompts), device=log_probs.device), trie.items):
            scores = item_log_probs(log_probs[rows], self.paths).index_fill_(1, removed, -torch.inf)
            if allowed is not None:
                scores.masked_fill_(~allowed[rows], -torch.inf)
            found.append(scores.topk(min(width if k is None else k, trie.items)))
        scores = torch.cat([top.values for top in found])
        items = torch.cat([top.indices for top in found]).masked_fill_(scores.isneginf(), -1)
        item_rows, score_rows = fetch(items, scores)
        return TopK(item_rows, score_rows, np.ones(len(prompts), bool))

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[Sequence[int]], candidates: Sequence[npt.NDArray[np.integer]]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probabilities of given items after their users' prompts.

        Args:
            prompts: U token-id lists.
            candidates: for each user, int [n, L]: the model's token ids of the items' codes; n may be 0.

        Returns:
            For each user, float32 [n]. They equal the scores of `search`.

        Raises:
            UserError: an empty prompt, or one longer than the model's context.
        """
        column = {token: place for place, token in enumerate(self.catalogue.token_ids.tolist())}
        scores: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(prompts), SCORED_PROMPTS):
            log_probs = self._code_log_probs(prompts[start : start + SCORED_PROMPTS]).cpu()
            for row, tokens in zip(log_probs, candidates[start : start + SCORED_PROMPTS], strict=True):
                columns = [[column[token] for token in item] for item in np.asarray(tokens).tolist()]
                paths = torch.tensor(columns, dtype=torch.long).view(-1, self.catalogue.length)
                scores.append(item_log_probs(row[None], paths)[0].numpy())
        return scores

    def _code_log_probs(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log-probabilities of all codes after prompts, float32 [U, C]."""
        with head_over_tokens(self.model, self.catalogue.token_ids):
            logits = prefill(self.model, prompts, 0, self.pad_id).logits[:, 0]
        return code_log_probs(logits, self.catalogue.trie.codes)


def search_engine(
    model: PreTrainedModel, catalogue: Catalogue, pad_id: int, scoring: Scoring | None = None
) -> TreeEngine | ParallelEngine:
    """The engine that searches a catalogue as its model was trained.

    Args:
        model: the model, in eval mode.
        catalogue: its items, on the model's device.
        pad_id: any valid token id.
        scoring: how the children of a prefix are scored; None for the way in which the model was trained. Without
            effect on a model that predicts all codes at once.
    """
    if catalogue.has_parallel_codes:
        return ParallelEngine(model, catalogue, catalogue.paths.to(model.device), pad_id)
    scoring = Scoring(catalogue.softmax) if scoring is None else scoring
    return TreeEngine(model, catalogue.trie, catalogue.token_ids, pad_id, scoring)
