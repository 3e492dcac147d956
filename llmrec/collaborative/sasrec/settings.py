"""Settings of SASRec: its shape and its training."""

from __future__ import annotations

from typing import Literal

from llmrec.collaborative.sequential.settings import SequentialSettings
from llmrec.config import Positive, Probability


class SasrecSettings(SequentialSettings):
    """SASRec (Kang & McAuley 2018): its shape and its training.

    Attributes:
        start: whether a start vector stands before the first item, so that the first item is predicted too, and an
            empty history can be answered.
        positions: `end` adds a vector to each item by its distance to the row's end; `relative` adds a number to each
            attention score by the distance of its two items (Raffel et al. 2020), so every position is trained as if
            it were the last.
        filter: weight of BSARec's frequency filter beside attention, from 0 (none) to 1 (no attention).
        frequencies: number of lowest frequencies that the filter keeps, the mean counted as one.
    """

    start: bool = False
    positions: Literal["end", "relative"] = "end"
    filter: Probability = 0.0
    frequencies: Positive = 3
