"""What systems share that score every item for a history: ranked lists, chances, and the choice of settings."""

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

from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.system import Ranked, TrainingData
from llmrec.files import write_json

SMOOTHING = 0.01
"""Share of popularity in the chances of `Votes`, so that an item without votes keeps one."""
CUTOFF = 10
"""Of the NDCG that settings are chosen by."""
DIGITS = 12
"""Scores that agree to so many decimal places are ties; ties go to the more popular item."""
_BLOCK = 512

Floats = npt.NDArray[np.floating[Any]]
Histories = Sequence[Sequence[str]]


Decay = Annotated[float, Field(gt=0, le=1)]
"""Weight of a history item over that of the one behind it."""


class Scored(ABC):
    """A system that scores all items for each history.

    Attributes:
        popularity: every item that may be recommended, most popular first: the order of ties.
    """

    popularity: Popularity

    @cached_property
    def column(self) -> dict[str, int]:
        """Where each item stands in the order of popularity."""
        return {item: i for i, item in enumerate(self.popularity.items)}

    @abstractmethod
    def scores(self, histories: Histories, items: Sequence[str]) -> Floats:
        """A score for each item after each history, the higher the better.

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
        """The k items with the highest score for each history.

        Args:
            histories: item ids of each user, oldest first; unknown ids are ignored.
            k: length of the lists; shorter only where the catalogue ends.
            exclude: items that a user must not get, such as those already seen.

        Returns:
            Item ids and scores, one list a user, best first; ties go to the more popular item.
        """
        names, column = self.popularity.items, self.column
        items: list[list[str]] = []
        values: list[list[float]] = []
        for start in range(0, len(histories), _BLOCK):
            block = slice(start, start + _BLOCK)
            scores = self.scores(histories[block], names)
            for row, banned in zip(scores, exclude[block] if exclude else [()] * len(scores), strict=True):
                best = _best(row, k, [column[item] for item in banned if item in column])
                items.append([names[i] for i in best])
                values.append([round(float(row[i]), DIGITS) for i in best])
        return items, values


class Votes(Scored):
    """A system whose history items vote for others, each with a weight by its place."""

    matrix: sparse.csr_array
    _arranged: tuple[Sequence[str], sparse.csr_array, npt.NDArray[np.float32]] | None = None

    @abstractmethod
    def weights(self, histories: Histories) -> sparse.csr_array:
        """How much each item of each history says, float [U, items], columns in order of popularity."""

    def scores(self, histories: Histories, items: Sequence[str]) -> Floats:
        """Summed votes."""
        votes: Floats = (self.weights(histories) @ self._in_order(items)[0]).toarray()
        return votes

    def log_probs(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as the next one: shares of the votes, smoothed by popularity.

        Args:
            histories: item ids of each user, oldest first; unknown ids are ignored.
            items: the catalogue, in the order of the columns.

        Returns:
            float32 [U, items].
        """
        votes = self.scores(histories, items).astype(np.float32)
        total = votes.sum(axis=1, keepdims=True)
        popular = self._in_order(items)[1]
        votes *= np.divide(1 - SMOOTHING, total, out=np.zeros_like(total), where=total > 0)
        votes += popular * np.where(total > 0, SMOOTHING, 1).astype(np.float32)
        logs: npt.NDArray[np.float32] = np.log(votes, out=votes)
        return logs

    def _in_order(self, items: Sequence[str]) -> tuple[sparse.csr_array, npt.NDArray[np.float32]]:
        """The matrix with columns in the order of `items`, and their popularity; both are kept for the next call."""
        if self._arranged is None or self._arranged[0] is not items:
            matrix = sparse.csr_array(self.matrix[:, [self.column[item] for item in items]])
            self._arranged = items, matrix, np.exp(self.popularity.log_probs([()], items))
        return self._arranged[1:]


