"""The one interface of collaborative systems: what they may learn from, how they are made, what they are asked.

A system is one class. Its fields are its settings, its class attributes say what it is called and which files it
has. `train` is its slow part, `fit` its fast one. What `fit` returns ranks items: a `Baseline`, such as a `Ranker`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.config import SystemSettings
from llmrec.data.examples import evaluation_examples, load_items, training_histories
from llmrec.errors import UserError

Ranked = tuple[list[list[str]], list[list[float]]]
"""Item ids and scores, one list a user, best first."""
Scores = npt.NDArray[np.float32]
_BLOCK = 1024
"""Users that are scored at once."""


class Baseline(Protocol):
    """A fitted model of training interactions, and perhaps of the items' texts."""

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """The best k items for each history outside `exclude`, and their scores, best first."""

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> Scores:
        """Log-probability of each item as each history's next one, float32 [U, items]."""


@dataclass(frozen=True)
class TrainingData:
    """What a collaborative system may learn from. Each part is read when it is first asked for.

    Attributes:
        run: the run folder, its stage data done.
        name: the system's name in the recipe.
        items: ids of all items that may be recommended.
        folder: where the files of trained systems are, `<name><ending>`; `train` writes its own there.
        seed: the recipe's; 0 where a finished system is fitted.
        load: gives another system of the run by its name, fitted.
        encode_texts: gives vectors of the items' texts; None outside `train`.
        chosen_histories: the training histories to count instead of all; None for all.
    """

    run: Path
    name: str
    items: Sequence[str]
    folder: Path
    load: Callable[[str], Baseline]
    seed: int = 0
    encode_texts: Callable[[], npt.NDArray[np.float32]] | None = None
    chosen_histories: pl.DataFrame | None = field(default=None, compare=False)

    @cached_property
    def histories(self) -> pl.DataFrame:
        """`user_id, items: list[str]`: each user's training items, oldest first."""
        return training_histories(self.run) if self.chosen_histories is None else self.chosen_histories

    @cached_property
    def item_table(self) -> pl.DataFrame:
        """The item table, `item_id: str, title: str`, … (docs/contract.md)."""
        return load_items(self.run).with_columns(pl.col("item_id").cast(pl.String))

    @property
    def text_vectors(self) -> npt.NDArray[np.float32]:
        """Vectors of the texts of `item_table`'s items, float32 `[items, dim]`, by the recipe's `ids.encoder`.

        Only `train` has them; a system that uses them keeps them in a file, and names `ids.encoder` in `reads`.
        """
        if self.encode_texts is None:
            raise ValueError("texts are encoded in train alone; read what train has kept")
        return self.encode_texts()

    def valid(self, users: int | None = None) -> pl.DataFrame:
        """`user_id, history: list[str], target: str` of validation users, by which settings may be chosen.

        Args:
            users: a sample of so many, seeded; None for all.
        """
        return evaluation_examples(self.run, "valid", users=users, seed=self.seed)

    def file(self, ending: str) -> Path:
        """A file of the system's own, such as `.safetensors`."""
        return self.folder / f"{self.name}{ending}"


