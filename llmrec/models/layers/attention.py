"""Attention over token trees, as the models of this package compute it.

Transformers looks attention up by name. Under the name `ATTENTION` it finds torch's fused attention ("sdpa"), except
in training on a CPU. There, fused attention takes two to five times as long in bfloat16 as plain products of matrices
(trees of 48 to 256 tokens, forward and backward together), and in float32 it is no faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "llmrec"
"""The implementation of attention that models are loaded with; a base may name another in its config.json."""
MAX_SCORES = 1 << 22
"""Most scores of a layer (heads times pairs of positions) that are kept for the backward pass. Where there are more,
fused attention takes over, which keeps none."""


def register_attention() -> str:
    """Make `tree_attention` known to transformers, which is imported here, and return its name, `ATTENTION`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, tree_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    return ATTENTION


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax(Q Kᵀ · scaling + mask) V (Vaswani et al. 2017, equation 1), by the faster of two ways.

    Args:
        module: the attention layer. In training mode it is computed in the same way with and without gradients, so
            that a policy that has not moved yet equals its reference.
        query: [B, H, T, D].
        key: [B, G, T', D]; H is a multiple of G, and H / G neighbouring heads share a key.
        value: [B, G, T', D].
        attention_mask: True where a query sees a key, bool [B, 1, T, T']; None for causal attention.
        dropout: probability with which a weight is dropped.
        scaling: factor of the scores; None for 1 / √D.
        kwargs: what else transformers passes.

    Returns:
        [B, T, H, D], and None in place of the weights.
    """
    has_mask = attention_mask is not None and attention_mask.dtype == torch.bool
    if has_mask and not dropout and module.training and _fits_a_cpu(query, key):
        assert attention_mask is not None
        return _plain_attention(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def _fits_a_cpu(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether plain products are the faster way in training, and their scores are few enough to be kept."""
    return query.device.type == "cpu" and query.shape[:3].numel() * key.shape[2] <= MAX_SCORES


def _plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attention in three steps, [B, H, T, D]; queries that share a key are rows of one matrix.

    A query that sees nothing, as a pad on the left, has equal weights, so that neither it nor its gradient is NaN.
    """
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    rows = (query * (width**-0.5 if scaling is None else scaling)).reshape(batch, groups, -1, width)
    scores = (rows @ key.transpose(-1, -2)).float().view(batch, heads, length, -1)
    hidden = torch.zeros(mask.shape, dtype=torch.float32).masked_fill_(~mask, torch.finfo(torch.float32).min)
    weights = torch.softmax(scores + hidden, dim=-1).to(value.dtype)
    return (weights.view(batch, groups, -1, weights.shape[-1]) @ value).view(batch, heads, length, width)


def leave_out_cudnn_attention() -> None:
    """Keep torch from cuDNN's attention, its default for masks in bfloat16 on recent GPUs.

    It was reported to give NaN gradients at some lengths (pytorch #196678) and wrong results with few key-value heads
    (#193893), and it plans anew for every shape. On a CPU this changes nothing.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextlib.contextmanager
def every_position_sees_something(model: PreTrainedModel) -> Iterator[None]:
    """Let pads in the masks that transformers makes see all positions instead of none.

    A position that sees nothing would be left to the kernel: some give 0, some NaN, which then spreads over the row.
    What tokens see is not changed.

    Args:
        model: the model, whose implementation of attention takes boolean masks.
    """
    from transformers import masking_utils

    masks: Any = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    attention = model.config._attn_implementation
    make = masks[attention]

    def mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        made: torch.Tensor | None = make(*args, **kwargs)
        return None if made is None else made | ~made.any(-1, keepdim=True)

    masks[attention] = mask
    try:
        yield
    finally:
        del masks[attention]
