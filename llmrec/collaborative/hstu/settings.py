"""Settings of HSTU: its shape and its training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmrec.collaborative.sequential.settings import SequentialSettings


class HstuSettings(SequentialSettings):
    """HSTU (Zhai et al. 2024): its shape and its training. Queries, keys, values and gates have dim / heads numbers.

    Attributes:
        times: whether the attention's bias also depends on the time between two items; only where the data has times.
        temperature: divisor of the cosine of history and item, the score of an item.
    """

    times: bool = False
    temperature: Annotated[float, Field(gt=0)] = 0.05
