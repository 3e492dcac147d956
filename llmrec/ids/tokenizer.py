"""The one interface of all item tokenizers: what they may learn from, and what they give.

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
    """What a tokenizer may learn from. Each is made when it is first asked for; items are rows of `items`."""

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
    """A frozen quantizer: gives codes to vectors it has never seen, level by level.

    Attributes:
        sizes: codes of each level.
    """

    sizes: list[int]
    form: ClassVar[str]
    """Name of the class in `ids/codec.safetensors`."""

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors `[n, dim]` in the space where codes are chosen, float32 `[n, d]`: as they are, unless encoded."""
        return vectors

    @abstractmethod
    def costs(self, points: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """What each code of the next level costs, float32 `[n, codes]`: squared distance, or its like.

        Args:
            points: float32 `[n, d]`, projected vectors.
            prefix: int32 `[n, l]`, codes of the first `l` levels; the costs are those of level `l`.
        """

    @abstractmethod
    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Vectors `[n, dim]` that the first `codes.shape[1]` levels stand for; with none, the mean vector."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything `from_tensors` needs to make the same codec again."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> Codec:
        """The codec that `tensors` described."""

    @property
    def levels(self) -> int:
        """Number of codes in a path."""
        return len(self.sizes)

    @property
    def level_centroids(self) -> list[NDArray[np.float32]]:
        """What each code of the first levels stands for, `[codes, dim]`; none where it depends on the others."""
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
    """What a tokenizer gives.

    Attributes:
        codes: int32 `[items, levels]`; several items may share a path.
        sizes: codes of each level.
        codec: the frozen quantizer; None for indexers, which have no vectors to compare.
        unique: paths are unique by construction, and need no collision rule.
    """

    codes: NDArray[np.int32]
    sizes: list[int]
    codec: Codec | None = None
    unique: bool = False


def fit(signals: Signals, recipe: Recipe) -> Codes:
    """Fit the tokenizer that a recipe names.

    Raises:
        UserError: what the data lacks for it.
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

    A code of the first level then serves about √items/2 items, so that what the model learns about one item
    carries over to others: 256 codes from about 8,200 items, 64 for 1,682 items, 16 for 100.
    """
    nearest = 2 ** round(math.log2(2 * math.sqrt(max(items, 1))))
    return min(max(nearest, 2), MAX_AUTO_CODES)


def number_of_codes(asked: int | Literal["auto"], items: int) -> int:
    """Codes a level: as asked, or by the catalogue's size; never more than there are items."""
    codes = auto_codes(items) if asked == "auto" else asked
    if codes > items:
        print(f"ids.quantizer.codes: {codes} codes for {items} items; using {items}", file=sys.stderr)
    return min(codes, items)
