"""Base classes of systems that score every item for a history, and the choice of their settings on validation."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy import sparse

from llmrec.collaborative.blocks import SCORE_BYTES, user_blocks
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.system import Ranked, TrainingData, best_columns
from llmrec.files import write_json

SMOOTHING = 0.01
"""Share of popularity in the probabilities of `Votes`, so that an item without votes has a positive probability."""
CUTOFF = 10
"""Cutoff k of the NDCG@k by which settings are chosen."""
DIGITS = 12
"""Scores that are equal after rounding to so many decimal places are ties; the more popular item wins a tie."""

Floats = npt.NDArray[np.floating[Any]]
Histories = Sequence[Sequence[str]]


Decay = Annotated[float, Field(gt=0, le=1)]
"""Weight of a history item, divided by the weight of the next newer item."""


class Scored(ABC):
    """A system that scores all items for each history.

    Attributes:
        popularity: every item that may be recommended, most popular first; this order breaks ties.
    """

    popularity: Popularity

    @cached_property
    def column(self) -> dict[str, int]:
        """Item id → its place in the order of popularity."""
        return {item: i for i, item in enumerate(self.popularity.items)}

    @abstractmethod
    def scores(self, histories: Histories, items: Sequence[str]) -> Floats:
        """Score each item for each history; higher is better.

        Args:
            histories: item ids of each user, oldest first; unknown ids are ignored.
            items: the catalogue, in the order of the columns.

        Returns:
            float [U, items].
        """

    @abstractmethod
    def log_probs(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as each history's next one, float32 [U, items]."""

    def recommend(self, histories: Histories, k: int, exclude: Histories | None = None) -> Ranked:
        """Return the k items with the highest scores for each history.

        Args:
            histories: item ids of each user, oldest first; unknown ids are ignored.
            k: length of the lists; a list is shorter only if the catalogue has too few items.
            exclude: items that a user must not get, such as those already seen.

        Returns:
            Item ids and scores, one list per user, best first; the more popular item wins a tie.
        """
        names, column = self.popularity.items, self.column
        items: list[list[str]] = []
        values: list[list[float]] = []
        for block in user_blocks(len(histories), len(names)):
            scores = self.scores(histories[block], names)
            for row, banned in zip(scores, exclude[block] if exclude else [()] * len(scores), strict=True):
                allowed = np.round(row, DIGITS)
                allowed[[column[item] for item in banned if item in column]] = -np.inf
                best = best_columns(allowed, k)
                items.append([names[i] for i in best])
                values.append([round(float(row[i]), DIGITS) for i in best])
        return items, values


