"""How long a text a model reads. Decoding needs it where the recipe's classes are not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def context_of(model: PreTrainedModel) -> int | None:
    """Most tokens of a text that a model reads, as its configuration says; None if it names no limit."""
    context: int | None = getattr(model.config, "max_position_embeddings", None)
    return context
