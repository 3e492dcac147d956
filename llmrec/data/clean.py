"""Cleaning of an interaction log: filters, order, duplicates, k-core."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.config import Filters, Ties
from llmrec.data.log import Log
from llmrec.data.split import target_rows
from llmrec.data.tables.described import PART
from llmrec.errors import UserError


def clean(log: Log, filters: Filters, ties: Ties = "file", seed: int = 0) -> tuple[Log, dict[str, int]]:
    """Apply filters in this order: events, rating, window, duplicates, k-core.

    Args:
        log: the log as it was read.
        filters: what to keep.
        ties: order of a user's interactions with equal times.
        seed: seed of `shuffle`.

    Returns:
        The log, ordered by user (first appearance in the file), time, and as `ties` says; and the number of rows
        that each filter removed.

    Raises:
        UserError: a filter needs a column that the card does not map, or leaves nothing.
    """
    removed: dict[str, int] = {}
    log = order_ties(log, ties, seed)
    for name, step in _STEPS.items():
        kept = step(log, filters)
        removed[name] = len(log.rows) - len(kept.rows)
        if kept.rows.is_empty():
            limits = f"min_user={filters.min_user}, min_item={filters.min_item}"
            step_name = f"the k-core of {limits}" if name == "k_core" else f"{name}={getattr(filters, name)}"
            raise UserError(
                f"filters: {step_name} leaves no interactions; relax it in the card or in data.filters"
            )
        log = kept
    return log.compact(), removed


def _require_column(log: Log, column: str, key: str) -> None:
    """Raise a UserError if the log lacks a column that a filter needs."""
    if column not in log.rows.columns:
        raise UserError(f"filters.{key} needs interactions.columns.{column} in the card")


def _events(log: Log, filters: Filters) -> Log:
    if filters.events is None:
        return log
    _require_column(log, "event", "events")
    return log.keep(
        log.rows["event"].is_in([code for code, name in enumerate(log.events) if name in filters.events])
    )


def _rating(log: Log, filters: Filters) -> Log:
    if filters.min_rating is None:
        return log
    _require_column(log, "rating", "min_rating")
    return log.keep(log.rows["rating"] >= filters.min_rating)


def _window(log: Log, filters: Filters) -> Log:
    """Keep times from the first bound (inclusive) to the second (exclusive)."""
    if filters.window is None:
        return log
    _require_column(log, "time", "window")
    start, end = (None if bound is None else _seconds(bound) * log.unit for bound in filters.window)
    if start is not None:
        log = log.keep(log.rows["time"] >= start)
    return log if end is None else log.keep(log.rows["time"] < end)


def _seconds(bound: int | str) -> float:
    """Convert a bound of `filters.window`, epoch seconds or a date (UTC by default), to epoch seconds."""
    if isinstance(bound, int):
        return bound
    try:
        moment = datetime.fromisoformat(bound)
    except ValueError:
        raise UserError(
            f"filters.window: {bound!r} is neither epoch seconds nor a date (2014-07-01)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def without_leaks(log: Log) -> tuple[Log, int]:
    """Drop interactions of a given split that are also in a later part: same user, item and time.

    Returns:
        The log, and the number of dropped rows; none without times, because no two positions are equal.
    """
    if PART not in log.rows.columns or not log.has_times:
        return log, 0
    kept = log.keep(pl.col(PART) == pl.col(PART).max().over("user", "item", "time"))
    return kept, len(log.rows) - len(kept.rows)


def order_ties(log: Log, ties: Ties, seed: int) -> Log:
    """Bring rows into an order in which equal times lie as `ties` says; a stable sort by time keeps it.

    Without times the order of the file is all there is, and it stays; so it does under `auto`. The parts of a given
    split are in order first.
    """
    if not log.has_times:
        return log
    if PART in log.rows.columns:
        return replace(log, rows=_ordered_ties(log, ties, seed).rows.sort(PART, maintain_order=True))
    return _ordered_ties(log, ties, seed)


def _ordered_ties(log: Log, ties: Ties, seed: int) -> Log:
    if ties in ("auto", "file"):
        return log
    if ties == "item":
        rank = log.items.rank("ordinal").to_numpy()
        return replace(log, rows=log.rows[np.argsort(rank[log.rows["item"].to_numpy()], kind="stable")])
    return replace(log, rows=log.rows[np.random.default_rng(seed).permutation(len(log.rows))])


def tied_targets(log: Log, labels: npt.NDArray[np.uint8], kind: str, code: int) -> float:
    """Return the share of a split's targets that another interaction of their user has the same time as.

    Without times, the order of the file is the time, and nothing is tied.

    Args:
        log: ordered by user and time.
        labels: index into `split.LABELS` of each row `[rows]`.
        kind: kind of the split.
        code: index of the split into `split.LABELS`.

    Returns:
        A share between 0 and 1; 0 without targets.
    """
    if not log.has_times:
        return 0.0
    user, time = log.rows["user"].to_numpy(), log.rows["time"].to_numpy()
    targets = target_rows(user, labels == code, kind)
    return float(_has_equal_time(user, time)[targets].mean()) if len(targets) else 0.0


def _has_equal_time(user: npt.NDArray[np.uint32], time: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each row has the time of another row of its user, bool `[rows]`; rows are ordered by user and time."""
    is_same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    return np.append(False, is_same) | np.append(is_same, False)


