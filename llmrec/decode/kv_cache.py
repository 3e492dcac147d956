"""Attention cache of a token tree: one preallocated row a user, with the prompt and then the beams of each level."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from llmrec.errors import UserError
from llmrec.models.context import context_of
from llmrec.models.device import to_device
from llmrec.models.layers.head import head_at_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

MIN_SHARED = 8
"""Least number of common leading tokens for which a separate pass is worth its cost."""


class _RowLayer(DynamicLayer):
    """Cache layer that writes keys and values in place, so that later steps copy nothing.

    Args:
        users: number of rows. If the first forward pass has a single row, all rows share its keys and values.
        capacity: maximum number of tokens of a row.
    """

    def __init__(self, users: int, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self._users = users
        self._capacity = capacity
        self._length = 0

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
        start = self._length
        self._length += key_states.shape[2]
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
    """Prompts of U users and their beams.

    Attributes:
        model: the causal language model.
        cache: keys and values of the prompts and of all beams so far.
        logits: float [U, 1, V], next-token logits after the prompts.
        lengths: int64 [U], tokens of each prompt.
        trunk: bool [U, P], whether a position of the prompt's part of the row holds a token and not a pad.
        beam_mask: bool [U, B, T], whether each beam of the last level attends to each of the T beam tokens so far.
        depth: number of levels of beams so far.
    """

    model: PreTrainedModel
    cache: Cache
    logits: torch.Tensor
    lengths: torch.Tensor
    trunk: torch.Tensor
    beam_mask: torch.Tensor
    depth: int = 0

    def advance(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Run one more token of each beam through the model.

        Args:
            tokens: int64 [U, B], model token ids.
            parents: int64 [U, B], index of the beam of the previous level that each beam continues.

        Returns:
            Next-token logits, float [U, B, V].
        """
        users, beams = tokens.shape
        device = tokens.device
        self_mask = torch.eye(beams, dtype=torch.bool, device=device).expand(users, -1, -1)
        ancestors = self.beam_mask.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.beam_mask.shape[-1]))
        self.beam_mask = torch.cat([ancestors, self_mask], dim=-1)
        visible = torch.cat([self.trunk.unsqueeze(1).expand(-1, beams, -1), self.beam_mask], dim=-1)
        mask = torch.zeros_like(visible, dtype=self.logits.dtype).masked_fill_(~visible, -torch.inf)
        out = self.model(
            input_ids=tokens,
            attention_mask=mask.unsqueeze(1),
            position_ids=(self.lengths + self.depth).unsqueeze(1).expand(-1, beams),
            use_cache=True,
            **cache_argument(self.model, self.cache),
        )
        self.depth += 1
        logits: torch.Tensor = out.logits
        return logits


def cache_argument(model: PreTrainedModel, cache: Cache) -> dict[str, Cache]:
    """A model's argument for its cache: transformers has renamed `past_key_values` to `cache`.

    Args:
        model: the model, with or without adapters.
        cache: the argument's value.
    """
    plain = getattr(model, "get_base_model", lambda: model)()
    name = "cache" if "cache" in inspect.signature(plain.forward).parameters else "past_key_values"
    return {name: cache}


def prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], beam_tokens: int, pad_id: int
) -> TreeCache:
    """Run the prompts through the model. Their common prefix is computed once.

    They are padded behind their last token. Under the plain causal mask no token then sees padding, and padding sees
    something, whatever a kernel gives to a position that sees nothing. Without a common prefix no mask is needed at
    all, so a GPU takes flash attention.

    Args:
        model: a causal language model with ordinary attention.
        prompts: U token-id lists.
        beam_tokens: cache positions to reserve for beams, over all levels.
        pad_id: any valid token id.

    Raises:
        UserError: an empty prompt, a prompt that fills the model's context, or attention within a window.
    """
    check_prompts(model, prompts)
    shared = _shared(prompts)
    own = [len(prompt) - shared for prompt in prompts]
    width = max(own)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : own[row]] = torch.tensor(prompt[shared:])
    capacity = shared + width + beam_tokens
    layers: list[CacheLayerMixin | LinearAttentionCacheLayerMixin] = [
        _RowLayer(len(prompts), capacity) for _ in range(model.config.num_hidden_layers)
    ]
    cache = Cache(layers=layers)
    if shared:
        prefix = to_device(torch.tensor([list(prompts[0][:shared])]), model.device)
        model(input_ids=prefix, use_cache=True, logits_to_keep=1, **cache_argument(model, cache))
    lengths = to_device(torch.tensor(own), model.device)
    places = torch.arange(width, device=model.device)
    is_token = places < lengths.unsqueeze(1)
    trunk = torch.cat([is_token.new_ones((len(prompts), shared)), is_token], dim=1)
    last = torch.arange(len(prompts), device=model.device), lengths - 1
    with head_at_positions(model, last):
        out = model(
            input_ids=to_device(ids, model.device),
            position_ids=(shared + places).expand(len(prompts), -1),
            use_cache=True,
            **cache_argument(model, cache),
        )
    beam_mask = torch.zeros((len(prompts), 1, 0), dtype=torch.bool, device=model.device)
    return TreeCache(model, cache, out.logits.unsqueeze(1), lengths + shared, trunk, beam_mask)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the prefix that all prompts share; each prompt keeps at least one token of its own.

    0 if the prefix is too short to pay for a separate pass.
    """
    # The first and the last prompt in lexicographic order share exactly the prefix that all prompts share.
    first = min(prompts, key=tuple)
    last = max(prompts, key=tuple)
    limit = min(len(prompt) for prompt in prompts) - 1
    pairs = zip(first[:limit], last[:limit], strict=True)
    equal = next((i for i, (a, b) in enumerate(pairs) if a != b), limit)
    return equal if len(prompts) > 1 and equal >= MIN_SHARED else 0


def check_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
    """Check that the model and the prompts support token trees.

    Raises:
        UserError: an empty prompt, a prompt that fills the model's context, or attention within a window.
    """
    if not all(map(len, prompts)):
        raise UserError("a prompt is empty: nothing to decode from")
    attention_types = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if attention_types != {"full_attention"}:
        raise UserError(
            f"this model attends by {', '.join(sorted(attention_types))}; token trees need full_attention"
        )
    context = context_of(model)
    longest = max(map(len, prompts))
    if context is not None and longest >= context:
        raise UserError(
            f"a prompt of {longest} tokens is longer than the model's context of {context}: lower data.history"
        )
