"""RQ-VAE, the tokenizer of TIGER."""

from __future__ import annotations

from llmrec.config.tokenizers import RqvaeConfig
from llmrec.ids.codecs.autoencoder import RqAutoencoder, fit_autoencoder
from llmrec.ids.tokenizer import Codes, Signals


def fit(signals: Signals, config: RqvaeConfig, seed: int) -> Codes:
    """RQ-VAE (Rajput et al. 2023, "Recommender systems with generative retrieval").

    L = ‖x − x̂‖² + Σ_l ‖sg[r_l] − e_l‖² + β‖r_l − sg[e_l]‖². k-means initialises the codebooks.
    """
    return fit_autoencoder(RqAutoencoder, signals, config, seed)
