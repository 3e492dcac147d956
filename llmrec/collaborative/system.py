"""The interface of collaborative systems: their training data, their settings, and the model that ranks items.

A system is one class. Its fields are its settings, and its class attributes give its title and its files. `train` is
the slow part and runs once. `fit` is the fast part and returns a `Baseline`, such as a `Ranker`, which ranks items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.collaborative.blocks import user_blocks
from llmrec.config import SystemSettings
from llmrec.data.examples import (
    evaluation_examples,
    event_fields,
    load_items,
    training_histories,
    with_masked,
)
from llmrec.errors import UserError
from llmrec.plugins import check_parameters

Ranked = tuple[list[list[str]], list[list[float]]]
"""Item ids and scores, one list per user, best first."""
Scores = npt.NDArray[np.float32]


class ListModel(Protocol):
    """A fitted model that lists items. It has learned from training interactions, and possibly from item texts."""

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """Return the best k items outside `exclude` for each history, and their scores, best first."""


class Baseline(ListModel, Protocol):
    """A model that knows how probable every item is, not only which are the best."""

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> Scores:
        """Log-probability of each item as each history's next one, float32 [U, items]."""


@runtime_checkable
class TimedBaseline(Protocol):
    """A baseline whose lists may depend on the times of a history's items."""

    @property
    def reads_times(self) -> bool:
        """Whether they do."""

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        exclude: Sequence[Sequence[str]] | None = None,
        times: Sequence[Sequence[int]] | None = None,
    ) -> Ranked:
        """Return lists like a `Baseline`; `times` are seconds, one for each item of the histories."""


@dataclass(frozen=True)
class TrainingData:
    """The data that a collaborative system can learn from. Each part is read on first use.

    Attributes:
        run: a run folder with a finished data stage.
        name: the system's name in the recipe.
        items: ids of all items that may be recommended.
        folder: folder of the trained systems' files, `<name><ending>`; `train` writes the system's own files there.
        seed: the recipe's seed; 0 when a finished system is fitted.
        load: returns another system of the run, fitted, by its name.
        mask_seen: whether lists leave out the items of the history (`data.mask_seen`).
        encode_texts: returns vectors of the items' texts; None outside `train`.
        chosen_histories: the training histories to use; None uses all.
    """

    run: Path
    name: str
    items: Sequence[str]
    folder: Path
    load: Callable[[str], Baseline]
    seed: int = 0
    mask_seen: bool = True
    encode_texts: Callable[[], npt.NDArray[np.float32]] | None = None
    chosen_histories: pl.DataFrame | None = field(default=None, compare=False)

    @cached_property
    def histories(self) -> pl.DataFrame:
        """Each user's training items, oldest first: `user_id, items: list[str]`."""
        return training_histories(self.run) if self.chosen_histories is None else self.chosen_histories

    @cached_property
    def timed_histories(self) -> pl.DataFrame:
        """All training histories with the times of their items: `user_id, items: list[str], times: list[int]`.

        Raises:
            UserError: the data has an order, but no times.
        """
        if "time" not in event_fields(self.run):
            raise UserError(f"collaborative.{self.name}.times: the data has no times; leave it false")
        return training_histories(self.run, times=True)

    @cached_property
    def item_table(self) -> pl.DataFrame:
        """The item table, `item_id: str, title: str`, … (docs/contract.md)."""
        return load_items(self.run).with_columns(pl.col("item_id").cast(pl.String))

    @property
    def text_vectors(self) -> npt.NDArray[np.float32]:
        """Vectors of the texts of `item_table`'s items, float32 `[items, dim]`, from the recipe's `ids.encoder`.

        Only `train` has them. A system that uses them must keep them in a file, and name `ids.encoder` in `reads`.
        """
        if self.encode_texts is None:
            raise ValueError("texts are encoded in train alone; read what train has kept")
        return self.encode_texts()

    def valid(self, users: int | None = None, times: bool = False) -> pl.DataFrame:
        """Validation users, on whom settings can be chosen.

        The columns are `user_id, history: list[str], target: str` and `masked: list[str]`, the items that a list for
        the user leaves out.

        Args:
            users: number of users, a seeded sample; None takes all.
            times: whether to add the column `times: list[int]`, seconds, of the history's items.
        """
        examples = evaluation_examples(self.run, "valid", users=users, seed=self.seed, times=times)
        return with_masked(examples, self.mask_seen)

    def file(self, ending: str) -> Path:
        """Return the path of the system's file with an ending such as `.safetensors`."""
        return self.folder / f"{self.name}{ending}"


