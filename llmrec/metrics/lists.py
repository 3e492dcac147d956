"""What metrics of lists are computed from: a system's lists, the users who got them, and facts about the items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

Values = npt.NDArray[np.float64]
_CELLS = 1 << 25
"""Cosines of items that are in memory at once."""


@dataclass(frozen=True)
class ItemData:
    """What is known of the catalogue's items. All arrays are in the catalogue's order.

    Attributes:
        catalogue: all item ids, unique.
        popularity: int64 `[items]`, training interactions of each item.
        choices: sparse `[training users, items]`, 1 where a user has the item among the training interactions.
        categories: sparse `[items, categories]`, 1 for each category of an item; None if the items have none.
        text_vectors: float32 `[items, dim]`, of length 1, or 0 for an item without text; None if the run has none.
    """

    catalogue: pl.Series
    popularity: npt.NDArray[np.int64]
    choices: sparse.csr_array
    categories: sparse.csr_array | None = None
    text_vectors: npt.NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        catalogue: pl.Series,
        histories: pl.DataFrame,
        categories: pl.Series | None = None,
        text_vectors: npt.NDArray[np.float32] | None = None,
    ) -> ItemData:
        """Count training interactions, and index categories.

        Args:
            catalogue: all item ids, unique.
            histories: `items: list[str]`, one row a training user.
            categories: `list[str]` of each item of the catalogue, or null.
            text_vectors: as the attribute.
        """
        counts = _incidence(histories["items"], catalogue)
        choices = sparse.csr_array((np.ones_like(counts.data), counts.indices, counts.indptr), counts.shape)
        names = pl.Series(dtype=pl.String) if categories is None else categories.explode().drop_nulls()
        known = None if names.is_empty() else names.unique().sort()
        return cls(
            catalogue,
            counts.sum(axis=0).astype(np.int64),
            choices,
            None
            if categories is None or known is None
            else (_incidence(categories, known) > 0).astype(float),
            text_vectors,
        )

    @cached_property
    def popularity_rank(self) -> npt.NDArray[np.int64]:
        """Place of each item, from 0, when the most popular stands first; equal counts in catalogue order."""
        ranks = np.empty(len(self.popularity), np.int64)
        ranks[np.argsort(-self.popularity, kind="stable")] = np.arange(len(ranks))
        return ranks

    @cached_property
    def unit_choices(self) -> sparse.csc_array:
        """`choices` with columns of length 1, sparse float32; two columns' product is the cosine of two items."""
        norms = np.sqrt(np.maximum(self.choices.sum(axis=0), 1.0))
        return sparse.csc_array(self.choices @ sparse.diags_array(1 / norms)).astype(np.float32)


