"""LC-Rec's RQ-VAE: during training, the codes of its last level get equal shares of the items."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from llmrec.config import Positive
from llmrec.config.ids import CollisionRule, Rate
from llmrec.ids.codecs.autoencoder import RqAutoencoder
from llmrec.ids.codecs.autoencoder_training import fit_autoencoder
from llmrec.ids.codecs.sinkhorn import even_codes
from llmrec.ids.tokenizer import AutoencoderTokenizer, Codes, Signals


class LcRecTokenizer(AutoencoderTokenizer):
    """RQ-VAE of LC-Rec (Zheng et al. 2024): a larger one, whose last level Sinkhorn-Knopp assigns evenly."""

    collision_rule: ClassVar[CollisionRule] = "sinkhorn"
    hidden: list[Positive] = [2048, 1024, 512, 256, 128, 64]
    lr: Rate = 2e-3
    epsilon: Rate = 0.003
    iterations: Positive = 50

    def fit(self, signals: Signals, seed: int) -> Codes:
        """RQ-VAE with uniform semantic mapping (Zheng et al. 2024, "Adapting large language models by integrating
        collaborative semantics for recommendation").

        The codes are the nearest ones. The collision rule `sinkhorn` separates items that share a path, as published.
        """
        return fit_autoencoder(LcRec, signals, self, seed)


class LcRec(RqAutoencoder):
    """Residual autoencoder whose last level assigns a batch by optimal transport.

    It solves min_P Σ_ij P_ij ‖r_i − e_j‖² by Sinkhorn-Knopp, where every item and every code has an equal share. The
    other levels take the nearest code.
    """

    def __init__(self, dim: int, codes: int, config: LcRecTokenizer) -> None:
        super().__init__(dim, codes, config)
        self.epsilon, self.iterations = config.epsilon, config.iterations

    def assign_codes(self, level: int, costs: Tensor) -> Tensor:
        """Codes int64 `[n]`: the nearest ones; on the last level each code gets an equal share of the batch."""
        if level < len(self.codebooks) - 1:
            return super().assign_codes(level, costs)
        return even_codes(costs, self.epsilon, self.iterations)
