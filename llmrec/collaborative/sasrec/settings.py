"""Settings of SASRec: its shape and its training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llmrec.config import Positive, Probability, SystemSettings


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
        start: whether a start vector stands before the first item, so that the first item is predicted too, and an
            empty history can be answered.
        positions: `end` adds a vector to each item by its distance to the row's end; `relative` adds a number to each
            attention score by the distance of its two items (Raffel et al. 2020), so every position is trained as if
            it were the last.
        crop: probability that an epoch cuts a history in two at a random place, and trains both pieces.
        shuffle: probability that an epoch shuffles a history within blocks of `shuffle_window` items.
        shuffle_window: length of these blocks.
        filter: weight of BSARec's frequency filter beside attention, from 0 (none) to 1 (no attention).
        frequencies: number of lowest frequencies that the filter keeps, the mean counted as one.
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
    valid_users: Positive = 5000
    start: bool = False
    positions: Literal["end", "relative"] = "end"
    crop: Probability = 0.0
    shuffle: Probability = 0.0
    shuffle_window: Annotated[int, Field(ge=2)] = 3
    filter: Probability = 0.0
    frequencies: Positive = 3
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_share_dim(self) -> SasrecSettings:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads}")
        return self
