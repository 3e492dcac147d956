"""LETTER: codes that also know who buys what, drawn from codebooks that stay diverse."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from llmrec.config import Positive
from llmrec.config.tokenizers import Weight
from llmrec.errors import UserError
from llmrec.ids.codecs.autoencoder import Quantized, RqAutoencoder, fit_autoencoder
from llmrec.ids.codecs.info_nce import info_nce
from llmrec.ids.quantizers.balanced_rq_kmeans import balanced_kmeans
from llmrec.ids.tokenizer import AutoencoderTokenizer, Codes, Signals

CLUSTER_EVERY = 10
"""Epochs for which the clusters of the codes are kept."""
KMEANS_ITERATIONS = 10


class LetterTokenizer(AutoencoderTokenizer):
    """LETTER (Wang et al. 2024): RQ-VAE that also learns from a collaborative model, codes kept diverse."""

    reads_item_vectors: ClassVar[bool] = True
    alpha: Weight = 0.01
    diversity: Weight = 1e-4
    clusters: Positive = 10

    def fit(self, signals: Signals, seed: int) -> Codes:
        """LETTER (Wang et al. 2024, "Learnable item tokenization for generative recommendation").

        L = L_sem + α·L_CF + β·L_div: RQ-VAE's loss, `Letter.alignment` and `Letter.diversity`.

        Raises:
            UserError: no item has a collaborative vector.
        """
        collaborative = np.require(signals.collaborative, np.float32, ["C", "W"])
        if not collaborative.any():
            raise UserError(
                "ids.quantizer.kind: letter learns from a collaborative model, but no item has a vector of one; "
                "use rqvae, or data with training interactions"
            )
        return fit_autoencoder(partial(Letter, collaborative=collaborative, seed=seed), signals, self, seed)


class Letter(RqAutoencoder):
    """Residual autoencoder aligned with collaborative vectors.

    Args:
        dim: of the item vectors.
        codes: codes of each level.
        config: sizes and weights.
        collaborative: float32 `[items, d]`; a row of zeros is an item of which nothing is known.
        seed: of the clusters and of the codes drawn from them.
    """

    def __init__(
        self, dim: int, codes: int, config: LetterTokenizer, collaborative: NDArray[np.float32], seed: int
    ) -> None:
        super().__init__(dim, codes, config)
        self.alpha, self.weight = config.alpha, config.diversity
        self.clusters, self.seed = config.clusters, seed
        self.register_buffer("collaborative", torch.from_numpy(collaborative))
        self.projection = nn.Linear(collaborative.shape[1], config.latent, bias=False)
        self.generator = torch.Generator().manual_seed(seed)
        self.groups: list[Tensor] = []

    def extra_loss(self, quantized: Quantized, rows: Tensor) -> Tensor:
        """α·L_CF + β·Σ_l L_div."""
        loss = self.alpha * self.alignment(quantized.total, self.collaborative[rows])
        for level, codes in enumerate(quantized.codes.T):
            loss = loss + self.weight * self.diversity(level, codes)
        return loss

    def alignment(self, total: Tensor, collaborative: Tensor) -> Tensor:
        """In-batch InfoNCE of the quantized latents with the projected collaborative vectors: L_CF.

        −mean log exp(<ẑ_i, P h_i>) / Σ_j exp(<ẑ_i, P h_j>); P, learnt, maps any d onto the latent size.

        Args:
            total: quantized latents `[n, latent]`.
            collaborative: `[n, d]`; items with zeros only are left out.
        """
        known = collaborative.any(dim=1)
        if not known.any():
            return total.new_zeros(())
        return info_nce(total[known], self.projection(collaborative[known]))

    def diversity(self, level: int, codes: Tensor) -> Tensor:
        """Draws codes of a cluster together, and apart from all others: L_div.

        −mean log exp(<e_i, e_+>) / Σ_{j≠i} exp(<e_i, e_j>), e_+ a random other code of the cluster of e_i; a code
        alone in its cluster has none and is left out.

        Args:
            level: whose codebook.
            codes: int64 `[n]`.
        """
        book = self.codebooks[level]
        other = self.companions(level, codes)
        codes, other = codes[other >= 0], other[other >= 0]
        if not len(codes):
            return book.new_zeros(())
        products = functional.embedding(codes, book) @ book.T
        own = functional.one_hot(codes, len(book)).bool()
        return functional.cross_entropy(products.masked_fill(own, -torch.inf), other)

    def companions(self, level: int, codes: Tensor) -> Tensor:
        """A random other code of each code's cluster, int64 `[n]`; -1 where there is none."""
        group = self.groups[level]
        together = (group == group[:, None]).fill_diagonal_(False).float().to(codes.device)
        alone = ~together.any(dim=1)
        together[alone] = 1
        drawn = torch.multinomial(together[codes].cpu(), 1, generator=self.generator)[:, 0].to(codes.device)
        return drawn.masked_fill(alone[codes], -1)

    def start_epoch(self, epoch: int) -> None:
        """Cluster the codes of each level anew, every few epochs, by constrained k-means."""
        if epoch % CLUSTER_EVERY == 0:
            self.groups = [self._clusters(book.detach().cpu().numpy()) for book in self.codebooks]

    def _clusters(self, book: NDArray[np.float32]) -> Tensor:
        """Each code's cluster, int64 `[codes]`; sizes differ by at most one."""
        clusters = min(self.clusters, len(book))
        _, assigned = balanced_kmeans(book, clusters, KMEANS_ITERATIONS, self.seed)
        return torch.from_numpy(assigned).long()
