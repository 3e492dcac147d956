"""Vector quantization with one codebook."""

from __future__ import annotations

import numpy as np

from llmrec.config.tokenizers import VqConfig
from llmrec.ids.codecs.kmeans import kmeans
from llmrec.ids.codecs.residual import ResidualCodec, mean_vector
from llmrec.ids.tokenizer import Codes, Signals, number_of_codes


def fit(signals: Signals, config: VqConfig, seed: int) -> Codes:
    """k-means of the vectors (Lloyd 1982): a code is a cluster, and the collision rule separates its items."""
    vectors = np.asarray(signals.vectors, dtype=np.float32)
    size = number_of_codes(config.codes, len(vectors))
    centroids, assigned = kmeans(vectors, size, config.iterations, seed)
    return Codes(assigned[:, None], [size], ResidualCodec([centroids], mean_vector(vectors)))
