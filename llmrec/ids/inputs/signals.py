"""Data of a run folder from which a tokenizer learns."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.assets import expand_home
from llmrec.collaborative import systems
from llmrec.config import Recipe
from llmrec.data.examples import load_items, training_histories
from llmrec.errors import UserError
from llmrec.ids.inputs.fusion import Fusion
from llmrec.ids.inputs.fusions import fit_fusion
from llmrec.ids.inputs.text import item_texts
from llmrec.ids.inputs.vectors import encode, read_vectors


class RunSignals:
    """The signals of a run (`llmrec.ids.tokenizer.Signals`); each is computed at its first use.

    Args:
        run: the run folder, with finished stages data and collaborative.
        recipe: the resolved recipe.

    Attributes:
        items: the item table, `item_id: str, title: str`, … (docs/contract.md).

    Raises:
        UserError: no items.
    """

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self.run, self.recipe = run, recipe
        self.items = load_items(run).with_columns(pl.col("item_id").cast(pl.String))
        if self.items.is_empty():
            raise UserError(f"{run / 'data' / 'items.parquet'}: contains no item")

    @property
    def names(self) -> list[str]:
        """Item ids, in the order of `data/items.parquet`."""
        return self.items["item_id"].to_list()

    @cached_property
    def inputs(self) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]]]:
        """Input → its vectors `[items, d]`, and input → bool `[items]`, whether an item has no vector."""
        parts: dict[str, NDArray[np.float32]] = {}
        missing: dict[str, NDArray[np.bool_]] = {}
        for name in self.recipe.ids.inputs:
            parts[name], missing[name] = self._input(name)
        return parts, missing

    @cached_property
    def fusion(self) -> Fusion:
        """The fusion of the inputs into one vector an item."""
        return fit_fusion(*self.inputs, self.recipe.ids.fusion, self.recipe.seed)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Item vectors, float32 `[items, dim]`, finite."""
        return self.fusion.apply(*self.inputs)

    @cached_property
    def collaborative(self) -> NDArray[np.float32]:
        """Item vectors of the run's SASRec, float32 `[items, dim]`; zeros for items never trained on."""
        return systems.item_vectors(self.run, self.names)

    @cached_property
    def histories(self) -> list[NDArray[np.int64]]:
        """Each user's training items, oldest first, as rows of `items`."""
        rows = pl.DataFrame({"item_id": self.names}).with_row_index("row")
        flat = training_histories(self.run).select("items").with_row_index("user").explode("items")
        numbered = flat.join(rows, left_on="items", right_on="item_id", how="left", maintain_order="left")
        users = numbered.group_by("user", maintain_order=True).agg(pl.col("row").cast(pl.Int64))
        return [row.to_numpy() for row in users["row"]]

    @cached_property
    def traffic(self) -> NDArray[np.int64]:
        """Training interactions of each item, int64 `[items]`."""
        rows = np.concatenate([np.empty(0, np.int64), *self.histories])
        return np.bincount(rows, minlength=len(self.items))

    @cached_property
    def categories(self) -> list[list[str]] | None:
        """Categories of each item, or None if the item table has no such column."""
        if "categories" not in self.items.columns:
            return None
        return [[str(name) for name in row or []] for row in self.items["categories"].to_list()]

    def source(self) -> dict[str, Any]:
        """Sources of the vectors, for the report."""
        ids = self.recipe.ids
        source: dict[str, Any] = {"inputs": ids.inputs}
        if "text" in ids.inputs:
            source |= ids.encoder.model_dump(mode="json")
        source |= {name: getattr(ids, name) for name in ("vectors", "images") if name in ids.inputs}
        return source | {"dim": int(self.vectors.shape[1])}

    def _input(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of one input, and whether an item has none. Only one of several inputs may lack vectors."""
        ids = self.recipe.ids
        if name == "text":
            return encode(item_texts(self.items, ids.encoder.fields), ids.encoder), self._none()
        if name == "collaborative":
            return self.collaborative, ~np.asarray(self.collaborative.any(axis=1))
        is_only_input = len(ids.inputs) == 1
        vectors = read_vectors(expand_home(getattr(ids, name)), self.names, partial=not is_only_input)
        return np.nan_to_num(vectors), np.asarray(np.isnan(vectors).any(axis=1))

    def _none(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.items), bool)
