"""What `sft.mode` trains: the one place where the modes differ.

`wrap` gets a base ready for the trainer, `split` makes `base/` and `sft/` of what the trainer leaves:

| mode | trained | `base/` | `sft/` |
|---|---|---|---|
| full | every weight | the tuned weights | no adapter |
| lora | LoRA and the SID tokens' rows | the base's weights, trained rows | LoRA |
| qlora | the same, on 4-bit linear layers | the base's weights (not the 4-bit ones), trained rows | LoRA |
| sid_rows | the SID tokens' rows | the base's weights, trained rows | no adapter |
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Get a base ready for training: what its mode does not train is frozen.

    Args:
        model: the base with the rows of the SID tokens; changed in place.
        sft: names the mode, and its settings.
        vocabulary: the SID tokens.
        scratch: a folder of the stage's own; `qlora` keeps the base's own weights there until `split`.

    Returns:
        The model to train. Frozen and trained weights apart, it computes what `model` computed; in `qlora`, what
        its 4-bit weights compute.

    Raises:
        UserError: LoRA targets that the base has not, or no bitsandbytes for `qlora`.
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


def load_adapter_weights(model: Any, sft: SftConfig, adapter: Path) -> None:
    """Start a wrapped base from what an earlier training on the same base has left, if that has an adapter.

    Args:
        model: what `wrap` returned.
        sft: as given to `wrap`.
        adapter: the earlier run's `sft/`.

    Raises:
        UserError: an adapter of another shape, or a mode that has no place for one.
    """
    if not (adapter / lora.WEIGHTS).is_file():
        return
    if sft.mode in ("full", "sid_rows"):
        raise UserError(
            f"sft.start: {adapter.parent.name} has an adapter, which sft.mode={sft.mode} would lose; "
            f"use sft.mode=lora, or make one checkpoint of it first: llmrec merge {adapter.parent.name} DEST"
        )
    lora.load_adapter_weights(model, adapter)


def load_policy(
    base: PreTrainedModel, sft: SftConfig, adapter: Path, settings: LoraSettings, scratch: Path
) -> PeftModel:
    """What preference alignment trains: the SFT model, whose adapter is a copy, or new where it has none.

    Args:
        base: the run's base, changed in place: after `qlora` its linear layers are small again.
        sft: how the run's SFT was done.
        adapter: the run's `sft/`.
        settings: of a new adapter, which changes nothing at first.
        scratch: as for `wrap`.

    Raises:
        UserError: an adapter of another base, LoRA targets that the base has not, or no bitsandbytes for `qlora`.
    """
    shown: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if sft.mode == "qlora":
        quantized.quantize(base, sft.qlora, scratch)
        shown = quantized.marked_as_4bit(base)
    with shown:
        if (adapter / lora.WEIGHTS).is_file():
            return lora.load_adapter(base, adapter, trainable=True)
        return lora.attach_lora(base, settings)


def split(
    trained: Any, sft: SftConfig, vocabulary: SidVocabulary, adapter: Path, scratch: Path
) -> PreTrainedModel:
    """Take a trained model apart into its base and, in the LoRA modes, an adapter.

    Args:
        trained: what `wrap` returned, trained; not to be used afterwards.
        sft: as given to `wrap`.
        vocabulary: as given to `wrap`.
        adapter: the folder that an adapter is written to.
        scratch: as given to `wrap`.

    Returns:
        The base, to be saved as `base/`. With the adapter on it, it computes what `trained` computed; after
        `qlora` it does so only where its linear layers are dequantized from the 4-bit ones.
    """
    if sft.mode == "full":
        return trained
    base = lora.split_base_and_adapter(trained, vocabulary, None if sft.mode == "sid_rows" else adapter)
    if sft.mode == "qlora":
        quantized.restore(base, scratch)
    return base
