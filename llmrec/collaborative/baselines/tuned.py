"""The adapter of the literature's baselines: one way to choose settings, to keep what is learned, and to rank.

A baseline says how it learns arrays from the training interactions (`learn`), and how arrays score histories
(`scorer`). The rest is here, and equal for all: every setting that is a list is tried on validation users, the best
by NDCG@10 is kept, and what it has learned is written as safetensors. So a run is fitted in seconds once it is
finished.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llmrec.collaborative.baselines.interactions import Interactions, Sequences, numbers
from llmrec.collaborative.blocks import user_blocks
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.scored import Floats, Histories, Scored, Validation, choose, record
from llmrec.collaborative.system import System, TrainingData, log_softmax
from llmrec.collaborative.tensor_file import open_tensors
from llmrec.config import Positive, validate
from llmrec.errors import UserError
from llmrec.files import atomic_write, read_json

Arrays = dict[str, npt.NDArray[Any]]
"""What a baseline has learned."""
Scorer = Callable[[Sequences], Floats]
"""Scores the items of `Interactions.items` for histories: float [U, items]."""
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Scales of the scores that `log_probs` can have, in units of the scores' standard deviation."""
CALIBRATION_USERS = 1000
"""Number of validation users by whom the scale is chosen."""
ARRAYS, CHOICE = ".safetensors", ".json"

HistoryLengths = Annotated[list[Positive], Field(min_length=1)]
"""Numbers of last history items to try."""


class TunedSystem(System):
    """A baseline whose settings are chosen on validation.

    Attributes:
        grids: names of the settings that are tried together, a tuple for each grid. A later grid keeps the values
            that the earlier ones have found. `history` is always tried last.
        history: numbers of last history items that a list is computed from.
        valid_users: number of validation users for the choice.
    """

    files: ClassVar[tuple[str, ...]] = (CHOICE, ARRAYS)
    learns_in_training: ClassVar[bool] = True
    grids: ClassVar[tuple[tuple[str, ...], ...]] = ()
    history: HistoryLengths = [50, 20, 10, 5]
    valid_users: Positive = 5000

    @abstractmethod
    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Learn from training interactions.

        Args:
            interactions: the training split.
            settings: a value for each setting of `grids`.
            seed: draw from this; the same seed gives the same arrays.
        """

    @abstractmethod
    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Return the function that scores items for histories, by what has been learned."""

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Choose the settings on validation users, and write the choice and the arrays of the best."""
        valid = data.valid(self.valid_users)
        popularity = Popularity.fit(data.histories, data.items)
        search = _Search(self, Interactions.of(data.histories, popularity), popularity, data.seed)
        validation = Validation(valid, popularity.items)
        grids = [*self.grids, ("history",)]
        choice = choose(
            lambda settings: search.value(settings, validation),
            [{name: getattr(self, name) for name in grid} for grid in grids],
        )
        ranker = search.ranker(choice["chosen"])
        choice["chosen"]["scale"] = calibrated_scale(ranker, validation)
        learned = [array for array in search.arrays.values() if np.issubdtype(array.dtype, np.floating)]
        choice["parameters"] = sum(int(array.size) for array in learned)
        choice["settings"] = self.model_dump(mode="json")
        if ARRAYS in self.files:
            _write_arrays(data, search.interactions.items, search.arrays)
        return record(data, len(valid), choice)

    def fit(self, data: TrainingData) -> TunedRanker:
        """Read what `train` has learned.

        Raises:
            UserError: the stage collaborative has not trained the system, its files are broken, or a library is
                missing.
        """
        kept = read_json(data.file(CHOICE))
        chosen = kept["chosen"]
        trained = validate(type(self), kept["settings"], str(data.file(CHOICE)))
        popularity = Popularity.fit(data.histories, data.items)
        items, arrays = trained.learned(data, popularity, chosen)
        try:
            scorer = trained.scorer(arrays, chosen)
        except ImportError as error:
            raise UserError(f"{data.name}: {error}: pip install 'llmrec[baselines]'") from None
        return TunedRanker(popularity, items, scorer, chosen["history"], chosen["scale"])

    def learned(
        self, data: TrainingData, popularity: Popularity, settings: Mapping[str, Any]
    ) -> tuple[list[str], Arrays]:
        """Return the ids of the items that `train` has learned, and its arrays."""
        return _read_arrays(data, self.title)


class TunedRanker(Scored):
    """Ranks items by a baseline's scores. Popularity breaks ties.

    Items without training interactions get the lowest score of the row, because nothing has been learned of them. A
    history without known items gets the most popular items.
    """

    def __init__(
        self, popularity: Popularity, items: Sequence[str], scorer: Scorer, history: int, scale: float = 1.0
    ) -> None:
        """Keep a fitted baseline.

        Args:
            popularity: popularity of the training interactions over the catalogue.
            items: ids of the items that the scorer scores, in the order of its columns.
            scorer: scores items for histories of item numbers.
            history: number of last history items that count.
            scale: factor of the scores in `log_probs`.
        """
        self.popularity, self.scorer = popularity, scorer
        self.history, self.scale = history, scale
        self.known = list(items)
        self.number = {item: row for row, item in enumerate(items)}

    def scores(self, histories: Histories, items: Sequence[str]) -> Floats:
        """Score each item for each history, float32 [U, items]."""
        sequences = [numbers(history[-self.history :], self.number) for history in histories]
        full = np.zeros((len(histories), len(items)), np.float32)
        users = [row for row, sequence in enumerate(sequences) if len(sequence)]
        if not users:
            return full
        scores = np.asarray(self.scorer([sequences[row] for row in users]), np.float32)
        columns = np.array([self.number.get(item, -1) for item in items], np.int64)
        lowest = scores.min(axis=1, keepdims=True)
        full[users] = np.where(columns >= 0, scores[:, columns], lowest)
        return full

    def log_probs(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-softmax of the scaled scores, float32 [U, items]; popularity's where nothing of a history is known."""
        logs = log_softmax(self.scores(histories, items) * np.float32(self.scale))
        for row, history in enumerate(histories):
            if not any(item in self.number for item in history[-self.history :]):
                logs[row] = self.popularity.log_probs([()], items)[0]
        return logs