class Votes(Scored):
    """A system in which each history item votes for other items. The weight of a vote depends on the item's place.

    Attributes:
        matrix: sparse float64 [items, items], the votes of the row's item for the column's item; rows and columns in
            the order of `popularity.items`.
    """

    matrix: sparse.csr_array
    _reordered: tuple[Sequence[str], sparse.csr_array, npt.NDArray[np.float32]] | None = None

    @abstractmethod
    def weights(self, histories: Histories) -> sparse.csr_array:
        """Return the weight of each history item's votes, float [U, items], columns in the order of popularity."""

    def scores(self, histories: Histories, items: Sequence[str]) -> Floats:
        """Sum the weighted votes, float64 [U, items]."""
        votes: Floats = self._votes(histories, items).toarray()
        return votes

    def log_probs(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as the next one: its share of the votes, smoothed by popularity.

        Args:
            histories: item ids of each user, oldest first; unknown ids are ignored.
            items: the catalogue, in the order of the columns.

        Returns:
            float32 [U, items].
        """
        votes = self._votes(histories, items).astype(np.float32).toarray()
        total = votes.sum(axis=1, keepdims=True)
        popularity = self._in_order(items)[1]
        votes *= np.divide(1 - SMOOTHING, total, out=np.zeros_like(total), where=total > 0)
        votes += popularity * np.where(total > 0, SMOOTHING, 1).astype(np.float32)
        logs: npt.NDArray[np.float32] = np.log(votes, out=votes)
        return logs

    def _votes(self, histories: Histories, items: Sequence[str]) -> sparse.csr_array:
        """Sum the weighted votes, sparse float64 [U, items]."""
        return sparse.csr_array(self.weights(histories) @ self._in_order(items)[0])

    def _in_order(self, items: Sequence[str]) -> tuple[sparse.csr_array, npt.NDArray[np.float32]]:
        """Return the matrix with columns in the order of `items`, and the items' popularity. Both are cached."""
        if self._reordered is None or self._reordered[0] is not items:
            matrix = sparse.csr_array(self.matrix[:, [self.column[item] for item in items]])
            self._reordered = items, matrix, np.exp(self.popularity.log_probs([()], items))
        return self._reordered[1:]


class Validation:
    """Validation users, and the NDCG@10 of scores for them.

    Args:
        examples: `history: list[str], target: str, masked: list[str]`; the items of `masked` are in no list.
        items: the catalogue in the order of the scores' columns, most popular first; the earlier item wins a tie.
    """

    def __init__(self, examples: pl.DataFrame, items: Sequence[str]) -> None:
        self.items = list(items)
        column = {item: i for i, item in enumerate(self.items)}
        self.histories: list[list[str]] = examples["history"].to_list()
        self.targets = np.array([column.get(item, -1) for item in examples["target"]], np.int64)
        self.masked = [
            np.array([column[i] for i in row if i in column], np.int64) for row in examples["masked"]
        ]

    def __len__(self) -> int:
        return len(self.histories)

    def blocks(self, score_bytes: int = SCORE_BYTES) -> list[slice]:
        """Return slices of users that are scored together; `score_bytes` is that of `users_at_once`."""
        return user_blocks(len(self), len(self.items), score_bytes)

    def ndcg(self, score: Callable[[slice], Floats]) -> float:
        """Return the mean NDCG@10 of the targets.

        Args:
            score: function that returns the scores [users, items] of a block of users; the scores are overwritten.
        """
        total = 0.0
        for block in self.blocks():
            scores = score(block)
            for row, masked in zip(scores, self.masked[block], strict=True):
                row[masked] = -np.inf
            total += self.gains(scores, np.maximum(self.targets[block], 0), self.targets[block] >= 0).sum()
        return float(total) / max(len(self), 1)

    @staticmethod
    def gains(
        scores: Floats, place: npt.NDArray[np.int64], has_target: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """Return the NDCG@10 of each user's target, float64 [users].

        Args:
            scores: float [users, n], −inf for masked items; the earlier column wins a tie.
            place: int64 [users], the target's column.
            has_target: bool [users], whether the target is one of the items.
        """
        target_scores = scores[np.arange(len(scores)), place][:, None]
        ahead = (scores > target_scores).sum(1)
        is_tie = scores == target_scores
        for user in np.flatnonzero(is_tie.sum(1) > 1):
            ahead[user] += is_tie[user, : place[user]].sum()
        is_hit = (ahead < CUTOFF) & np.isfinite(target_scores[:, 0]) & has_target
        return np.where(is_hit, 1 / np.log2(ahead + 2), 0.0)

    def ndcg_of(self, system: Scored) -> float:
        """Return the mean NDCG@10 of a system's lists."""
        return self.ndcg(lambda block: np.round(system.scores(self.histories[block], self.items), DIGITS))


def choose(
    evaluate: Callable[[dict[str, Any]], float], grids: Iterable[dict[str, list[Any]]]
) -> dict[str, Any]:
    """Choose the settings with the best validation NDCG@10, one grid after another.

    Each grid changes its own settings and keeps the best values that the grids before it found for the others.

    Args:
        evaluate: function that returns the validation NDCG@10 of settings.
        grids: mappings of a setting's name to its values; every combination of a grid is tried, and the earlier one
            wins a tie.

    Returns:
        `chosen`, the settings; `ndcg@10`, the largest value; and `tried`, the settings and value of each attempt.
    """
    best: dict[str, Any] = {}
    tried: list[dict[str, Any]] = []
    for grid in grids:
        start, best_value = best, -1.0
        for values in _combinations(grid):
            settings = start | values
            value = round(evaluate(settings), 6)
            tried.append(settings | {"ndcg@10": value})
            if value > best_value:
                best, best_value = settings, value
    return {
        "chosen": best,
        "ndcg@10": max((attempt["ndcg@10"] for attempt in tried), default=0.0),
        "tried": tried,
    }


def record(data: TrainingData, valid_users: int, choice: dict[str, Any]) -> dict[str, Any]:
    """Write a system's chosen settings to its file `.json`, and print them.

    Args:
        data: the system's training data.
        valid_users: number of validation users that the choice used.
        choice: the return value of `choose`.

    Returns:
        The system's entry in the report: the file's content without the attempts.
    """
    write_json(data.file(".json"), {"valid_users": valid_users} | choice)
    chosen = json.dumps(choice["chosen"]).replace('"', "")
    value = choice["ndcg@10"]
    print(f"{data.name}: {valid_users:,} validation users, NDCG@10 {value:.4f}: {chosen}", file=sys.stderr)
    return {"valid_users": valid_users} | {key: value for key, value in choice.items() if key != "tried"}


def recency_weights(
    histories: Histories, column: Mapping[str, int], decay: float, most: int | None = None
) -> sparse.csr_array:
    """Return the weight `decay ** k` of the history item k steps before the last one.

    An item that occurs several times has the weight of its last occurrence.

    Args:
        histories: item ids, oldest first; unknown ids are ignored, but count as steps.
        column: item id → its column.
        decay: weight of an item, divided by the weight of the next newer item.
        most: number of last items that count; None takes all.

    Returns:
        float64 [U, items].
    """
    rows: list[dict[int, float]] = []
    for history in histories:
        last = list(history if most is None else history[-most:])
        steps = {item: len(last) - 1 - place for place, item in enumerate(last)}
        rows.append({column[item]: decay**k for item, k in steps.items() if item in column})
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    columns = np.fromiter((i for row in rows for i in row), np.int64, int(starts[-1]))
    values = np.fromiter((w for row in rows for w in row.values()), np.float64, int(starts[-1]))
    return sparse.csr_array((values, columns, starts), shape=(len(rows), len(column)))


def item_rows(histories: pl.DataFrame, items: Sequence[str]) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the user's number and the item's number of each training interaction, both int64 [n].

    A user's number is the row in `histories`, and an item's number is its place in `items`. Other items are left out.
    """
    numbers = pl.DataFrame({"item": list(items)}, schema={"item": pl.String}).with_row_index("number")
    flat = (
        histories.select(item=pl.col("items").cast(pl.List(pl.String))).with_row_index("user").explode("item")
    )
    rows = flat.join(numbers, on="item", how="inner", maintain_order="left")
    return rows["user"].cast(pl.Int64).to_numpy(), rows["number"].cast(pl.Int64).to_numpy()


def _combinations(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid's values, the last setting varying fastest."""
    names = list(grid)
    if not names:
        yield {}
        return
    for value in grid[names[0]]:
        for others in _combinations({name: grid[name] for name in names[1:]}):
            yield {names[0]: value} | others
