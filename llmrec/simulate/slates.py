"""Slates that a simulated user is shown: with the held-out item, without it, and from a system's list."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl

from llmrec.errors import UserError


@dataclass(frozen=True)
class Slate:
    """Items that are offered to a user at once.

    Attributes:
        user: the user's id.
        history: ids of the user's items before the held-out one, oldest first.
        items: ids of the offered items, in the order in which they are shown.
        target: place of the held-out item among `items`, from 0; None if it is not offered.
    """

    user: str
    history: tuple[str, ...]
    items: tuple[str, ...]
    target: int | None


class Pair(NamedTuple):
    """A user's two slates, which differ in one place: the held-out item, and another item in its stead."""

    with_target: Slate
    without: Slate


def draw_pairs(
    examples: pl.DataFrame,
    touched: Mapping[str, Collection[str]],
    catalogue: Sequence[str],
    size: int,
    seed: int,
) -> list[Pair]:
    """Draw two slates for each user: the held-out item at a random place among items that the user never touched.

    The other items are drawn evenly, without repeats. A user whose held-out item is also in the history, or who has
    touched all but fewer than `size` items, gets no slates.

    Args:
        examples: `user_id, history: list[str], target`.
        touched: user id → all items of the user's interactions, whatever their split.
        catalogue: all item ids.
        size: number of items of a slate.
        seed: seed of the places and of the other items.

    Raises:
        UserError: no user gets slates.
    """
    draw = np.random.default_rng([seed, 0])
    pairs = []
    for user, history, target in examples.select("user_id", "history", "target").iter_rows():
        known = set(touched[user])
        wanted = min(len(catalogue), size + len(known))
        drawn = [catalogue[row] for row in draw.choice(len(catalogue), wanted, replace=False)]
        others = [item for item in drawn if item not in known][:size]
        place = int(draw.integers(size))
        if target in history or len(others) < size:
            continue
        without = Slate(user, tuple(history), tuple(others), None)
        items = (*others[:place], target, *others[place + 1 :])
        pairs.append(Pair(replace(without, items=items, target=place), without))
    if not pairs:
        raise UserError(
            f"simulate: no user has a held-out item that is new to them, and {size} items that they never touched; "
            "use a smaller --slate"
        )
    return pairs


def list_slates(pairs: Sequence[Pair], lists: pl.DataFrame, size: int, seed: int, system: str) -> list[Slate]:
    """Make a slate of the first items of each user's list, in random order.

    The order is drawn by user and seed, so that lists of several systems are shown in the same way.

    Args:
        pairs: the users' slates of `draw_pairs`.
        lists: a system's lists, `user_id, rank` (from 1)`, item_id`.
        size: number of items of a slate.
        seed: seed of the orders.
        system: the system's name, for the message.

    Raises:
        UserError: a user has no list, or a shorter one.
    """
    first = lists.filter(pl.col("rank") <= size).sort("user_id", "rank")
    by_user = dict(first.group_by("user_id").agg("item_id").iter_rows())
    draw = np.random.default_rng([seed, 1])
    slates = []
    for held_out, _ in pairs:
        listed, order = by_user.get(held_out.user, []), draw.permutation(size)
        if len(listed) < size:
            raise UserError(
                f"--systems: the list of {system} for user {held_out.user!r} has {len(listed)} items; "
                f"a slate has {size} (--slate)"
            )
        items = tuple(listed[row] for row in order)
        assert held_out.target is not None
        target = held_out.items[held_out.target]
        slates.append(replace(held_out, items=items, target=items.index(target) if target in items else None))
    return slates
