"""Vector quantization with one codebook."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from llmrec.config import Positive
from llmrec.config.ids import Codes as NumberOfCodes
from llmrec.ids.codecs.kmeans import kmeans
from llmrec.ids.codecs.residual import ResidualCodec, mean_vector
from llmrec.ids.tokenizer import Codes, Signals, Tokenizer, number_of_codes


class VqTokenizer(Tokenizer):
    """One k-means codebook; only the collision rule separates the items of a code."""

    codes: NumberOfCodes = "auto"
    iterations: Positive = 25
    reads_vectors: ClassVar[bool] = True

    def fit(self, signals: Signals, seed: int) -> Codes:
        """k-means of the vectors (Lloyd 1982): a code is a cluster, and the collision rule separates its items."""
        vectors = np.asarray(signals.vectors, dtype=np.float32)
        size = number_of_codes(self.codes, len(vectors))
        centroids, assigned = kmeans(vectors, size, self.iterations, seed)
        return Codes(assigned[:, None], [size], ResidualCodec([centroids], mean_vector(vectors)))
