"""A training that runs out of memory says which knob helps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from llmrec.artifacts import Workers
from llmrec.config import SftConfig, TrainingConfig
from llmrec.errors import UserError

FULL_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def memory_remedies(stage: str, settings: TrainingConfig) -> list[str]:
    """What a user can turn at any training.

    Args:
        stage: whose section of the recipe `settings` is.
        settings: of the training.
    """
    found = [
        f"a smaller {stage}.batch (it is {settings.batch}) with {stage}.accumulate raised by as much",
    ]
    return found + ([] if settings.gradient_checkpointing else [f"{stage}.gradient_checkpointing=true"])


def sft_memory_remedies(sft: SftConfig, history: int, workers: Workers) -> list[str]:
    """What a user can turn at an SFT.

    Args:
        sft: its settings.
        history: `data.history`.
        workers: processes that train together.
    """
    found = memory_remedies("sft", sft)
    plain = sft.mode != "qlora" and not workers.sharded
    found += ["--shard"] if plain and workers.count > 1 else []
    found += ["sft.mode=qlora"] if plain and sft.mode != "sid_rows" else []
    found += [f"a data.history below {history}"]
    # A sharded model's lists are decoded with whole weights.
    return found + (["sft.valid_lists=null"] if workers.sharded and sft.valid_lists is not None else [])


@contextlib.contextmanager
def explain_out_of_memory(stage: str, helpful: Sequence[str]) -> Iterator[None]:
    """Turn an error of full memory into one that names knobs.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not full and not any(words in str(error) for words in FULL_WORDS):
            raise
        raise UserError(f"{stage}: out of memory; try {', or '.join(helpful)}") from error
