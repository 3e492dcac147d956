"""SASRec as collaborative systems: as published with each of its losses, and with options that make it stronger."""

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
        typical_epochs: typical number of epochs until validation stops the training, for the estimate.
    """

    formula: ClassVar[str] = "score(i) = h · e_i, h the transformer's output at the history's last item"
    files: ClassVar[tuple[str, ...]] = (WEIGHTS,)
    learns_in_training: ClassVar[bool] = True
    loss: ClassVar[Literal["bce", "ce"]]
    typical_epochs: ClassVar[int]

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Train, and write the weights of the best epoch.

        Returns:
            The number of validation users, and the log of the training.
        """
        from llmrec.collaborative.sasrec.baseline import Sasrec
        from llmrec.files import atomic_write

        valid = data.valid(self.valid_users)
        model, log = Sasrec.fit(data.histories, data.items, self.loss, self, seed=data.seed, valid=valid)
        with atomic_write(data.file(WEIGHTS)) as partial:
            model.save(partial)
        return {"valid_users": len(valid)} | log

    def fit(self, data: TrainingData) -> Baseline:
        """Load the trained model, which has the items of `data/items.parquet`.

        Raises:
            UserError: the stage collaborative has not trained it.
        """
        from llmrec.collaborative.sasrec.baseline import Sasrec

        return Sasrec.load(data.file(WEIGHTS))

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """FLOPs of the blocks, and of the scores of the items that each target is compared to."""
        scored = items if self.loss == "ce" else 2
        per_target = 6 * self.dim * (scored + 6 * self.dim * self.layers)
        targets = max(interactions - 3 * users, 0)
        return targets * per_target * min(self.epochs, self.typical_epochs)


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
