"""Limits the LM head to some positions or some tokens, to save its work on the others.

A hook or a replaced `forward` of the head changes nothing in the model's wrappers (DDP, PEFT, gradient
checkpointing).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import extract_model_from_parallel
from torch.nn.functional import linear


@contextmanager
def head_at_positions(
    model: torch.nn.Module, positions: torch.Tensor | tuple[torch.Tensor, torch.Tensor]
) -> Iterator[None]:
    """Apply the head to some positions only. Inside the block, a forward returns logits `[positions, V]`.

    Args:
        model: the (wrapped) causal language model.
        positions: positions to score, bool [B, T]; or their rows and columns, int64 [positions] each, for which the
            host need not wait for the device.
    """
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][positions], *hidden[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def head_over_tokens(model: torch.nn.Module, tokens: torch.Tensor) -> Iterator[None]:
    """Let the head score some tokens only. Inside the block, logits have one column per token, in the given order.

    With a vocabulary of 150,000 tokens the head takes a third of a small model's work; a catalogue has about
    a thousand tokens.

    Args:
        model: the (wrapped) causal language model, whose head has no adapter.
        tokens: int64 [C], token ids on the model's device; a negative one gives the column of token 0.
    """
    head = extract_model_from_parallel(model).get_output_embeddings()
    rows = tokens.clamp(min=0)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        bias = getattr(head, "bias", None)
        return linear(hidden, head.weight[rows], None if bias is None else bias[rows])

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
