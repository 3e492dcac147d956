"""Text neighbours: ranks items by the similarity of their texts to the texts of a history.

    q        = unit( Σ_{k<history} decay^k v_{i_k} )       i_0 is the latest item of the history
    score(i) = q · v_i                                      p(i | history) = softmax(score / .05)

v are sentence vectors of the items' texts (the recipe's encoder and fields). Their mean is subtracted, and they are
scaled to unit length. The system can also rank items without interactions. It is content-based recommendation by a
user profile (Pazzani & Billsus, Content-based recommendation systems, 2007), where the profile is a mean weighted by
recency. Subtracting the mean vector follows Mu & Viswanath, All-but-the-top, ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from safetensors.numpy import save_file

from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.scored import Decay, Histories, Scored, Validation, choose, recency_weights, record
from llmrec.collaborative.system import System, TrainingData, log_softmax
from llmrec.collaborative.tensor_file import open_tensors
from llmrec.config import Positive
from llmrec.errors import UserError
from llmrec.files import atomic_write, read_json

TEMPERATURE = 0.05
"""Temperature of the softmax over cosines."""
_MIN_NORM = 1e-12
"""Smallest norm by which a vector is divided."""


class TextKnnSystem(System):
    """Text neighbours. The texts and the encoder are those of `ids.encoder`.

    Attributes:
        decay: values to choose from on validation.
        history: number of last history items that count; null takes all.
        valid_users: number of validation users for the choice.
    """

    title: ClassVar[str] = "text neighbours"
    formula: ClassVar[str] = "score(i) = cos(Σ decay^k v(i_k), v(i)), v the vector of an item's text"
    files: ClassVar[tuple[str, ...]] = (".json", ".safetensors")
    reads: ClassVar[tuple[str, ...]] = ("ids.encoder",)
    decay: Annotated[list[Decay], Field(min_length=1)] = [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    history: Positive | None = 10
    valid_users: Positive = 5000

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Encode the texts and choose the decay on validation users; write vectors, choice and every attempt."""
        with atomic_write(data.file(".safetensors")) as partial:
            save_vectors(partial, data.item_table["item_id"].to_list(), data.text_vectors)
        vectors, valid = load_vectors(data.file(".safetensors")), data.valid(self.valid_users)
        return record(data, len(valid), TextKNN.choose(data.histories, data.items, self, valid, vectors))

    def fit(self, data: TrainingData) -> TextKNN:
        """Read the vectors and the chosen settings."""
        vectors = load_vectors(data.file(".safetensors"))
        return TextKNN.fit(data.histories, data.items, vectors, **read_json(data.file(".json"))["chosen"])


class TextKNN(Scored):
    """Ranks items by the cosine of their text to a history's profile; the more popular item wins a tie."""

    def __init__(
        self,
        popularity: Popularity,
        vectors: npt.NDArray[np.float32],
        decay: float,
        history: int | None = None,
    ) -> None:
        """Keep vectors of length 1 or 0, float32 `[items, d]`, in the order of `popularity.items`."""
        self.popularity, self.vectors, self.decay, self.history = popularity, vectors, decay, history
        self._reordered: tuple[Sequence[str], npt.NDArray[np.float32]] | None = None

    @classmethod
    def fit(
        cls,
        histories: pl.DataFrame,
        catalogue: Sequence[str],
        vectors: dict[str, npt.NDArray[np.float32]],
        decay: float = 0.7,
        history: int | None = 10,
    ) -> TextKNN:
        """Centre the vectors. The histories are used for ties only.

        Args:
            histories: `user_id, items: list[str]`, training rows only.
            catalogue: every item id that may be recommended.
            vectors: item id → vector; an item without a vector has cosine 0 to every profile.
            decay: weight of an item, divided by the weight of the next newer item.
            history: number of last history items that count; None takes all.
        """
        popularity = Popularity.fit(histories, catalogue)
        return cls(popularity, centred(vectors, popularity.items), decay, history)

    def with_decay(self, decay: float) -> TextKNN:
        """Return a copy with another decay."""
        return TextKNN(self.popularity, self.vectors, decay, self.history)

    @classmethod
    def choose(
        cls,
        histories: pl.DataFrame,
        catalogue: Sequence[str],
        config: TextKnnSystem,
        valid: pl.DataFrame,
        vectors: dict[str, npt.NDArray[np.float32]],
    ) -> dict[str, Any]:
        """Choose the decay on validation users.

        Args:
            histories: as for `fit`.
            catalogue: as for `fit`.
            config: the recipe's grid.
            valid: `history: list[str], target: str, masked: list[str]` (items that are in no list).
            vectors: as for `fit`.

        Returns:
            The return value of `llmrec.collaborative.scored.choose`, with the settings of `fit` as `chosen`.
        """
        popularity = Popularity.fit(histories, catalogue)
        matrix = centred(vectors, popularity.items)
        validation = Validation(valid, popularity.items)
        choice = choose(
            lambda settings: validation.ndcg_of(cls(popularity, matrix, settings["decay"], config.history)),
            [{"decay": config.decay}],
        )
        choice["chosen"]["history"] = config.history
        return choice

    def scores(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the cosine of each history's profile and each item, float32 [U, items]."""
        if self._reordered is None or self._reordered[0] is not items:
            self._reordered = items, self.vectors[[self.column[item] for item in items]]
        weights = recency_weights(histories, self.column, self.decay, self.history)
        profile = np.asarray(weights.astype(np.float32) @ self.vectors)
        profile /= np.maximum(np.linalg.norm(profile, axis=1, keepdims=True), _MIN_NORM)
        cosines: npt.NDArray[np.float32] = profile @ self._reordered[1].T
        return cosines

    def log_probs(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-softmax of the cosines over `TEMPERATURE`, float32 [U, items]."""
        return log_softmax(self.scores(histories, items) / np.float32(TEMPERATURE))


def save_vectors(path: Path, items: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
    """Write vectors [items, d] and item ids (UTF-8, one id a line) as safetensors.

    Raises:
        UserError: an id holds a line break.
    """
    if any("\n" in item for item in items):
        raise UserError("text_knn: an item id holds a line break")
    ids = np.frombuffer("\n".join(items).encode(), np.uint8)
    save_file({"vectors": np.ascontiguousarray(vectors, np.float32), "items": ids}, path)


def load_vectors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read a file that `save_vectors` wrote: item id → vector, float32 [d].

    Raises:
        UserError: the file does not exist, or `save_vectors` did not write it.
    """
    with open_tensors(path, "numpy", "text vectors", "collaborative") as (_, tensors):
        names = tensors["items"].tobytes().decode().split("\n")
        return dict(zip(names, tensors["vectors"], strict=True))


def centred(vectors: dict[str, npt.NDArray[np.float32]], items: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return centred vectors of length 1, float32 [items, d]; an item without a vector has zeros."""
    size = len(next(iter(vectors.values()))) if vectors else 1
    has_vector = np.array([item in vectors for item in items], bool)
    matrix = np.zeros((len(items), size), np.float32)
    if has_vector.any():
        rows = np.stack([vectors[item] for item in items if item in vectors]).astype(np.float64)
        rows -= rows.mean(axis=0)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _MIN_NORM)
        matrix[has_vector] = rows
    return matrix