@dataclass(frozen=True)
class RecommendedLists:
    """All lists of one system on one split.

    Attributes:
        frame: `user_id, rank` (from 1)`, item_id`; ids outside the catalogue may occur.
        users: `user_id, history: list[str], target`, one row for each evaluated user.
        items: what is known of the items.
        mask_seen: whether items of the history are left out of the lists.
    """

    frame: pl.DataFrame
    users: pl.DataFrame
    items: ItemData
    mask_seen: bool

    @property
    def catalogue(self) -> pl.Series:
        """All item ids, unique."""
        return self.items.catalogue

    @property
    def popularity(self) -> npt.NDArray[np.int64]:
        """Training interactions of each item of the catalogue, int64 `[items]`."""
        return self.items.popularity

    def exposure(self, k: int) -> npt.NDArray[np.int64]:
        """Count, for each item, the lists that have it among their first k positions, int64 `[items]`."""
        return exposure(self.frame, k, self.catalogue)

    @cached_property
    def positions(self) -> npt.NDArray[np.int64]:
        """Catalogue index of each list's items, int64 `[users, longest list]`; −1 for no item or an unknown one."""
        users = self.users.select("user_id").with_row_index("row")
        columns = self.catalogue.to_frame("item_id").with_row_index("column")
        known = self.frame.select("user_id", "rank", "item_id").join(users, on="user_id")
        depth = int(known["rank"].max() or 0)  # type: ignore[arg-type]  # polars' maximum of any type
        known = known.join(columns, on="item_id")
        places = np.full((len(users), depth), -1, np.int64)
        places[known["row"].to_numpy(), known["rank"].to_numpy() - 1] = known["column"].to_numpy()
        return places

    @cached_property
    def history(self) -> sparse.csr_array:
        """How often each item is in each user's history, sparse float64 `[users, items]`."""
        return _incidence(self.users["history"], self.catalogue)

    @cached_property
    def target(self) -> npt.NDArray[np.int64]:
        """Catalogue index of each user's target, int64 `[users]`; −1 for an unknown one."""
        return _columns(self.users["target"], self.catalogue)

    @cached_property
    def similarity_to_history(self) -> Values:
        """Mean cosine of each listed item to the items of the user's history, float64 `[users, longest list]`.

        NaN where there is no item, or the history has none of the catalogue.
        """
        users, places = np.nonzero(self.positions >= 0)
        listed = self.positions[users, places]
        cells = np.argsort(listed, kind="stable")
        items, starts = np.unique(listed[cells], return_index=True)
        of_item = np.split(cells, starts[1:])
        unit, history = self.items.unit_choices, self.history.astype(np.float32)
        sums = np.full(self.positions.shape, np.nan)
        step = max(1, _CELLS // unit.shape[1])
        for start in range(0, len(items), step):
            block = slice(start, start + step)
            cosines = (unit.T @ unit[:, items[block]]).toarray()
            for column, found in enumerate(of_item[block]):
                sums[users[found], places[found]] = history[users[found]] @ cosines[:, column]
        with np.errstate(invalid="ignore"):
            means: Values = sums / self.history.sum(axis=1)[:, None]
        return means

    def mean_of_items(self, values: npt.NDArray[Any], k: int) -> Values:
        """Mean of a value of the items over the first k positions of each list.

        Args:
            values: `[items]`, or `[users, longest list]` for a value that depends on the user.
            k: cutoff.

        Returns:
            float64 `[users]`; NaN for a list without a known item.
        """
        listed = self.positions[:, :k]
        cells = values[np.maximum(listed, 0)] if values.ndim == 1 else values[:, :k]
        is_known = (listed >= 0) & ~np.isnan(cells)
        with np.errstate(invalid="ignore"):
            means: Values = np.where(is_known, cells, 0.0).sum(axis=1) / is_known.sum(axis=1)
        return means


def exposure(lists: pl.DataFrame, k: int, catalogue: pl.Series) -> npt.NDArray[np.int64]:
    """Count, for each catalogue item, the lists that have it among their first k positions.

    Args:
        lists: `user_id, rank` (from 1)`, item_id`; ids outside the catalogue are ignored.
        k: cutoff.
        catalogue: all item ids, unique.

    Returns:
        int64 `[items]`, in catalogue order.
    """
    shown = lists.filter(pl.col("rank") <= k).group_by("item_id").agg(pl.len().alias("shown"))
    frame = catalogue.to_frame("item_id").join(shown, on="item_id", how="left", maintain_order="left")
    counts: npt.NDArray[np.int64] = frame["shown"].fill_null(0).cast(pl.Int64).to_numpy()
    return counts


def _incidence(rows: pl.Series, names: pl.Series) -> sparse.csr_array:
    """Count how often each name is in each row, sparse float64 `[rows, names]`; other names are ignored."""
    frame = rows.cast(pl.List(pl.String)).to_frame("name").with_row_index("row")
    entries = frame.explode("name", empty_as_null=False)
    columns = _columns(entries["name"], names)
    is_known = columns >= 0
    cells = (entries["row"].to_numpy()[is_known], columns[is_known])
    return sparse.csr_array((np.ones(len(cells[0])), cells), shape=(len(rows), len(names)))


def _columns(values: pl.Series, names: pl.Series) -> npt.NDArray[np.int64]:
    """Return the index of each value among unique names, int64 `[values]`; −1 for one that is not there."""
    table = names.cast(pl.String).to_frame("name").with_row_index("column")
    found = values.cast(pl.String).to_frame("name").join(table, on="name", how="left", maintain_order="left")
    indices: npt.NDArray[np.int64] = found["column"].cast(pl.Int64).fill_null(-1).to_numpy()
    return indices
