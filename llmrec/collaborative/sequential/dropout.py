"""Dropout whose random numbers belong to a piece of work, not to a thread."""

from __future__ import annotations

import numpy as np
import torch

_LEVELS = 1 << 16  # a rate is rounded to 1/65,536: four draws fit in one word of the generator


class Dropout:
    """Sets values to 0 with a probability, and scales the others so that the mean stays.

    Torch's own dropout draws from one generator for all threads, and takes a fifth of SASRec's training on a CPU.
    """

    def __init__(self, rate: float, bits: np.random.BitGenerator) -> None:
        """Keep the probability of dropping a value, and the generator of random words."""
        self.rate, self._bits = rate, bits
        self._first_kept = round(rate * _LEVELS) - _LEVELS // 2

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values with some of them dropped; a float tensor of the same shape."""
        if not self.rate:
            return values
        words = np.asarray(self._bits.random_raw(-(-values.numel() // 4)))
        draws = torch.from_numpy(words.view(np.int16)[: values.numel()]).view(values.shape)
        scale = (draws >= self._first_kept).to(values.dtype).mul_(1 / (1 - self.rate))
        return values * scale.to(values.device)


def keep_all(values: torch.Tensor) -> torch.Tensor:
    """Return the values as they are: dropout outside training."""
    return values
