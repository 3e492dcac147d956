"""The interface of all item tokenizers: the data they learn from, and their output.

A tokenizer of kind `K` is the module `llmrec.ids.quantizers.K` (from vectors) or `llmrec.ids.indexers.K`
(from interactions, categories or text) with a function `fit(signals, config, seed) -> Codes`.
"""

from __future__ import annotations

import importlib
import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.config import Recipe

QUANTIZERS = (
    *("rq_kmeans", "balanced_rq_kmeans", "rqvae", "lc_rec", "letter", "cost"),
    *("pq", "opq", "vq", "hierarchical", "lsh"),
)
INDEXERS = ("random", "sequential", "collaborative", "category", "hybrid", "single", "index", "kept")
TEXTUAL = ("title", "keywords")
MAX_AUTO_CODES = 256


class Signals(Protocol):
    """Data that a tokenizer may learn from. Each property is computed at its first use; items are rows of `items`."""

    @property
    def items(self) -> pl.DataFrame:
        """The item table, `item_id: str, title: str`, … (docs/contract.md)."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Item vectors `[items, dim]`, finite."""

    @property
    def collaborative(self) -> NDArray[np.float32]:
        """Item vectors `[items, dim]` of a SASRec trained on the training interactions."""

    @property
    def histories(self) -> list[NDArray[np.int64]]:
        """Each user's training items, oldest first, as rows of `items`."""


class Codec(ABC):
    """A frozen quantizer, which gives codes to any vectors, level by level.

    Attributes:
        sizes: number of codes of each level.
    """

    sizes: list[int]
    form: ClassVar[str]
    """Name of the class in `ids/codec.safetensors`."""

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map vectors `[n, dim]` into the space in which codes are chosen, float32 `[n, d]`; by default unchanged."""
        return vectors

    @abstractmethod
    def costs(self, points: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """Cost of each code of the next level, float32 `[n, codes]`: a squared distance or a similar measure.

        Args:
            points: float32 `[n, d]`, projected vectors.
            prefix: int32 `[n, l]`, codes of the first `l` levels; the costs are those of level `l`.
        """

    @abstractmethod
    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Vectors `[n, dim]` reconstructed from the first `codes.shape[1]` levels; the mean vector for no level."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """All tensors that `from_tensors` needs to create an equal codec."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> Codec:
        """Create the codec from the result of `tensors`."""

    @property
    def levels(self) -> int:
        """Number of codes in a path."""
        return len(self.sizes)

    @property
    def level_centroids(self) -> list[NDArray[np.float32]]:
        """Centroid of each code of the levels at which it does not depend on other codes, float32 `[codes, dim]`."""
        return []

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The cheapest code of each level in turn, int32 `[n, levels]`."""
        points, codes = self.project(vectors), np.empty((len(vectors), 0), np.int32)
        for _ in self.sizes:
            cheapest = self.costs(points, codes).argmin(axis=1).astype(np.int32)
            codes = np.column_stack([codes, cheapest])
        return codes


@dataclass(frozen=True)
class Codes:
    """Output of a tokenizer.

    Attributes:
        codes: int32 `[items, levels]`; several items may share a path.
        sizes: number of codes of each level.
        codec: the frozen quantizer; None for indexers, which do not use vectors.
        unique: whether the paths are unique by construction, so that no collision rule is needed.
    """

    codes: NDArray[np.int32]
    sizes: list[int]
    codec: Codec | None = None
    unique: bool = False


def fit(signals: Signals, recipe: Recipe) -> Codes:
    """Fit the tokenizer that a recipe names.

    Raises:
        UserError: the data lacks something that the tokenizer needs.
    """
    config = recipe.ids.quantizer
    family = "quantizers" if config.kind in QUANTIZERS else "indexers"
    module = importlib.import_module(f"llmrec.ids.{family}.{config.kind}")
    return module.fit(signals, config, recipe.seed)


def fit_texts(signals: Signals, recipe: Recipe) -> list[str]:
    """The textual IDs that a recipe names, `[items]` distinct texts."""
    config = recipe.ids.quantizer
    return importlib.import_module(f"llmrec.ids.textual.{config.kind}").fit(signals, config, recipe.seed)


def auto_codes(items: int) -> int:
    """Codes a level for a catalogue: the power of two nearest to 2·√items, between 2 and 256.

    About √items/2 items then share a code of the first level, so that the model can generalise from one item to
    others. There are 256 codes from about 8,200 items, 64 for 1,682 items, and 16 for 100 items.
    """
    nearest = 2 ** round(math.log2(2 * math.sqrt(max(items, 1))))
    return min(max(nearest, 2), MAX_AUTO_CODES)


def number_of_codes(setting: int | Literal["auto"], items: int) -> int:
    """Codes a level: the setting, or for `auto` a number from the catalogue's size; at most the number of items."""
    codes = auto_codes(items) if setting == "auto" else setting
    if codes > items:
        print(f"ids.quantizer.codes: {codes} codes for {items} items; using {items}", file=sys.stderr)
    return min(codes, items)
