"""Training targets that preference alignment draws: some of each user's items, each after what came before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.data.examples import training_histories
from llmrec.errors import UserError
from llmrec.ids.paths import rank_within


@dataclass(frozen=True)
class Targets:
    """R targets; lists hold item ids.

    Attributes:
        users: R user ids.
        items: all training items of each target's user, oldest first: one list a user, shared by their targets.
        positions: where in `items` each target stands, from 1; behind the last where the target is unknown.
        max_history: most items of a history.
    """

    users: list[str]
    items: list[list[str]]
    positions: list[int]
    max_history: int

    def __len__(self) -> int:
        return len(self.users)

    @property
    def chosen(self) -> list[str | None]:
        """The targets; None where unknown."""
        pairs = zip(self.items, self.positions, strict=True)
        return [items[at] if at < len(items) else None for items, at in pairs]

    def known_targets(self) -> list[str]:
        """The targets, of which none is unknown.

        Raises:
            ValueError: some are unknown (`prompts: history_end`).
        """
        targets = [target for target in self.chosen if target is not None]
        if len(targets) < len(self):
            raise ValueError("prompts at the end of a history have no target")
        return targets

    @property
    def histories(self) -> list[list[str]]:
        """What the model is asked with: the last `max_history` items before each target, oldest first."""
        pairs = zip(self.items, self.positions, strict=True)
        return [items[max(0, at - self.max_history) : at] for items, at in pairs]

    @property
    def repeats(self) -> npt.NDArray[np.bool_]:
        """Whether each target is among the items before it, bool [R]; False where it is unknown."""
        lists = {id(items): items for items in self.items}
        first = {
            key: {item: at for at, item in reversed([*enumerate(items)])} for key, items in lists.items()
        }
        return np.array(
            [
                item is not None and first[id(items)][item] < at
                for item, items, at in zip(self.chosen, self.items, self.positions, strict=True)
            ],
            bool,
        )

    @property
    def seen(self) -> list[list[str]]:
        """All items before each target, a copy each: of all targets of long histories they are many."""
        return [items[:at] for items, at in zip(self.items, self.positions, strict=True)]

    def take(self, rows: npt.NDArray[np.int64]) -> Targets:
        """Some of the targets, int64 [r]."""
        picked = rows.tolist()
        return Targets(
            [self.users[row] for row in picked],
            [self.items[row] for row in picked],
            [self.positions[row] for row in picked],
            self.max_history,
        )


def draw_targets(
    run: Path, history: int, per_user: int | None, users: int | None, seed: int, at_history_end: bool = False
) -> tuple[Targets, dict[str, int]]:
    """Targets from training interactions, never a user's first, and never a held-out one.

    Args:
        run: run folder with a finished data stage.
        history: most items of a history.
        per_user: targets drawn of each user; None takes all.
        users: a sample of so many of the users that have two training items; None takes all.
        seed: of both draws.
        at_history_end: one prompt a user, after the last training item, where the target is unknown.

    Returns:
        Targets, users in the order of the data, each one's targets oldest first; and how many users were left
        out, by why.

    Raises:
        UserError: no user has two training items.
    """
    everyone = training_histories(run)
    able = everyone.filter(pl.col("items").list.len() >= 2)
    if able.is_empty():
        raise UserError("data: no user has two training interactions, so there is no target with a history")
    rng = np.random.default_rng(seed)
    drawn = able
    if users is not None and users < len(able):
        drawn = able[np.sort(rng.choice(len(able), users, replace=False))]
    sizes = drawn["items"].list.len().to_numpy().astype(np.int64) - 1
    user = np.arange(len(drawn)) if at_history_end else np.repeat(np.arange(len(drawn)), sizes)
    position = sizes + 1 if at_history_end else rank_within(user) + 1
    if per_user is not None and not at_history_end:
        shuffled = np.lexsort((rng.random(len(user)), user))
        kept = np.sort(shuffled[rank_within(user) < per_user])
        user, position = user[kept], position[kept]
    names, items = drawn["user_id"].to_list(), drawn["items"].to_list()
    left_out = {
        "fewer_than_two_training_items": len(everyone) - len(able),
        "not_sampled": len(able) - len(drawn),
    }
    rows = user.tolist()
    targets = Targets([names[row] for row in rows], [items[row] for row in rows], position.tolist(), history)
    return targets, left_out
