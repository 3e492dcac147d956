"""Dropout for models that were pretrained without it, as Qwen and LLaMA outside attention, and a pause of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.nn.functional import dropout

from llmrec.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

BRANCH_ENDS = ("o_proj", "down_proj")
"""Name endings of the linear layers whose output Qwen, LLaMA and similar models add to the residual stream."""


def attach_dropout(model: PreTrainedModel | PeftModel, rate: float) -> None:
    """Apply dropout to the embeddings and to the outputs of attention and MLP during training.

    GPT-2 and SASRec have dropout at the same places. It uses hooks, so weights and configuration do not change.

    Args:
        model: the (wrapped) model, changed in place.
        rate: probability of dropping a value; 0 leaves the model unchanged.

    Raises:
        UserError: the model has no layers named `o_proj` or `down_proj`.
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


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into eval mode inside the block; restore its mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
