"""Product quantization: the dimensions are divided into one part a level."""

from __future__ import annotations

import numpy as np

from llmrec.ids.codecs.product import ProductCodec, learn_parts, split_parts
from llmrec.ids.codecs.residual import mean_vector
from llmrec.ids.tokenizer import Codes, KmeansTokenizer, Signals, number_of_codes


class PqTokenizer(KmeansTokenizer):
    """Product quantization with `levels` subspaces, each with its own codebook."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Product quantization (Jégou et al. 2011); the parts follow the order of the dimensions.

        Each part has its own k-means codebook of any size. faiss's ProductQuantizer is not used, because it accepts
        only powers of two and needs as many items.
        """
        vectors = np.asarray(signals.vectors, dtype=np.float32)
        size = number_of_codes(self.codes, len(vectors))
        parts = split_parts(vectors, self.levels, None)
        books, codes = learn_parts(parts, size, self.iterations, seed)
        codec = ProductCodec(books, mean_vector(vectors))
        return Codes(codes, codec.sizes, codec)
