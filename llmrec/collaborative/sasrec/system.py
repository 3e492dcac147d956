"""SASRec as collaborative systems: as published with each of its losses, and with options that make it stronger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from llmrec.collaborative.sasrec.settings import SasrecSettings
from llmrec.collaborative.sequential.system import SequentialSystem
from llmrec.config import Positive

if TYPE_CHECKING:
    from llmrec.collaborative.sequential.ranker import SequentialRanker


class SasrecSystem(SasrecSettings, SequentialSystem):
    """SASRec, with whichever loss."""

    formula: ClassVar[str] = "score(i) = h · e_i, h the transformer's output at the history's last item"

    @classmethod
    def ranker(cls) -> type[SequentialRanker]:
        """Return the class of the trained model."""
        from llmrec.collaborative.sasrec.baseline import Sasrec

        return Sasrec


class SasrecBce(SasrecSystem):
    """Defaults for binary cross-entropy.

    One negative a position learns slowly, so the model is larger and more strongly regularised.
    """

    title: ClassVar[str] = "SASRec (BCE)"
    loss: ClassVar[Literal["bce", "ce"]] = "bce"
    typical_epochs: ClassVar[int] = 60
    dim: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    lr: Annotated[float, Field(gt=0)] = 1e-3


class SasrecCe(SasrecSystem):
    """Defaults for cross-entropy over the catalogue, which is best after about ten epochs on Amazon Beauty."""

    title: ClassVar[str] = "SASRec (CE)"
    loss: ClassVar[Literal["bce", "ce"]] = "ce"
    typical_epochs: ClassVar[int] = 20
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    patience: Positive = 3


class SasrecPlus(SasrecCe):
    """Defaults for the strongest SASRec: that of the cross-entropy, with the options that validation has kept.

    The weights of single epochs differ by chance; their moving average does not, and is better on Amazon Beauty.
    """

    title: ClassVar[str] = "SASRec (CE, plus)"
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.995
