"""Items added to a catalogue or retired from it since training.

The stages' files are not touched. The changes lie in the run's folder `catalogue/`: `added.parquet`, and
`changes.json`, which names the retired items and the catalogue that the changes belong to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import layout
from llmrec.errors import UserError
from llmrec.files import atomic_write, cause_of, read_json, write_json

FOLDER, ADDED, CHANGES = "catalogue", "added.parquet", "changes.json"
LLMREC_COLUMNS = ("sid", "distance", "percentile")
"""Columns of `added.parquet` that are ours; the others are the item's fields."""


@dataclass(frozen=True)
class Changes:
    """What has changed in a catalogue since training.

    Attributes:
        added: `item_id: str, sid: list[int], title: str`, further fields, `distance: f32` to the codebooks and its
            `percentile: f32` among the training items' (null where unknown); in the order of their coming.
        retired: ids of items, trained or added, that are no longer recommended.
    """

    added: pl.DataFrame
    retired: list[str]

    def sids(self, levels: int) -> NDArray[np.int32]:
        """Semantic IDs of the added items, int32 `[added, levels]`."""
        flat: NDArray[np.int32] = self.added["sid"].explode().drop_nulls().to_numpy()
        return flat.reshape(len(self.added), levels)

    def fields(self) -> pl.DataFrame:
        """The added items as rows of `data/items.parquet` would have them."""
        return self.added.drop(LLMREC_COLUMNS)


def no_changes() -> Changes:
    """The changes of a run that has none."""
    schema: dict[str, pl.DataType] = {
        "item_id": pl.String(),
        "sid": pl.List(pl.Int32()),
        "title": pl.String(),
        "distance": pl.Float32(),
        "percentile": pl.Float32(),
    }
    return Changes(pl.DataFrame(schema=schema), [])


def catalogue_hash(base: Path, items: Sequence[str]) -> str:
    """What tells a trained catalogue from another: a hash of its items and their semantic IDs."""
    digest = hashlib.sha256((base / layout.SID_TABLE).read_bytes())
    digest.update("\n".join(items).encode())
    return digest.hexdigest()


def read_changes(run: Path, items: Sequence[str]) -> Changes | None:
    """The changes of a run's catalogue; None where there are none.

    Args:
        run: the run folder.
        items: item ids of its `base/`, in trie order.

    Raises:
        UserError: broken files, or changes of another catalogue.
    """
    path = run / FOLDER / CHANGES
    if not path.is_file():
        return None
    about = read_json(path)
    if not isinstance(about, dict) or about.get("catalogue") != catalogue_hash(run / "base", items):
        raise UserError(
            f"{path}: changes of another catalogue, trained before this one; move {path.parent} away, "
            f"and add its items anew: llmrec items RUN --add {path.with_name(ADDED)}"
        )
    retired, added = about.get("retired", []), no_changes().added
    if path.with_name(ADDED).is_file():
        try:
            added = pl.read_parquet(path.with_name(ADDED))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{path.with_name(ADDED)}: cannot be read: {cause_of(error)}") from None
    return Changes(added, retired)


def write_changes(run: Path, items: Sequence[str], changes: Changes) -> None:
    """Keep a catalogue's changes: each file whole at any moment."""
    folder = run / FOLDER
    about = {"catalogue": catalogue_hash(run / "base", items), "retired": changes.retired}
    if not changes.added.is_empty():
        with atomic_write(folder / ADDED) as partial:
            changes.added.write_parquet(partial)
    write_json(folder / CHANGES, about)
