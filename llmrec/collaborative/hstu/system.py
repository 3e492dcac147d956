"""HSTU as a collaborative system, trained by the loop that SASRec has.

The loss is the cross-entropy over the whole catalogue. The authors draw 128 negatives, because their catalogues are
larger; here the exact loss is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from llmrec.collaborative.hstu.settings import HstuSettings
from llmrec.collaborative.sequential.system import SequentialSystem
from llmrec.config import Positive

if TYPE_CHECKING:
    from llmrec.collaborative.sequential.ranker import SequentialRanker


class HstuSystem(HstuSettings, SequentialSystem):
    """HSTU."""

    title: ClassVar[str] = "HSTU"
    formula: ClassVar[str] = (
        "score(i) = cos(h, e_i) / temperature, h the last layer's output at the history's last item"
    )
    loss: ClassVar[Literal["bce", "ce"]] = "ce"
    typical_epochs: ClassVar[int] = 20
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    patience: Positive = 3

    @property
    def needs_times(self) -> bool:
        """Whether the model reads the times of interactions."""
        return self.times

    @classmethod
    def ranker(cls) -> type[SequentialRanker]:
        """Return the class of the trained model."""
        from llmrec.collaborative.hstu.baseline import Hstu

        return Hstu