class System(SystemSettings, ABC):
    """A collaborative system. The fields of the class are its settings."""

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Do the slow part of the training, once, in the stage collaborative.

        It writes `data.file(ending)` for each ending in `files`.

        Args:
            data: the training data.

        Returns:
            The system's entry in `collaborative/report.json`, such as settings chosen on validation.
        """
        return {}

    @abstractmethod
    def fit(self, data: TrainingData) -> Baseline:
        """Return the fitted system. This takes only seconds, because each stage that needs the system calls it again.

        Args:
            data: the training data; `data.file(ending)` is a file that `train` wrote.

        Raises:
            UserError: `train` has not run, or its files are broken.
        """


class Ranker(ABC):
    """A baseline that is defined by its scores. Lists are the best k scores, and probabilities are their softmax.

    Args:
        items: ids of all items that may be recommended; their order breaks ties.

    Attributes:
        items: the ids.
        position: item id → its index in `items`.
    """

    def __init__(self, items: Sequence[str]) -> None:
        self.items = list(items)
        self.position = {item: row for row, item in enumerate(self.items)}

    @abstractmethod
    def scores(self, histories: Sequence[Sequence[str]]) -> Scores:
        """Score each item for each history, float [U, items] in the order of `items`; higher is better.

        Args:
            histories: item ids of each user, oldest first; ids outside `items` may occur.
        """

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """Return the k items with the highest scores for each history.

        Args:
            histories: item ids of each user, oldest first.
            k: length of the lists; a list is shorter only if the catalogue has too few items.
            exclude: items that a user must not get, such as those already seen.
        """
        items: list[list[str]] = []
        values: list[list[float]] = []
        banned = exclude if exclude is not None else [()] * len(histories)
        for block in user_blocks(len(histories), len(self.items)):
            scores = self._checked(histories[block])
            for row, unwanted in zip(scores, banned[block], strict=True):
                row[[self.position[item] for item in unwanted if item in self.position]] = -np.inf
                best = best_columns(row, k)
                items.append([self.items[place] for place in best])
                values.append(row[best].tolist())
        return items, values

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> Scores:
        """Log-softmax of the scores, float32 [U, items].

        Args:
            histories: item ids of each user, oldest first.
            items: the catalogue, in the order of the columns; an item that the ranker lacks has probability 0.
        """
        columns = np.array([self.position.get(item, -1) for item in items], np.int64)
        scores = np.where(columns >= 0, self._checked(histories)[:, columns], -np.inf)
        return log_softmax(scores)

    def _checked(self, histories: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """Return a checked copy of the scores; each is finite or −inf.

        Raises:
            UserError: the scores have another shape, or contain NaN or +inf.
        """
        check_parameters(self.scores, ("histories",), f"{type(self).__name__}.scores")
        scores = checked_scores(
            self.scores(histories), (len(histories), len(self.items)), type(self).__name__
        )
        return np.array(scores, np.float64)


def best_columns(scores: npt.NDArray[np.floating[Any]], k: int) -> npt.NDArray[np.int64]:
    """Return the columns of a user's k highest scores, best first; the earlier column wins a tie.

    Most items may have the lowest score: those without votes, say. They are kept out of the selection, because NumPy
    is slow to select among many equal values.

    Args:
        scores: float [items]; −inf for items that the user must not get.
        k: number of columns; fewer are returned if fewer items are allowed.
    """
    lowest = scores.min(where=scores > -np.inf, initial=np.inf)
    above = np.flatnonzero(scores > lowest)
    if len(above) > k:
        values = scores[above]
        above = above[values >= np.partition(values, len(values) - k)[len(values) - k]]
    best = above[np.argsort(-scores[above], kind="stable")[:k]]
    return np.concatenate([best, np.flatnonzero(scores == lowest)[: k - len(best)]])


def log_softmax(scores: npt.NDArray[np.floating[Any]]) -> Scores:
    """Log-softmax of each row, float32 of the same shape; −inf is probability 0."""
    logs = scores - scores.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return logs.astype(np.float32, copy=False)


def checked_scores(scores: Any, shape: tuple[int, int], name: str) -> npt.NDArray[np.floating]:
    """Convert scores to an array, and check it.

    Args:
        scores: the return value of a system.
        shape: number of users, and of items.
        name: the system, for the message.

    Raises:
        UserError: the scores are not numbers, have another shape, or contain NaN or +inf.
    """
    try:
        values = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} returns {type(scores).__name__}, not numbers") from None
    if values.shape != shape:
        raise UserError(
            f"{name} returns scores of shape {list(values.shape)} for {shape[0]} users and {shape[1]} items; "
            f"return one number each, {list(shape)}"
        )
    if not (values < np.inf).all():
        raise UserError(
            f"{name} returns scores that are NaN or +inf; return numbers, or -inf for an item to exclude"
        )
    return values


def checked_lists(lists: Any, users: int, k: int, name: str) -> Ranked:
    """Check the return value of a baseline's `recommend`, and return it.

    Args:
        lists: the return value.
        users: number of users.
        k: greatest length of a list.
        name: the baseline, for the message.

    Raises:
        UserError: it is not `(items, scores)` with at most k ids, and as many scores, per user.
    """
    remedy = f"return (items, scores), for each of {users} users at most {k} item ids and as many scores"
    if not isinstance(lists, tuple) or len(lists) != 2:
        raise UserError(f"{name}.recommend returns {type(lists).__name__}; {remedy}")
    items, scores = ([list(row) for row in part] for part in lists)
    if len(items) != users or [len(row) for row in items] != [len(row) for row in scores]:
        raise UserError(f"{name}.recommend returns {len(items)} lists and {len(scores)} of scores; {remedy}")
    if any(len(row) > k for row in items):
        raise UserError(f"{name}.recommend returns a list longer than {k}; {remedy}")
    return items, scores
