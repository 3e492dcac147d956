"""The interface of all item tokenizers: the data they learn from, and their output.

A tokenizer is one class. Its fields are its settings, its class attributes declare its inputs, and its method `fit`
makes the codes. Tokenizers that learn from vectors are in `llmrec.ids.quantizers`, those that learn from interactions
or categories in `llmrec.ids.indexers`, and those that make texts in `llmrec.ids.textual`. `llmrec.config.registry`
lists all of them.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.config import Positive, Recipe
from llmrec.config.ids import Codes as NumberOfCodes
from llmrec.config.ids import Levels, Rate, TokenizerSettings, Weight
from llmrec.errors import UserError

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
        """The cheapest code of each level, one level after the other, int32 `[n, levels]`."""
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
        unique: whether the paths are unique, so that no collision rule is needed. Whether they always are, says
            `has_unique_paths` of the tokenizer's class.
    """

    codes: NDArray[np.int32]
    sizes: list[int]
    codec: Codec | None = None
    unique: bool = False


class AnyTokenizer(TokenizerSettings, ABC):
    """A tokenizer, whose fields are its settings; instances are frozen, so `fit` does not change them."""

    @abstractmethod
    def fit(self, signals: Any, seed: int) -> Codes | list[str]:
        """An ID for each item.

        Args:
            signals: data to learn from (`Signals`).
            seed: the recipe's seed.
        """


class Tokenizer(AnyTokenizer):
    """A tokenizer that gives each item a path of codes."""

    @abstractmethod
    def fit(self, signals: Any, seed: int) -> Codes:
        """Code paths of all items, in the order of `signals.items`.

        Args:
            signals: data to learn from (`Signals`).
            seed: the recipe's seed; equal seeds give equal codes.

        Raises:
            UserError: the data lacks something that the tokenizer needs.
        """


class TextTokenizer(AnyTokenizer):
    """A tokenizer that gives each item a short text, spelt in the base model's own tokens."""

    has_unique_paths: ClassVar[bool] = True

    @abstractmethod
    def fit(self, signals: Any, seed: int) -> list[str]:
        """`[items]` distinct texts, in the order of `signals.items`.

        Args:
            signals: data to learn from (`Signals`).
            seed: the recipe's seed.
        """


class CodebookTokenizer(Tokenizer):
    """A tokenizer with `levels` codes a path; `codes: auto` depends on the catalogue's size, at most 256 a level."""

    levels: Levels = 3
    codes: NumberOfCodes = "auto"


class KmeansTokenizer(CodebookTokenizer):
    """A tokenizer that learns codebooks of item vectors by k-means."""

    reads_vectors: ClassVar[bool] = True
    iterations: Positive = 25


class AutoencoderTokenizer(CodebookTokenizer):
    """An MLP autoencoder of item vectors, with residual codebooks between encoder and decoder."""

    reads_vectors: ClassVar[bool] = True
    hidden: list[Positive] = [512, 256, 128]
    latent: Positive = 32
    beta: Weight = 0.25
    lr: Rate = 3e-3
    batch: Positive = 512
    epochs: Positive = 1000


def fit(signals: Signals, recipe: Recipe) -> Codes:
    """Fit the tokenizer that a recipe names.

    Raises:
        UserError: the data lacks something that the tokenizer needs, the tokenizer makes texts, or a user's own
            tokenizer does not return one path of codes an item.
    """
    tokenizer = recipe.ids.quantizer
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"ids.quantizer.kind: {tokenizer.kind} is unknown, or makes texts instead of codes")
    codes = tokenizer.fit(signals, recipe.seed)
    check_codes(codes, len(signals.items), tokenizer.kind)
    return codes


def fit_texts(signals: Signals, recipe: Recipe) -> list[str]:
    """Fit the textual tokenizer that a recipe names; return `[items]` distinct texts.

    Raises:
        UserError: a user's own tokenizer does not return distinct texts, one an item.
    """
    tokenizer = recipe.ids.quantizer
    assert isinstance(tokenizer, TextTokenizer)
    texts = tokenizer.fit(signals, recipe.seed)
    where, items = f"ids.quantizer.kind: {tokenizer.kind} returns", len(signals.items)
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{where} something else than a list of non-empty texts; return one text an item")
    if len(texts) != items or len(set(texts)) != items:
        raise UserError(f"{where} {len(set(texts))} different texts for {items} items; return one an item")
    return texts


def check_codes(codes: object, items: int, kind: str) -> None:
    """Raise a UserError if a tokenizer did not give each item a path within the levels' sizes.

    Args:
        codes: the result of `fit`.
        items: number of items.
        kind: kind of the tokenizer, for the message.
    """
    where = f"ids.quantizer.kind: {kind} returns"
    if not isinstance(codes, Codes):
        raise UserError(f"{where} {type(codes).__name__}; return llmrec.ids.tokenizer.Codes")
    paths = np.asarray(codes.codes)
    shape = (items, len(codes.sizes))
    if paths.shape != shape or not np.issubdtype(paths.dtype, np.integer) or not codes.sizes:
        raise UserError(
            f"{where} codes {paths.dtype} {list(paths.shape)} with {len(codes.sizes)} sizes for {items} items; "
            "return whole numbers [items, levels] and a size a level"
        )
    if (paths < 0).any() or (paths >= np.array(codes.sizes)).any():
        raise UserError(f"{where} codes outside 0 … size − 1 of their level (sizes {codes.sizes})")
    if codes.unique and len(np.unique(paths, axis=0)) < items:
        raise UserError(f"{where} unique=True, but some items share a path; leave unique out")


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
