"""The recipe's `collaborative` section: the models trained on interactions alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llmrec.config.section import Positive, Section


class SasrecConfig(Section):
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
    def _heads_share_dim(self) -> SasrecConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads}")
        return self


class SasrecBceConfig(SasrecConfig):
    """Defaults for binary cross-entropy: one negative a position learns slowly, and wants more room to learn in."""

    dim: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    lr: Annotated[float, Field(gt=0)] = 1e-3


class SasrecCeConfig(SasrecConfig):
    """Defaults for cross-entropy over the catalogue: best after some ten epochs on Amazon Beauty."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    patience: Positive = 3


class CollaborativeConfig(Section):
    """Models trained on the training split, for baselines, item vectors and priors; each loss has its own."""

    sasrec_bce: SasrecBceConfig = SasrecBceConfig()
    sasrec_ce: SasrecCeConfig = SasrecCeConfig()