class System(SystemSettings, ABC):
    """A collaborative system with its settings, which are the fields of the class."""

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Do what takes longer than seconds, once, in the stage collaborative.

        Writes `data.file(ending)` for each ending in `files`.

        Args:
            data: what it may learn from.

        Returns:
            What `collaborative/report.json` says of it, such as settings chosen on validation.
        """
        return {}

    @abstractmethod
    def fit(self, data: TrainingData) -> Baseline:
        """The system, ready to be asked. Takes seconds: whoever asks calls it anew.

        Args:
            data: what it may learn from; `data.file(ending)` is what `train` wrote.

        Raises:
            UserError: `train` has not run, or its files are broken.
        """


class Ranker(ABC):
    """A baseline that needs nothing but scores: the best k follow, and probabilities by a softmax.

    Args:
        items: ids of all items that may be recommended; their order breaks ties.
    """

    def __init__(self, items: Sequence[str]) -> None:
        self.items = list(items)
        self.position = {item: row for row, item in enumerate(self.items)}

    @abstractmethod
    def scores(self, histories: Sequence[Sequence[str]]) -> Scores:
        """A score for each history and item, float [U, items] in the order of `items`, higher is better.

        Args:
            histories: item ids of each user, oldest first; ids outside `items` may occur.
        """

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """The k items of the highest scores for each history.

        Args:
            histories: item ids of each user, oldest first.
            k: length of the lists; shorter only where the catalogue ends.
            exclude: items that a user must not get, such as those already seen.
        """
        items: list[list[str]] = []
        values: list[list[float]] = []
        banned = exclude if exclude is not None else [()] * len(histories)
        for start in range(0, len(histories), _BLOCK):
            scores = self._checked(histories[start : start + _BLOCK])
            for row, unwanted in zip(scores, banned[start : start + _BLOCK], strict=True):
                row[[self.position[item] for item in unwanted if item in self.position]] = -np.inf
                best = np.argsort(-row, kind="stable")[:k]
                best = best[row[best] > -np.inf]
                items.append([self.items[place] for place in best])
                values.append(row[best].tolist())
        return items, values

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> Scores:
        """Log-softmax of the scores, float32 [U, items].

        Args:
            histories: item ids of each user, oldest first.
            items: the catalogue, in the order of the columns; an item that is not among the ranker's has no chance.
        """
        columns = np.array([self.position.get(item, -1) for item in items], np.int64)
        scores = np.where(columns >= 0, self._checked(histories)[:, columns], -np.inf)
        scores = scores - scores.max(axis=1, keepdims=True)
        logs: Scores = (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
        return logs

    def _checked(self, histories: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """The scores as a copy of their own, finite or −inf.

        Raises:
            UserError: another shape, or scores that are NaN or +inf.
        """
        scores = checked_scores(
            self.scores(histories), (len(histories), len(self.items)), type(self).__name__
        )
        return np.array(scores, np.float64)


def checked_scores(scores: Any, shape: tuple[int, int], name: str) -> npt.NDArray[np.floating]:
    """Scores as an array, if they are one.

    Args:
        scores: what a system returned.
        shape: users and items.
        name: of the system, for the message.

    Raises:
        UserError: no numbers, another shape, or numbers that are NaN or +inf.
    """
    try:
        values = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} returns no numbers but {type(scores).__name__}") from None
    if values.shape != shape:
        raise UserError(
            f"{name} returns scores of shape {list(values.shape)} for {shape[0]} users and {shape[1]} items; "
            f"return one number each, {list(shape)}"
        )
    if not (values < np.inf).all():
        raise UserError(f"{name} returns scores that are NaN or +inf; return numbers, or -inf for no chance")
    return values


def checked_lists(lists: Any, users: int, k: int, name: str) -> Ranked:
    """What a baseline's `recommend` returned, if it is lists of items with scores.

    Args:
        lists: what it returned.
        users: how many it was asked for.
        k: longest list.
        name: of the baseline, for the message.

    Raises:
        UserError: anything but `(items, scores)`, a list of at most k ids and as many scores a user.
    """
    wanted = f"return (items, scores), for each of {users} users at most {k} item ids and as many scores"
    if not isinstance(lists, tuple) or len(lists) != 2:
        raise UserError(f"{name}.recommend returns {type(lists).__name__}; {wanted}")
    items, scores = ([list(row) for row in part] for part in lists)
    if len(items) != users or [len(row) for row in items] != [len(row) for row in scores]:
        raise UserError(f"{name}.recommend returns {len(items)} lists and {len(scores)} of scores; {wanted}")
    if any(len(row) > k for row in items):
        raise UserError(f"{name}.recommend returns a list longer than {k}; {wanted}")
    return items, scores
