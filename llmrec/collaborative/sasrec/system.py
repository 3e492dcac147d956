"""SASRec as two collaborative systems, one a loss."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmrec.collaborative.sasrec.settings import SasrecSettings
from llmrec.collaborative.system import Baseline, System, TrainingData
from llmrec.config import Positive

WEIGHTS = ".safetensors"


class SasrecSystem(SasrecSettings, System):
    """SASRec, trained in the stage collaborative until validation no longer improves.

    Attributes:
        loss: `bce` (one sampled negative a position) or `ce` (over the whole catalogue).
        typical_epochs: about how many epochs validation allows, for the estimate.
    """

    formula: ClassVar[str] = "score(i) = h · e_i, h the transformer's output at the history's last item"
    files: ClassVar[tuple[str, ...]] = (WEIGHTS,)
    loss: ClassVar[Literal["bce", "ce"]]
    typical_epochs: ClassVar[int]

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Train, and write the best epoch's weights.

        Returns:
            Number of validation users, and the log of the training.
        """
        from llmrec.collaborative.sasrec.baseline import Sasrec
        from llmrec.files import atomic_write

        valid = data.valid(self.valid_users)
        model, log = Sasrec.fit(data.histories, data.items, self.loss, self, seed=data.seed, valid=valid)
        with atomic_write(data.file(WEIGHTS)) as partial:
            model.save(partial)
        return {"valid_users": len(valid)} | log

    def fit(self, data: TrainingData) -> Baseline:
        """The trained model; it knows the items of `data/items.parquet`.

        Raises:
            UserError: it is not trained.
        """
        from llmrec.collaborative.sasrec.baseline import Sasrec

        return Sasrec.load(data.file(WEIGHTS))

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """Of its blocks, and of the items that each target is scored against."""
        scored = items if self.loss == "ce" else 2
        per_target = 6 * self.dim * (scored + 6 * self.dim * self.layers)
        targets = max(interactions - 3 * users, 0)
        return targets * per_target * min(self.epochs, self.typical_epochs)


class SasrecBce(SasrecSystem):
    """Defaults for binary cross-entropy: one negative a position learns slowly, and wants more room to learn in."""

    title: ClassVar[str] = "SASRec (BCE)"
    loss: ClassVar[Literal["bce", "ce"]] = "bce"
    typical_epochs: ClassVar[int] = 60
    dim: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    lr: Annotated[float, Field(gt=0)] = 1e-3


class SasrecCe(SasrecSystem):
    """Defaults for cross-entropy over the catalogue: best after some ten epochs on Amazon Beauty."""

    title: ClassVar[str] = "SASRec (CE)"
    loss: ClassVar[Literal["bce", "ce"]] = "ce"
    typical_epochs: ClassVar[int] = 20
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    patience: Positive = 3
