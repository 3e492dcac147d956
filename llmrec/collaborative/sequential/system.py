"""What the collaborative systems of sequential models share: training until validation stops it, and loading."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llmrec.collaborative.sequential.settings import SequentialSettings
from llmrec.collaborative.system import Baseline, System, TrainingData

if TYPE_CHECKING:
    from llmrec.collaborative.sequential.ranker import SequentialRanker

WEIGHTS = ".safetensors"


class SequentialSystem(SequentialSettings, System):
    """A sequential model, trained in the stage collaborative until validation no longer improves.

    Attributes:
        loss: `bce` (one sampled negative a position) or `ce` (over the whole catalogue).
        typical_epochs: typical number of epochs until validation stops the training, for the estimate.
    """

    files: ClassVar[tuple[str, ...]] = (WEIGHTS,)
    learns_in_training: ClassVar[bool] = True
    loss: ClassVar[Literal["bce", "ce"]]
    typical_epochs: ClassVar[int]

    @classmethod
    @abstractmethod
    def ranker(cls) -> type[SequentialRanker]:
        """Return the class of the trained model, which imports torch."""

    @property
    def needs_times(self) -> bool:
        """Whether the model reads the times of interactions."""
        return False

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Train, and write the weights of the best epoch.

        Returns:
            The number of validation users, and the log of the training.
        """
        from llmrec.files import atomic_write

        valid = data.valid(self.valid_users, self.needs_times)
        histories = data.timed_histories if self.needs_times else data.histories
        model, log = self.ranker().fit(histories, data.items, self.loss, self, seed=data.seed, valid=valid)
        with atomic_write(data.file(WEIGHTS)) as partial:
            model.save(partial)
        return {"valid_users": len(valid)} | log

    def fit(self, data: TrainingData) -> Baseline:
        """Load the trained model, which has the items of `data/items.parquet`.

        Raises:
            UserError: the stage collaborative has not trained it.
        """
        return self.ranker().load(data.file(WEIGHTS))

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """FLOPs of the blocks, and of the scores of the items that each target is compared to."""
        scored = items if self.loss == "ce" else 2
        per_target = 6 * self.dim * (scored + 6 * self.dim * self.layers)
        targets = max(interactions - 3 * users, 0)
        return targets * per_target * min(self.epochs, self.typical_epochs)
