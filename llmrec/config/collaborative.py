"""The recipe's `collaborative` section: the models that are trained on interactions alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llmrec.config.section import Positive, Section


class SasrecConfig(Section):
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
    def _heads_share_dim(self) -> SasrecConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads}")
        return self


class SasrecBceConfig(SasrecConfig):
    """Defaults for binary cross-entropy.

    One negative a position learns slowly, so the model is larger and more strongly regularised.
    """

    dim: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    lr: Annotated[float, Field(gt=0)] = 1e-3


class SasrecCeConfig(SasrecConfig):
    """Defaults for cross-entropy over the catalogue, which is best after about ten epochs on Amazon Beauty."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    patience: Positive = 3


class CollaborativeConfig(Section):
    """Models of the training split, for baselines, item vectors and priors.

    Attributes:
        sasrec_bce: SASRec with binary cross-entropy.
        sasrec_ce: SASRec with cross-entropy over the catalogue.
    """

    sasrec_bce: SasrecBceConfig = SasrecBceConfig()
    sasrec_ce: SasrecCeConfig = SasrecCeConfig()