def by_user_and_time(log: Log) -> Log:
    """Order by user, then time, then position in the file; without times, by user and position."""
    if _is_ordered(log):
        return log
    rows = log.rows.sort("time", maintain_order=True) if log.has_times else log.rows
    return replace(log, rows=rows.sort("user", maintain_order=True))


def _is_ordered(log: Log) -> bool:
    user = log.rows["user"].to_numpy()
    if (user[1:] < user[:-1]).any():
        return False
    if not log.has_times:
        return True
    time = log.rows["time"].to_numpy()
    return not ((time[1:] < time[:-1]) & (user[1:] == user[:-1])).any()


def deduplicate(log: Log, kind: Literal["none", "exact", "first", "last"]) -> Log:
    """Drop repeated interactions of an ordered log.

    Args:
        log: ordered by user and time.
        kind: which interaction is kept. `none`: all. `exact`: the first in the file with the same user, item and
            time. `first` or `last`: the first or last of each user and item. Without times `exact` drops nothing,
            because no two positions in a file are equal.
    """
    rows = log.rows
    if kind == "none" or (kind == "exact" and not log.has_times):
        return log
    keep = np.ones(len(rows), dtype=bool)
    if kind == "exact":
        # Only interactions of one user at one time can be equal, so the others are not compared.
        user, time = rows["user"].to_numpy(), rows["time"].to_numpy()
        suspects = np.flatnonzero(_has_equal_time(user, time))
        distinct = rows[suspects].select("user", "item", "time").to_struct().is_first_distinct()
    else:
        suspects = np.arange(len(rows))
        pairs = rows.select("user", "item").to_struct()
        distinct = pairs.is_first_distinct() if kind == "first" else pairs.is_last_distinct()
    keep[suspects] = distinct.to_numpy()
    return log.keep(keep)


def _deduplicated(log: Log, filters: Filters) -> Log:
    return deduplicate(by_user_and_time(log), filters.deduplicate)


def _core(log: Log, filters: Filters) -> Log:
    if filters.min_user == filters.min_item == 1:
        return log
    user, item = log.rows["user"].to_numpy(), log.rows["item"].to_numpy()
    return log.keep(k_core(user, item, filters.min_user, filters.min_item))


def k_core(
    user: npt.NDArray[np.uint32], item: npt.NDArray[np.uint32], min_user: int, min_item: int
) -> npt.NDArray[np.bool_]:
    """Find the largest sub-log in which each user and item has enough rows (Seidman 1983, bipartite).

    Users and items below the minimum are removed in turn until none is left. The fixed point is unique.

    Args:
        user: user code of each row `[rows]`.
        item: item code of each row `[rows]`.
        min_user: minimum number of rows of a user.
        min_item: minimum number of rows of an item.

    Returns:
        Whether each row stays, bool `[rows]`; possibly no row does.
    """
    is_kept = np.ones(len(user), dtype=bool)
    user_counts, item_counts = np.bincount(user), np.bincount(item)
    while True:
        is_below = (user_counts < min_user)[user]
        is_below |= (item_counts < min_item)[item]
        is_below &= is_kept
        removed = np.flatnonzero(is_below)
        if not len(removed):
            return is_kept
        is_kept[removed] = False
        user_counts -= np.bincount(user[removed], minlength=len(user_counts))
        item_counts -= np.bincount(item[removed], minlength=len(item_counts))


_STEPS = {
    "events": _events,
    "min_rating": _rating,
    "window": _window,
    "deduplicate": _deduplicated,
    "k_core": _core,
}
