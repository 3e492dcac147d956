"""Settings that all sequential models have: their shape and their training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llmrec.config import Positive, Probability, SystemSettings


class SequentialSettings(SystemSettings):
    """Shape and training of a model that predicts the next item of a history.

    Attributes:
        dim: width of the item vectors and of the layers.
        layers: number of blocks.
        heads: attention heads per block.
        history: number of last items that the model reads.
        dropout: dropout rate in training.
        lr: learning rate.
        batch: targets per optimizer step.
        epochs: most epochs.
        patience: training stops after this many epochs without a better validation NDCG@10, though not before
            `patient_steps`.
        patient_steps: number of optimizer steps without a better value before the training stops. With little data
            an epoch is a handful of steps, and a few epochs without a better value are chance.
        valid_users: number of validation users, a seeded sample.
        crop: probability that an epoch cuts a history in two at a random place, and trains both pieces.
        shuffle: probability that an epoch shuffles a history within blocks of `shuffle_window` items.
        shuffle_window: length of these blocks.
        averaging: decay per step of a moving average of the weights, which is what is validated and kept; 0 for none.
    """

    dim: Positive = 64
    layers: Positive = 2
    heads: Positive = 2
    history: Positive = 50
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    lr: Annotated[float, Field(gt=0)] = 2e-3
    batch: Positive = 768
    epochs: Positive = 200
    patience: Positive = 10
    patient_steps: Annotated[int, Field(ge=0)] = 300
    valid_users: Positive = 5000
    crop: Probability = 0.0
    shuffle: Probability = 0.0
    shuffle_window: Annotated[int, Field(ge=2)] = 3
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_share_dim(self) -> SequentialSettings:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads}")
        return self
