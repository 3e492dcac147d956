"""Dropout for models that were pretrained without: Qwen and LLaMA have none outside attention."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch.nn.functional import dropout

from llmrec.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BRANCH_ENDS = ("o_proj", "down_proj")
"""The linear layers whose output a layer of Qwen, LLaMA and their kin adds to the residual stream."""


def attach_dropout(model: PreTrainedModel, rate: float) -> None:
    """Drop parts of the embeddings, and of what attention and MLP add to the residual stream, while training.

    That is where GPT-2 and SASRec drop. Hooks do it, so neither weights nor configuration change.

    Args:
        model: the (wrapped) model, changed in place.
        rate: share of values that are dropped; 0 leaves the model as it is.

    Raises:
        UserError: a model whose layers end in no `o_proj` and `down_proj`.
    """
    if not rate:
        return
    ends = [module for name, module in model.named_modules() if name.endswith(BRANCH_ENDS)]
    if not ends:
        raise UserError(
            f"sft.dropout: this base has no layers that end in {' and '.join(BRANCH_ENDS)}; leave it 0"
        )
    for module in [model.get_input_embeddings(), *ends]:
        module.register_forward_hook(partial(_drop, rate))


def _drop(rate: float, module: torch.nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
    return dropout(output, rate, module.training)
