"""Items added to a catalogue or retired from it since training.

The stages' files are not touched. The changes lie in the run's folder `catalogue/`: `added.parquet`, and
`changes.json`, which names the retired items and the catalogue that the changes belong to.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import layout
from llmrec.artifacts import read_manifest
from llmrec.errors import UserError
from llmrec.files import atomic_write, cause_of, read_json, write_json

FOLDER, ADDED, CHANGES = "catalogue", "added.parquet", "changes.json"
LLMREC_COLUMNS = ("sid", "token", "distance", "percentile")
"""Columns of `added.parquet` that are ours; the others are the item's fields."""


@dataclass(frozen=True)
class Changes:
    """What has changed in a catalogue since training.

    Attributes:
        added: `item_id: str, sid: list[int], title: str`, further fields, `distance: f32` to the codebooks and its
            `percentile: f32` among the training items' (null where unknown); in the order of their coming. Where
            items have codes of their own, `token: i64` is the id of the token that the item's last code has in the
            grown checkpoint; null elsewhere.
        retired: ids of items, trained or added, that are no longer recommended.
    """

    added: pl.DataFrame
    retired: list[str]

    def sids(self, levels: int) -> NDArray[np.int32]:
        """Semantic IDs of the added items, int32 `[added, levels]`."""
        flat: NDArray[np.int32] = self.added["sid"].explode().drop_nulls().to_numpy()
        return flat.reshape(len(self.added), levels)

    @property
    def new_tokens(self) -> NDArray[np.int64]:
        """Token ids of the codes that came with added items, behind the trained codes of the last level, in order."""
        if "token" not in self.added.columns:  # written before checkpoints grew
            return np.empty(0, np.int64)
        grown = self.added.filter(pl.col("token").is_not_null())
        return grown.sort(pl.col("sid").list.last())["token"].to_numpy(writable=True)

    @property
    def checkpoint(self) -> str | None:
        """The run's folder of the checkpoint that has tokens for the added items; None where `base/` has them.

        It is a folder like `base/`. Its name has the number of added items, so `added.parquet`, which is replaced in
        one step, says which folder is read.
        """
        return f"{FOLDER}/{layout.BASE}-{len(self.added)}" if len(self.new_tokens) else None

    def fields(self) -> pl.DataFrame:
        """The added items as rows of `data/items.parquet` would have them."""
        return self.added.drop(LLMREC_COLUMNS, strict=False)


def no_changes() -> Changes:
    """The changes of a run that has none."""
    schema: dict[str, pl.DataType] = {
        "item_id": pl.String(),
        "sid": pl.List(pl.Int32()),
        "title": pl.String(),
        "token": pl.Int64(),
        "distance": pl.Float32(),
        "percentile": pl.Float32(),
    }
    return Changes(pl.DataFrame(schema=schema), [])


def catalogue_hash(base: Path, items: Sequence[str]) -> str:
    """What tells a trained catalogue from another: a hash of its items and their semantic IDs."""
    digest = hashlib.sha256((base / layout.SID_TABLE).read_bytes())
    digest.update("\n".join(items).encode())
    return digest.hexdigest()


def trained_weights(run: Path) -> str | None:
    """What tells a run's trained base from that of another training: a hash of its files' hashes; None if unknown."""
    manifest = read_manifest(run, "sft")
    outputs = {} if manifest is None else manifest.get("outputs", {})
    files = sorted(item for item in outputs.items() if item[0].startswith(f"{layout.BASE}/"))
    return hashlib.sha256(repr(files).encode()).hexdigest() if files else None


def read_changes(run: Path, items: Sequence[str]) -> Changes | None:
    """The changes of a run's catalogue; None where there are none.

    Args:
        run: the run folder.
        items: item ids of its `base/`, in trie order.

    Raises:
        UserError: broken files, changes of another catalogue, or new tokens of another training.
    """
    path = run / FOLDER / CHANGES
    if not path.is_file():
        return None
    about = read_json(path)
    advice = (
        f"move {path.parent} away, and add its items anew: llmrec items RUN --add {path.with_name(ADDED)}"
    )
    if not isinstance(about, dict) or about.get("catalogue") != catalogue_hash(run / "base", items):
        raise UserError(f"{path}: changes of another catalogue, trained before this one; {advice}")
    retired, added = about.get("retired", []), no_changes().added
    if path.with_name(ADDED).is_file():
        try:
            added = pl.read_parquet(path.with_name(ADDED))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{path.with_name(ADDED)}: cannot be read: {cause_of(error)}") from None
    changes = Changes(added, retired)
    if changes.checkpoint is not None and about.get("weights") != trained_weights(run):
        raise UserError(f"{path}: the model has been trained again since its tokens for new items; {advice}")
    return changes


def write_changes(run: Path, items: Sequence[str], changes: Changes) -> None:
    """Keep a catalogue's changes: each file whole at any moment.

    Grown checkpoints that are no longer read are deleted.
    """
    folder = run / FOLDER
    about = {
        "catalogue": catalogue_hash(run / "base", items),
        "weights": trained_weights(run),
        "retired": changes.retired,
    }
    if not changes.added.is_empty():
        with atomic_write(folder / ADDED) as partial:
            changes.added.write_parquet(partial)
    write_json(folder / CHANGES, about)
    for path in folder.glob(f"*{layout.BASE}-*"):
        if path.relative_to(run).as_posix() != changes.checkpoint:
            shutil.rmtree(path, ignore_errors=True)
