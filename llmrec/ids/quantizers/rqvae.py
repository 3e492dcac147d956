"""RQ-VAE, the tokenizer of TIGER."""

from __future__ import annotations

from llmrec.ids.tokenizer import AutoencoderTokenizer, Codes, Signals


class RqvaeTokenizer(AutoencoderTokenizer):
    """RQ-VAE of TIGER (Rajput et al. 2023)."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """RQ-VAE (Rajput et al. 2023, "Recommender systems with generative retrieval").

        L = ‖x − x̂‖² + Σ_l ‖sg[r_l] − e_l‖² + β‖r_l − sg[e_l]‖². k-means initialises the codebooks.
        """
        from llmrec.ids.codecs.autoencoder import RqAutoencoder
        from llmrec.ids.codecs.autoencoder_training import fit_autoencoder

        return fit_autoencoder(RqAutoencoder, signals, self, seed)
