"""Histories of a run's own users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from llmrec import layout
from llmrec.errors import KnownNames, UnknownUserError, UserError
from llmrec.recommend.given_ids import Id, as_id


@dataclass(frozen=True)
class UserHistories:
    """All items of each user of a run's data, held-out ones included.

    Attributes:
        items: item ids as categories, by user and then by time.
        spans: user id → first row and number of rows.
    """

    items: pl.Series
    spans: dict[str, tuple[int, int]]

    @classmethod
    def load(cls, run: Path) -> UserHistories:
        """Read the interactions of a run.

        Raises:
            UserError: the folder has no interactions: an export, a merged checkpoint, or a run without its data.
        """
        path = run / layout.INTERACTIONS
        if not path.is_file():
            raise UserError(f"{run}: holds no interactions, so its users are not known; give a history")
        rows = pl.read_parquet(path, columns=["user_id", "item_id"]).with_row_index("row")
        users = rows.group_by("user_id", maintain_order=True).agg(pl.col("row").first(), count=pl.len())
        users = users.with_columns(pl.col("user_id").cast(pl.String))
        spans = {user: (row, count) for user, row, count in users.iter_rows()}
        return cls(rows["item_id"], spans)

    def of(self, user: Id) -> list[str]:
        """Return everything that a user has interacted with, oldest first.

        Raises:
            UnknownUserError: the data has no such user.
        """
        name = as_id(user, "user")
        if name not in self.spans:
            near = self._names.nearest(name)
            hint = f" (did you mean {near!r}?)" if near else ""
            raise UnknownUserError(f"user {name[:60]!r} is not in this run's data{hint}", name, near)
        return self.items.slice(*self.spans[name]).cast(pl.String).to_list()

    @cached_property
    def _names(self) -> KnownNames:
        return KnownNames(self.spans)
