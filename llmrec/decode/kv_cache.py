"""The attention cache of a token tree: a user's prompt, then the beams of each level, in one preallocated row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from llmrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

MIN_SHARED = 8


class _RowLayer(DynamicLayer):
    """Keys and values written in place: what is appended is never copied again.

    Args:
        users: rows; a forward of a single row before them is shared by all.
        capacity: tokens a row may hold.
    """

    def __init__(self, users: int, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not type it
        self._users, self._capacity, self._length = users, capacity, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def rows(like: torch.Tensor) -> torch.Tensor:
            return like.new_empty((self._users, like.shape[1], self._capacity, like.shape[3]))

        self.dtype, self.device = key_states.dtype, key_states.device
        self._all_keys, self._all_values = rows(key_states), rows(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self._length = self._length, self._length + key_states.shape[2]
        self._all_keys[:, :, start : self._length] = key_states
        self._all_values[:, :, start : self._length] = value_states
        rows = len(key_states)
        self.keys = self._all_keys[:rows, :, : self._length]
        self.values = self._all_values[:rows, :, : self._length]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length


@dataclass
class TreeCache:
    """Prompts of U users and the beams that grow on them.

    Attributes:
        logits: float [U, 1, V], next-token logits after the prompts.
    """

    model: PreTrainedModel
    cache: Cache
    logits: torch.Tensor
    lengths: torch.Tensor
    trunk: torch.Tensor
    beam_mask: torch.Tensor
    depth: int = 0

    def advance(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Forward one token a beam.

        Args:
            tokens: int64 [U, B], model token ids.
            parents: int64 [U, B], the beam of the level before that each continues.

        Returns:
            Next-token logits, float [U, B, V].
        """
        users, beams = tokens.shape
        device = tokens.device
        own = torch.eye(beams, dtype=torch.bool, device=device).expand(users, -1, -1)
        ancestors = self.beam_mask.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.beam_mask.shape[-1]))
        self.beam_mask = torch.cat([ancestors, own], dim=-1)
        visible = torch.cat([self.trunk.unsqueeze(1).expand(-1, beams, -1), self.beam_mask], dim=-1)
        mask = torch.zeros_like(visible, dtype=self.logits.dtype).masked_fill_(~visible, -torch.inf)
        out = self.model(
            input_ids=tokens,
            attention_mask=mask.unsqueeze(1),
            position_ids=(self.lengths + self.depth).unsqueeze(1).expand(-1, beams),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.depth += 1
        logits: torch.Tensor = out.logits
        return logits


def prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], beam_tokens: int, pad_id: int
) -> TreeCache:
    """Forward the prompts, left-padded; what they begin with in common is computed once.

    Args:
        model: a causal language model with ordinary attention.
        prompts: U token-id lists.
        beam_tokens: room for beams, over all levels.
        pad_id: any valid token id.

    Raises:
        UserError: an empty prompt, or attention that is not over the whole context.
    """
    check_prompts(model, prompts)
    shared = _shared(prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    width = int(lengths.max()) - shared
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) + shared :] = torch.tensor(prompt[shared:])
    layers: list[CacheLayerMixin | LinearAttentionCacheLayerMixin] = [
        _RowLayer(len(prompts), shared + width + beam_tokens) for _ in range(model.config.num_hidden_layers)
    ]
    cache = Cache(layers=layers)
    if shared:
        lead = torch.tensor([list(prompts[0][:shared])], device=model.device)
        model(input_ids=lead, past_key_values=cache, use_cache=True, logits_to_keep=1)
    real = torch.arange(width, device=model.device) >= (width - lengths + shared).unsqueeze(1)
    trunk = torch.cat([real.new_ones((len(prompts), shared)), real], dim=1)
    out = model(
        input_ids=ids.to(model.device),
        attention_mask=trunk.long(),
        position_ids=(trunk.long().cumsum(1) - 1)[:, shared:].clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    beam_mask = torch.zeros((len(prompts), 1, 0), dtype=torch.bool, device=model.device)
    return TreeCache(model, cache, out.logits, lengths, trunk, beam_mask)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with (each keeps one of its own); 0 where a pass for them does not pay."""
    rows = [list(prompt) for prompt in prompts]
    first, last = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    pairs = zip(first[:limit], last[:limit], strict=True)
    equal = next((at for at, (a, b) in enumerate(pairs) if a != b), limit)
    return equal if len(prompts) > 1 and equal >= MIN_SHARED else 0


def check_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
    """Raise a UserError unless a token tree can stand on these prompts.

    Raises:
        UserError: an empty prompt, one that fills the model's context, or attention within a window.
    """
    if not all(map(len, prompts)):
        raise UserError("a prompt is empty: nothing to decode from")
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise UserError(f"this model attends by {', '.join(sorted(kinds))}; token trees need full_attention")
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, prompts))
    if context is not None and longest >= context:
        raise UserError(
            f"a prompt of {longest} tokens is longer than the model's context of {context}: lower data.history"
        )
