"""A training that runs out of memory says which knob helps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from llmrec.config import TrainingConfig
from llmrec.errors import UserError

FULL_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def knobs(
    stage: str,
    settings: TrainingConfig,
    qlora: bool = False,
    history: int | None = None,
    shard: bool = False,
) -> list[str]:
    """What a user can turn.

    Args:
        stage: whose section of the recipe `settings` is.
        settings: of the training.
        qlora: whether 4-bit weights would help.
        history: `data.history`, where less of it would help.
        shard: whether there are processes that could share the weights.
    """
    found = [
        f"a smaller {stage}.batch (it is {settings.batch}) with {stage}.accumulate raised by as much",
    ]
    found += [] if settings.gradient_checkpointing else [f"{stage}.gradient_checkpointing=true"]
    found += ["--shard"] if shard else []
    found += ["sft.mode=qlora"] if qlora else []
    found += [] if history is None else [f"a data.history below {history}"]
    return found


@contextlib.contextmanager
def room(stage: str, helpful: Sequence[str]) -> Iterator[None]:
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
