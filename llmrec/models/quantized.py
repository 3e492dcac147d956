"""Frozen linear layers in 4 bits (QLoRA, Dettmers et al. 2023), by bitsandbytes, and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.config import QloraSettings
from llmrec.errors import UserError
from llmrec.files import atomic_write
from llmrec.models.lora import linear_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ORIGINALS = "full_precision.safetensors"
KIND = "nf4"
BLOCK = 64
"""Number of weights that share a scale: bitsandbytes' default."""


def quantize(model: PreTrainedModel, settings: QloraSettings, scratch: Path) -> None:
    """Replace the linear layers (except the LM head) by 4-bit layers, in place; on the GPU if there is one.

    The embedding and the LM head keep their precision, because they have the rows that are trained. The layers'
    full-precision weights are kept on disk; in memory they would cost what 4 bits save.

    Args:
        model: the base model.
        settings: settings of the quantization.
        scratch: folder where the full-precision weights are kept for `restore`.

    Raises:
        UserError: bitsandbytes is not installed, or the inputs of a layer do not divide into blocks.
    """
    from safetensors.torch import save_file

    bnb = _bitsandbytes()
    layers = linear_layers(model)
    _check_widths(layers)
    with atomic_write(scratch / ORIGINALS) as partial:
        save_file({name: layer.weight.detach() for name, layer in layers.items()}, partial)
    for name, layer in layers.items():
        model.set_submodule(name, _in_4_bits(bnb, layer, settings.double_quant))


def restore(model: PreTrainedModel, scratch: Path) -> None:
    """Restore the linear layers' weights from before `quantize`, in place."""
    import torch
    from safetensors import safe_open

    with safe_open(scratch / ORIGINALS, framework="pt") as file:
        for name, layer in linear_layers(model).items():
            plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight = torch.nn.Parameter(file.get_tensor(name), requires_grad=False)
            plain.bias = layer.bias
            model.set_submodule(name, plain)


@contextlib.contextmanager
def marked_as_4bit(model: PreTrainedModel) -> Iterator[None]:
    """Mark a model as 4-bit inside the block, so that PEFT chooses its layers for 4-bit weights.

    The mark is removed afterwards, because TRL would round all trained weights of a marked model to bfloat16, the
    SID rows too.
    """
    marked: Any = model
    marked.is_loaded_in_4bit = True
    try:
        yield
    finally:
        del marked.is_loaded_in_4bit


def _in_4_bits(bnb: Any, layer: torch.nn.Linear, double_quant: bool) -> torch.nn.Module:
    """Return a 4-bit copy of a linear layer; it computes in the precision of its input."""
    import torch

    small = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compress_statistics=double_quant,
        quant_type=KIND,
        device="meta",
    )
    small.weight = bnb.nn.Params4bit(
        layer.weight.detach(),
        blocksize=BLOCK,
        compress_statistics=double_quant,
        quant_type=KIND,
        module=small,
    )
    small.bias = layer.bias
    # On CPUs with bfloat16 the first evaluation would repack the weights for a kernel with errors of 1e-2, which
    # fails for layers whose sizes are not multiples of its blocks.
    small.support_avx512bf16_for_cpu = False
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    frozen: torch.nn.Module = small.to(device).requires_grad_(False)
    return frozen


def _check_widths(layers: dict[str, torch.nn.Linear]) -> None:
    """Raise a UserError for a layer that bitsandbytes' CPU kernel would dequantize wrongly.

    The kernel (0.50.2) reads scales by row, but blocks continue across rows. A layer with 96 inputs is
    dequantized with an error of 27 % and without a message. Layers of released models have multiples of 64 inputs.
    """
    for name, layer in layers.items():
        if layer.in_features % BLOCK:
            raise UserError(
                f"sft.mode=qlora: layer {name} takes {layer.in_features} inputs, 4-bit layers a multiple of {BLOCK}; "
                "use sft.mode=lora, or another base"
            )


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(f"sft.mode=qlora needs bitsandbytes ({error}): pip install 'llmrec[qlora]'") from None
    return bitsandbytes
