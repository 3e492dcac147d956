"""A moving average of the trained weights (Polyak & Juditsky, Acceleration of stochastic approximation, 1992).

The weights of single steps differ by chance; their average does so less. It is validated and kept in place of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FILE = "average.safetensors"
"""Name of the average in a checkpoint."""


class WeightAverage:
    """The exponentially weighted average of a model's trained weights, one value a step.

    Args:
        model: whose parameters with gradients are averaged.
        decay: share of the average that a step leaves. The first steps leave less of it, (1 + n) / (10 + n) after n
            steps, so that the start is forgotten.

    Attributes:
        steps: number of steps in the average.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._decay, self.steps = decay, 0
        self._weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._averages = {name: value.detach().float().clone() for name, value in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are after an optimizer step."""
        share = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        weights = [value.detach().float() for value in self._weights.values()]
        torch._foreach_lerp_(list(self._averages.values()), weights, share)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the model the average as its weights."""
        for name, value in self._weights.items():
            value.copy_(self._averages[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the average for a while, and its own weights back."""
        own = {name: value.detach().clone() for name, value in self._weights.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._weights.items():
                    value.copy_(own[name])

    def save(self, checkpoint: Path) -> None:
        """Write the average into a checkpoint's folder."""
        save_file(self._averages | {"steps": torch.tensor(self.steps)}, checkpoint / FILE)

    def load(self, checkpoint: Path) -> None:
        """Read the average from a checkpoint's folder."""
        read = load_file(checkpoint / FILE)
        self.steps = int(read.pop("steps"))
        for name, value in self._averages.items():
            value.copy_(read[name])
