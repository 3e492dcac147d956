"""CoST: an autoencoder with a contrastive loss instead of a reconstruction loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from llmrec.config import Positive
from llmrec.config.ids import Rate
from llmrec.ids.codecs.autoencoder import RqAutoencoder
from llmrec.ids.codecs.autoencoder_training import fit_autoencoder
from llmrec.ids.codecs.info_nce import info_nce
from llmrec.ids.tokenizer import AutoencoderTokenizer, Codes, Signals


class CostTokenizer(AutoencoderTokenizer):
    """CoST (Zhu et al. 2024): RQ-VAE with a contrastive loss instead of a reconstruction loss."""

    batch: Positive = 1024
    temperature: Rate = 0.1

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Contrastive quantization (Zhu et al. 2024, "CoST: contrastive quantization based semantic tokenization for
        generative recommendation").

        L = −mean log exp(cos(x̂_i, x_i)/τ) / Σ_j exp(cos(x̂_i, x_j)/τ) over a batch, + the RQ loss.
        """
        return fit_autoencoder(Cost, signals, self, seed)


class Cost(RqAutoencoder):
    """Residual autoencoder with a contrastive loss between outputs and inputs."""

    def __init__(self, dim: int, codes: int, config: CostTokenizer) -> None:
        super().__init__(dim, codes, config)
        self.temperature = config.temperature

    def reconstruction_loss(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """InfoNCE of each output `[n, dim]` with its input; the logits are cosines divided by the temperature."""
        outputs, inputs = functional.normalize(outputs), functional.normalize(inputs)
        return info_nce(outputs / self.temperature, inputs)
