"""Residual k-means: each level clusters the residuals of the levels before it."""

from __future__ import annotations

import numpy as np

from llmrec.ids.codecs.kmeans import chunks, learn_centroids, nearest, training_rows
from llmrec.ids.codecs.residual import ResidualCodec, mean_vector
from llmrec.ids.tokenizer import Codes, KmeansTokenizer, Signals, number_of_codes
from llmrec.progress.bar import follow


class RqKmeansTokenizer(KmeansTokenizer):
    """Residual k-means."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Residual k-means (Chen et al. 2010; as a tokenizer of items: Luo et al. 2024, QARM).

        Residuals are not stored but computed again for each chunk of items, so that little memory is needed besides
        the vectors. Centroids are learnt from at most 256 randomly drawn items a code.
        """
        vectors = np.asarray(signals.vectors, dtype=np.float32)
        size = number_of_codes(self.codes, len(vectors))
        codec = ResidualCodec([], mean_vector(vectors))
        codes = np.empty((len(vectors), self.levels), np.int32)
        for level in follow(range(self.levels), "residual k-means", "level"):
            rows = training_rows(len(vectors), size, seed + level)
            residuals = codec.residuals(vectors[rows], codes[rows, :level])
            centroids = learn_centroids(residuals, size, self.iterations, seed + level)
            for part in chunks(len(vectors)):
                codes[part, level] = nearest(codec.residuals(vectors[part], codes[part, :level]), centroids)
            codec = ResidualCodec([*codec.codebooks, centroids], codec.mean)
        return Codes(codes, codec.sizes, codec)