class Validation:
    """Validation users, and the NDCG@10 that scores of all items have with them, seen items left out.

    Args:
        examples: `history: list[str], target: str`.
        items: the catalogue in the order of the scores' columns, most popular first; ties go to the earlier.
    """

    def __init__(self, examples: pl.DataFrame, items: Sequence[str]) -> None:
        self.items = list(items)
        column = {item: i for i, item in enumerate(self.items)}
        self.histories: list[list[str]] = examples["history"].to_list()
        self.targets = np.array([column.get(item, -1) for item in examples["target"]], np.int64)
        self.seen = [np.array([column[i] for i in row if i in column], np.int64) for row in self.histories]

    def __len__(self) -> int:
        return len(self.histories)

    def blocks(self) -> Iterator[slice]:
        """Users that are scored together."""
        for start in range(0, len(self), _BLOCK):
            yield slice(start, min(start + _BLOCK, len(self)))

    def ndcg(self, score: Callable[[slice], Floats]) -> float:
        """Mean NDCG@10 of the targets.

        Args:
            score: gives the scores [users, items] of a block of users; they are overwritten.
        """
        total = 0.0
        for block in self.blocks():
            scores = score(block)
            for row, seen in zip(scores, self.seen[block], strict=True):
                row[seen] = -np.inf
            total += self.gains(scores, np.maximum(self.targets[block], 0), self.targets[block] >= 0).sum()
        return float(total) / max(len(self), 1)

    @staticmethod
    def gains(
        scores: Floats, place: npt.NDArray[np.int64], has_target: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """NDCG@10 of each user's target, float64 [users].

        Args:
            scores: float [users, n], −inf for items that are left out; ties go to the earlier column.
            place: int64 [users], the target's column.
            has_target: bool [users], whether the target is among the items at all.
        """
        own = scores[np.arange(len(scores)), place][:, None]
        ahead = (scores > own).sum(1)
        equal = scores == own
        for user in np.flatnonzero(equal.sum(1) > 1):
            ahead[user] += equal[user, : place[user]].sum()
        hit = (ahead < CUTOFF) & np.isfinite(own[:, 0]) & has_target
        return np.where(hit, 1 / np.log2(ahead + 2), 0.0)

    def of(self, system: Scored) -> float:
        """Mean NDCG@10 of a system's lists."""
        return self.ndcg(lambda block: np.round(system.scores(self.histories[block], self.items), DIGITS))


def choose(judge: Callable[[dict[str, Any]], float], grids: Iterable[dict[str, list[Any]]]) -> dict[str, Any]:
    """The best settings on validation, one grid after another, each around the best of those before it.

    Args:
        judge: the validation NDCG@10 of settings.
        grids: values by name of a setting; every combination of a grid is tried, the earlier wins ties.

    Returns:
        `chosen`, the settings; `ndcg@10`, their value; and `tried`, the settings and value of each attempt.
    """
    best: dict[str, Any] = {}
    tried: list[dict[str, Any]] = []
    for grid in grids:
        around, best_value = best, -1.0
        for values in _combinations(grid):
            settings = around | values
            value = round(judge(settings), 6)
            tried.append(settings | {"ndcg@10": value})
            if value > best_value:
                best, best_value = settings, value
    return {"chosen": best, "ndcg@10": max((one["ndcg@10"] for one in tried), default=0.0), "tried": tried}


def record(data: TrainingData, valid_users: int, choice: dict[str, Any]) -> dict[str, Any]:
    """Write what was chosen for a system, print it, and return what the report keeps of it.

    Args:
        data: of the system; its file `.json` is written.
        valid_users: how many users the choice looked at.
        choice: as `choose` returns it.
    """
    write_json(data.file(".json"), {"valid_users": valid_users} | choice)
    chosen = json.dumps(choice["chosen"]).replace('"', "")
    value = choice["ndcg@10"]
    print(f"{data.name}: {valid_users:,} validation users, NDCG@10 {value:.4f}: {chosen}", file=sys.stderr)
    return {"valid_users": valid_users} | {key: value for key, value in choice.items() if key != "tried"}


def recency_weights(
    histories: Histories, column: Mapping[str, int], decay: float, most: int | None = None
) -> sparse.csr_array:
    """`decay ** k` for each history's item k steps before the last, repeats at their last place.

    Args:
        histories: item ids, oldest first; unknown ids are ignored, but count as steps.
        column: where each item of the catalogue stands.
        decay: weight of an item over that of the one behind it.
        most: how many of the last items count; None: all.

    Returns:
        float64 [U, items].
    """
    rows: list[dict[int, float]] = []
    for history in histories:
        last = list(history if most is None else history[-most:])
        place = {item: len(last) - 1 - at for at, item in enumerate(last)}
        rows.append({column[item]: decay**k for item, k in place.items() if item in column})
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    columns = np.fromiter((i for row in rows for i in row), np.int64, int(starts[-1]))
    values = np.fromiter((w for row in rows for w in row.values()), np.float64, int(starts[-1]))
    return sparse.csr_array((values, columns, starts), shape=(len(rows), len(column)))


def item_rows(histories: pl.DataFrame, items: Sequence[str]) -> tuple[npt.NDArray[np.int64], ...]:
    """Training histories as one row of numbers: whose each interaction is, and which of `items`, both int64 [n]."""
    numbers = pl.DataFrame({"item": list(items)}, schema={"item": pl.String}).with_row_index("number")
    flat = (
        histories.select(item=pl.col("items").cast(pl.List(pl.String))).with_row_index("user").explode("item")
    )
    rows = flat.join(numbers, on="item", how="inner", maintain_order="left")
    return rows["user"].cast(pl.Int64).to_numpy(), rows["number"].cast(pl.Int64).to_numpy()


def _best(scores: Floats, k: int, banned: Sequence[int]) -> npt.NDArray[np.int64]:
    """Columns of the k highest scores, the banned left out; ties go to the earlier column."""
    left = np.round(scores, DIGITS)
    left[list(banned)] = -np.inf
    room = min(k, int((left > -np.inf).sum()))
    if not room:
        return np.empty(0, np.int64)
    least = np.partition(left, len(left) - room)[len(left) - room]
    candidates = np.flatnonzero(left >= least)
    order = np.argsort(-left[candidates], kind="stable")[:room]
    return candidates[order]


def _combinations(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    names = list(grid)
    if not names:
        yield {}
        return
    for value in grid[names[0]]:
        for others in _combinations({name: grid[name] for name in names[1:]}):
            yield {names[0]: value} | others
