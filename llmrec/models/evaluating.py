"""A model in training that is asked something in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into eval mode for the time, and back into the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
