"""Memory of a training: what is free is returned, and errors name the settings that reduce it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmrec.artifacts import Workers
from llmrec.config import SftConfig, TrainingConfig
from llmrec.errors import UserError
from llmrec.hardware import return_free_memory

OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of the error messages by which torch reports full memory."""
STEPS_BETWEEN_RETURNS = 16


class ReturnsFreeMemory(TrainerCallback):
    """Returns the memory that the process has freed, every `STEPS_BETWEEN_RETURNS` optimizer steps."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Return it after some of the steps."""
        if state.global_step % STEPS_BETWEEN_RETURNS == 0:
            return_free_memory()


def memory_remedies(stage: str, settings: TrainingConfig) -> list[str]:
    """List the settings that reduce the memory of any training.

    Args:
        stage: the recipe's section, such as `sft`.
        settings: its settings.
    """
    remedies = [f"a smaller {stage}.batch (it is {settings.batch}) with {stage}.accumulate raised by as much"]
    if not settings.gradient_checkpointing:
        remedies.append(f"{stage}.gradient_checkpointing=true")
    return remedies


def sft_memory_remedies(sft: SftConfig, history: int, workers: Workers) -> list[str]:
    """List the settings that reduce the memory of SFT.

    Args:
        sft: the recipe's section.
        history: `data.history`.
        workers: processes that train together.
    """
    remedies = memory_remedies("sft", sft)
    has_whole_base = sft.mode != "qlora" and not workers.sharded
    if has_whole_base and workers.count > 1:
        remedies.append("--shard")
    if has_whole_base and sft.mode != "sid_rows":
        remedies.append("sft.mode=qlora")
    remedies.append(f"a data.history below {history}")
    # Decoding validation lists gathers the whole weights of a sharded model in each process.
    if workers.sharded and sft.valid_lists is not None:
        remedies.append("sft.valid_lists=null")
    return remedies


@contextlib.contextmanager
def explain_out_of_memory(stage: str, remedies: Sequence[str]) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError that suggests settings which need less memory.

    Args:
        stage: the stage, for the message.
        remedies: settings to suggest.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        is_full = is_full or any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
        if not is_full:
            raise
        raise UserError(f"{stage}: out of memory; try {', or '.join(remedies)}") from error
