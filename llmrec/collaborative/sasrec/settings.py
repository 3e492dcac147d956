"""SASRec's settings: its shape, and how it is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llmrec.config import Positive, SystemSettings


class SasrecSettings(SystemSettings):
    """SASRec (Kang & McAuley 2018): its shape, and how it is trained; `batch` counts targets."""

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
