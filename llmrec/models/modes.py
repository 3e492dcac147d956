"""The modes of SFT (`sft.mode`): this module is the only place where they differ.

`wrap` prepares a base for the trainer, and `split` makes `base/` and `sft/` from the trained model:

| mode | trained | `base/` | `sft/` |
|---|---|---|---|
| full | every weight | the tuned weights | no adapter |
| lora | LoRA and the SID tokens' rows | the base's weights, trained rows | LoRA |
| qlora | the same, on 4-bit linear layers | the base's full-precision weights, trained rows | LoRA |
| sid_rows | the SID tokens' rows | the base's weights, trained rows | no adapter |
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.config import LoraSettings, SftConfig
from llmrec.errors import UserError
from llmrec.models import lora, quantized
from llmrec.models.vocabulary import SidVocabulary

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def wrap(
    model: PreTrainedModel, sft: SftConfig, vocabulary: SidVocabulary, scratch: Path
) -> PreTrainedModel | PeftModel:
    """Prepare a base for training, and freeze the weights that its mode does not train.

    Args:
        model: the base with the rows of the SID tokens; changed in place.
        sft: the mode and its settings.
        vocabulary: the SID tokens.
        scratch: the stage's scratch folder; `qlora` keeps the full-precision weights there until `split`.

    Returns:
        The model to train. Its outputs equal those of `model`; in `qlora`, those of the 4-bit weights.

    Raises:
        UserError: the base lacks a LoRA target, or bitsandbytes is not installed (`qlora`).
    """
    if sft.mode == "full":
        return model
    if sft.mode == "sid_rows":
        return lora.attach_rows(model, vocabulary)
    if sft.mode == "lora":
        return lora.attach_lora(model, sft.lora, vocabulary)
    quantized.quantize(model, sft.qlora, scratch)
    with quantized.marked_as_4bit(model):
        return lora.attach_lora(model, sft.lora, vocabulary)


def load_adapter_weights(model: PreTrainedModel | PeftModel, sft: SftConfig, adapter: Path) -> None:
    """Continue training from the adapter of an earlier run on the same base, if that run has an adapter.

    Args:
        model: the model that `wrap` returned.
        sft: as given to `wrap`.
        adapter: the earlier run's `sft/`.

    Raises:
        UserError: the adapter has another shape, or the mode trains no adapter.
    """
    from peft import PeftModel

    if not (adapter / lora.WEIGHTS).is_file():
        return
    if sft.mode in ("full", "sid_rows") or not isinstance(model, PeftModel):
        raise UserError(
            f"sft.start: {adapter.parent.name} has an adapter, which sft.mode={sft.mode} would lose; "
            f"use sft.mode=lora, or make one checkpoint of it first: llmrec merge {adapter.parent.name} DEST"
        )
    lora.load_adapter_weights(model, adapter)


def load_policy(
    base: PreTrainedModel, sft: SftConfig, adapter: Path, settings: LoraSettings, scratch: Path
) -> PeftModel:
    """Load the policy for preference alignment.

    It is the SFT model with a trainable copy of its adapter, or with a new adapter if SFT left none.

    Args:
        base: the run's base; changed in place. In `qlora` its linear layers are quantized again.
        sft: settings of the run's SFT.
        adapter: the run's `sft/`.
        settings: settings of a new adapter, which does not change the outputs at first.
        scratch: as for `wrap`.

    Raises:
        UserError: the adapter belongs to another base, the base lacks a LoRA target, or bitsandbytes is not
            installed (`qlora`).
    """
    marked: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if sft.mode == "qlora":
        quantized.quantize(base, sft.qlora, scratch)
        marked = quantized.marked_as_4bit(base)
    with marked:
        if (adapter / lora.WEIGHTS).is_file():
            return lora.load_adapter(base, adapter, trainable=True)
        return lora.attach_lora(base, settings)


def split(
    trained: PreTrainedModel | PeftModel,
    sft: SftConfig,
    vocabulary: SidVocabulary,
    adapter: Path,
    scratch: Path,
) -> PreTrainedModel:
    """Split a trained model into its base and, in the LoRA modes, an adapter.

    Args:
        trained: the trained model that `wrap` returned; it must not be used afterwards.
        sft: as given to `wrap`.
        vocabulary: as given to `wrap`.
        adapter: the folder for the adapter.
        scratch: as given to `wrap`.

    Returns:
        The base, to be saved as `base/`. With the adapter its outputs equal those of `trained`; after `qlora` they
        are equal only if the linear layers are dequantized from the 4-bit ones.
    """
    from peft import PeftModel

    if not isinstance(trained, PeftModel):  # mode `full`
        return trained
    base = lora.split_base_and_adapter(trained, vocabulary, None if sft.mode == "sid_rows" else adapter)
    if sft.mode == "qlora":
        quantized.restore(base, scratch)
    return base
