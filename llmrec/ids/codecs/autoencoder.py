"""The autoencoder with residual codebooks that RQ-VAE, LC-Rec, LETTER and CoST share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from llmrec.ids.tokenizer import AutoencoderTokenizer


@dataclass(frozen=True)
class Standardised:
    """Item vectors with mean 0 and a mean square of 1 over all dimensions.

    All dimensions have the same factor, so that neighbours stay neighbours. The loss then starts at about 1.

    Attributes:
        vectors: vectors before standardisation, float32 `[n, dim]`.
        mean: float32 `[dim]`.
        scale: divisor of the differences from the mean; 0 if all vectors are equal.
    """

    vectors: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: float

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Standardised:
        """Standardise vectors by their own mean and scale."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(vectors.var(axis=0, dtype=np.float64).mean()))
        is_constant = scale <= max(1e-6 * np.abs(mean).max(), 1e-30)
        return cls(vectors, mean.astype(np.float32), 0.0 if is_constant else scale)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        centred = torch.from_numpy(self.vectors)[rows] - torch.from_numpy(self.mean)
        return centred / self.scale if self.scale else torch.zeros_like(centred)


@dataclass(frozen=True)
class Quantized:
    """Result of residual quantization of a batch of latents.

    Attributes:
        codes: int64 `[n, levels]`.
        total: sum of the codes' vectors `[n, latent]`; its gradient passes straight to the latents.
        loss: sum of the codebook and commitment terms of all levels.
    """

    codes: Tensor
    total: Tensor
    loss: Tensor


class RqAutoencoder(nn.Module):
    """MLP encoder, residual codebooks, MLP decoder (Rajput et al. 2023, TIGER).

    Tokenizers differ in `assign_codes`, `reconstruction_loss` and `extra_loss`.

    Args:
        dim: dimension of the item vectors.
        codes: number of codes of each level.
        config: sizes and weights.
    """

    def __init__(self, dim: int, codes: int, config: AutoencoderTokenizer) -> None:
        super().__init__()
        widths = [dim, *config.hidden, config.latent]
        self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        books = [torch.randn(codes, config.latent) for _ in range(config.levels)]
        self.codebooks = nn.ParameterList(books)
        self.beta = config.beta
        self.half_precision = False
        """Whether the networks compute in bfloat16. Codebooks and losses are always float32."""

    def loss(self, inputs: Tensor, rows: Tensor) -> tuple[Tensor, Quantized]:
        """The training loss of a batch, and its quantized latents.

        Args:
            inputs: standardised vectors `[n, dim]`.
            rows: the items' rows, int64 `[n]`.
        """
        with self._autocast(inputs):
            latents = self.encoder(inputs)
        quantized = self.quantize(latents.float())
        with self._autocast(inputs):
            outputs = self.decoder(quantized.total)
        loss = self.reconstruction_loss(outputs.float(), inputs) + quantized.loss
        return loss + self.extra_loss(quantized, rows), quantized

    def warm_up_loss(self, inputs: Tensor) -> Tensor:
        """The loss of the autoencoder without codebooks."""
        with self._autocast(inputs):
            outputs = self.decoder(self.encoder(inputs))
        return self.reconstruction_loss(outputs.float(), inputs)

    def quantize(self, latents: Tensor) -> Quantized:
        """Codes, straight-through sum and loss of latents `[n, latent]`.

        The loss is TIGER's Σ_l ‖sg[r_l] − e_l‖² + β‖r_l − sg[e_l]‖², with r_{l+1} = r_l − sg[e_l]. So the term of a
        level has gradients for the encoder and for its own codebook only. Squared norms are means over the latent
        dimensions, as in `reconstruction_loss`, so that the weights of the terms do not depend on sizes.
        """
        residual, loss = latents, latents.new_zeros(())
        codes = []
        for level, book in enumerate(self.codebooks):
            chosen = self.assign_codes(level, distances(residual.detach(), book.detach()))
            vectors = functional.embedding(chosen, book)
            loss = loss + functional.mse_loss(vectors, residual.detach())
            loss = loss + self.beta * functional.mse_loss(residual, vectors.detach())
            residual = residual - vectors.detach()
            codes.append(chosen)
        return Quantized(torch.stack(codes, dim=1), latents - residual.detach(), loss)

    def assign_codes(self, level: int, costs: Tensor) -> Tensor:
        """Codes int64 `[n]` for squared distances `[n, codes]`; by default the nearest ones."""
        return costs.argmin(dim=1)

    def reconstruction_loss(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Loss between the decoder's outputs and its inputs, both `[n, dim]`; by default the mean squared error."""
        return functional.mse_loss(outputs, inputs)

    def extra_loss(self, quantized: Quantized, rows: Tensor) -> Tensor | float:
        """Further terms of the loss; by default 0."""
        return 0.0

    def start_epoch(self, epoch: int) -> None:
        """Hook before an epoch; epochs are counted from the end of the warm-up."""

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.half_precision)


def distances(points: Tensor, book: Tensor) -> Tensor:
    """Squared Euclidean distances `[n, codes]`; rounding may make them slightly negative."""
    squares = points.square().sum(1, keepdim=True) + book.square().sum(1)
    return torch.addmm(squares, points, book.T, alpha=-2)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