class _Search:
    """The search of a system's settings: the arrays of the best values so far are kept, all others are dropped."""

    def __init__(
        self, system: TunedSystem, interactions: Interactions, popularity: Popularity, seed: int
    ) -> None:
        self.system, self.interactions, self.popularity = system, interactions, popularity
        self.seed = seed
        self.learned: dict[str, Any] | None = None
        self.arrays: Arrays = {}
        self.best = -1.0

    def value(self, settings: Mapping[str, Any], validation: Validation) -> float:
        """Return the validation NDCG@10 of settings; those of later grids have their first value."""
        complete = self._complete(settings)
        arrays = self._arrays(complete)
        value = round(validation.ndcg_of(self._ranker(arrays, complete)), 6)  # as `choose` compares
        if value > self.best:
            self.best, self.learned, self.arrays = value, _without_history(complete), arrays
        return value

    def ranker(self, settings: Mapping[str, Any]) -> TunedRanker:
        """Return the ranker of chosen settings, whose arrays are then `arrays`."""
        complete = self._complete(settings)
        self.arrays = self._arrays(complete)
        return self._ranker(self.arrays, complete)

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for grid in (*self.system.grids, ("history",)) for name in grid]
        return {name: getattr(self.system, name)[0] for name in names} | dict(settings)

    def _arrays(self, settings: Mapping[str, Any]) -> Arrays:
        if _without_history(settings) == self.learned:
            return self.arrays
        return self.system.learn(self.interactions, settings, self.seed)

    def _ranker(self, arrays: Arrays, settings: Mapping[str, Any]) -> TunedRanker:
        scorer = self.system.scorer(arrays, settings)
        return TunedRanker(self.popularity, self.interactions.items, scorer, settings["history"])


def calibrated_scale(ranker: TunedRanker, validation: Validation) -> float:
    """Return the factor of the scores with the highest mean log-probability of validation targets.

    It is the temperature of Guo et al., On calibration of modern neural networks, ICML 2017, as a factor.
    """
    blocks = user_blocks(
        min(len(validation), CALIBRATION_USERS), len(validation.items), most=CALIBRATION_USERS
    )

    @lru_cache(maxsize=1)  # a single block, as nearly always, is scored once
    def scores_of(number: int) -> Floats:
        return ranker.scores(validation.histories[blocks[number]], validation.items)

    deviations = [scores_of(number).std(axis=1) for number in range(len(blocks))]
    spread = (float(np.concatenate(deviations).mean()) if deviations else 0.0) or 1.0
    totals = {scale / spread: 0.0 for scale in SCALES}
    for number, block in enumerate(blocks):
        targets = validation.targets[block]
        rows = np.flatnonzero(targets >= 0)
        for scale in totals:
            logs = log_softmax(scores_of(number)[rows] * np.float32(scale))
            totals[scale] += float(logs[np.arange(len(rows)), targets[rows]].sum())
    best: float = max(totals, key=lambda scale: totals[scale])
    return round(best, 6)


def _without_history(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "history"}


def _write_arrays(data: TrainingData, items: list[str], arrays: Arrays) -> None:
    """Write arrays, and the ids of the items that their columns stand for."""
    from safetensors.numpy import save_file

    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_write(data.file(ARRAYS)) as partial:
        save_file(kept, partial, {"items": json.dumps(items)})


def _read_arrays(data: TrainingData, title: str) -> tuple[list[str], Arrays]:
    """Read the ids of the items that a system has learned, and its arrays.

    Raises:
        UserError: the file is missing or broken.
    """
    with open_tensors(data.file(ARRAYS), "numpy", title, "collaborative") as (metadata, arrays):
        return json.loads(metadata["items"]), arrays
