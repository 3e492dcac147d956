"""LETTER: semantic IDs aligned with collaborative vectors, with a diversity loss on the codebooks."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from llmrec.config import Positive
from llmrec.config.ids import Weight
from llmrec.errors import UserError
from llmrec.ids.codecs.autoencoder import Quantized, RqAutoencoder
from llmrec.ids.codecs.autoencoder_training import fit_autoencoder
from llmrec.ids.codecs.info_nce import info_nce
from llmrec.ids.quantizers.balanced_rq_kmeans import balanced_kmeans
from llmrec.ids.tokenizer import AutoencoderTokenizer, Codes, Signals

CLUSTER_EVERY = 10
"""Number of epochs after which the codes are clustered again."""
KMEANS_ITERATIONS = 10
ALONE = -1
"""Stands for the companion of a code that is alone in its cluster."""


class LetterTokenizer(AutoencoderTokenizer):
    """LETTER (Wang et al. 2024): RQ-VAE that also learns from a collaborative model, with diverse codes."""

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
        dim: dimension of the item vectors.
        codes: number of codes of each level.
        config: sizes and weights.
        collaborative: float32 `[items, d]`; a row of zeros is an item without interactions.
        seed: seed of the clusters and of the codes drawn from them.
    """

    collaborative: Tensor

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
        """Return α·L_CF + β·Σ_l L_div."""
        loss = self.alpha * self.alignment(quantized.total, self.collaborative[rows])
        for level, codes in enumerate(quantized.codes.T):
            loss = loss + self.weight * self.diversity(level, codes)
        return loss

    def alignment(self, total: Tensor, collaborative: Tensor) -> Tensor:
        """L_CF: in-batch InfoNCE of the quantized latents with the projected collaborative vectors.

        It is −mean log exp(<ẑ_i, P h_i>) / Σ_j exp(<ẑ_i, P h_j>); the learnt matrix P maps dimension d to the latent
        size.

        Args:
            total: quantized latents `[n, latent]`.
            collaborative: collaborative vectors `[n, d]`; items whose vector is zero are left out.
        """
        return info_nce(total, self.projection(collaborative), collaborative.any(dim=1))

    def diversity(self, level: int, codes: Tensor) -> Tensor:
        """L_div: pulls codes of a cluster together, and pushes them away from all other codes.

        It is −mean log exp(<e_i, e_+>) / Σ_{j≠i} exp(<e_i, e_j>), where e_+ is a random other code of the cluster of
        e_i. A code alone in its cluster is left out.

        Args:
            level: level of the codebook.
            codes: the items' codes at this level, int64 `[n]`.
        """
        book = self.codebooks[level]
        other = self.companions(level, codes)
        products = functional.embedding(codes, book) @ book.T
        is_itself = codes[:, None] == torch.arange(len(book), device=codes.device)
        products = products.masked_fill(is_itself, -torch.inf)
        total = functional.cross_entropy(products, other, ignore_index=ALONE, reduction="sum")
        return total / (other != ALONE).sum().clamp(min=1)

    def companions(self, level: int, codes: Tensor) -> Tensor:
        """A random other code of each code's cluster, int64 `[n]`; `ALONE` for a code alone in its cluster.

        The numbers come from the host, so a GPU draws what a CPU draws, and the host waits for nothing.
        """
        group = self.groups[level]
        is_other = (group == group[:, None]) & ~torch.eye(len(group), dtype=torch.bool, device=group.device)
        counted = is_other.cumsum(dim=1)[
            codes
        ]  # how many other codes of its cluster there are up to each code
        others = counted[:, -1]
        draws = torch.rand(len(codes), generator=self.generator).to(codes.device, non_blocking=True)
        place = (draws * others).long().clamp(max=others - 1)
        return (counted <= place[:, None]).sum(dim=1).masked_fill(others == 0, ALONE)

    def start_epoch(self, epoch: int) -> None:
        """Cluster the codes of each level by constrained k-means, once every `CLUSTER_EVERY` epochs."""
        if epoch % CLUSTER_EVERY == 0:
            self.groups = [self._clusters(book.detach().cpu().numpy()) for book in self.codebooks]

    def _clusters(self, book: NDArray[np.float32]) -> Tensor:
        """Cluster of each code, int64 `[codes]`; the clusters' sizes differ by at most one."""
        clusters = min(self.clusters, len(book))
        _, assigned = balanced_kmeans(book, clusters, KMEANS_ITERATIONS, self.seed)
        return torch.from_numpy(assigned).long().to(self.codebooks[0].device)
