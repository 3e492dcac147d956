"""The temperature of a teacher.

Lists show a teacher's best items, so a student that spends its capacity on the tail of a flat teacher has poor
lists. How flat a teacher is depends on the data. So the temperature is not chosen itself, but how much probability
the best items have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log

import numpy as np
import torch

from llmrec.collaborative.blocks import users_at_once
from llmrec.train.sft.teacher.distributions import Teacher

BEST, SHARE = 10, 0.5
"""The `BEST` items of a history have `SHARE` of the probability, on average over histories."""
HISTORIES = 256
"""Most histories that are looked at."""
LEAST, MOST = 0.05, 20.0
"""Range of the temperatures."""
STEPS = 40


def find_temperature(teacher: Teacher, histories: Sequence[Sequence[str]], seed: int) -> float:
    """Find the temperature at which a teacher's best items have half of the probability.

    The share of the best items falls with the temperature, so bisection finds it.

    Args:
        teacher: its own temperature does not count.
        histories: item ids, oldest first; a sample of them is looked at.
        seed: of the sample.

    Returns:
        The temperature, two digits of it; `LEAST` or `MOST` if it lies beyond them.
    """
    rng = np.random.default_rng(seed)
    sample = rng.permutation(len(histories))[: users_at_once(teacher.catalogue.trie.items, most=HISTORIES)]
    plain = replace(teacher, temperature=1.0)
    scores = torch.from_numpy(plain.scores(teacher.model, [histories[index] for index in sample]))
    best = scores.topk(max(1, min(BEST, scores.shape[1] // 2)), dim=1).values
    low, high = log(LEAST), log(MOST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        best_mass, mass = ((values / exp(middle)).logsumexp(1) for values in (best, scores))
        share = (best_mass - mass).exp().mean().item()
        low, high = (middle, high) if share > SHARE else (low, middle)
    return float(f"{exp((low + high) / 2):.2g}")
