"""Settings of SASRec: its shape and its training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llmrec.config import Positive, SystemSettings


class SasrecSettings(SystemSettings):
    """SASRec (Kang & McAuley 2018): its shape and its training.

    Attributes:
        dim: width of the item vectors and of the layers.
        layers: number of transformer blocks.
        heads: attention heads per block.
        history: number of last items that the model reads.
        dropout: dropout rate in training.
        lr: learning rate.
        batch: targets per optimizer step.
        epochs: most epochs.
        patience: training stops after this many epochs without a better validation NDCG@10.
        valid_users: number of validation users, a seeded sample.
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
    valid_users: Positive = 5000

    @model_validator(mode="after")
    def _heads_share_dim(self) -> SasrecSettings:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads}")
        return self
