"""`llmrec items`: items come and go after training, without training."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from llmrec import artifacts, layout
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.changes import Changes, no_changes, read_changes, write_changes
from llmrec.commands.inspect import find_run
from llmrec.config import load_run_recipe
from llmrec.data import read
from llmrec.data.attributes import read_items
from llmrec.data.card import Table
from llmrec.data.examples import load_items
from llmrec.data.prepare import make_readable
from llmrec.errors import UserError
from llmrec.ids import new_items
from llmrec.ids.codecs.store import CODEC, load_codec
from llmrec.recommend.model_names import BASE

FAR = 99.0
"""Percentile of the training items' distances above which a new item is called far from the codebooks."""
SHOWN = 5
LIST_SEPARATOR = "|"


def run(name: str, add: Path | None, vectors: Path | None, images: Path | None, retire: str | None) -> None:
    """Add items to a trained run's catalogue, retire others, and say how well the codebooks fit them.

    Args:
        name: a run's name, or its folder.
        add: table of the new items: `item_id`, and of the run's other fields those it has.
        vectors: their own vectors, where the run's IDs were made from such.
        images: their image vectors, likewise.
        retire: ids of items, separated by commas; or a file with one a line.

    Raises:
        UserError: nothing to do, a run that is not trained, or what is wrong with the files or ids.
    """
    if add is None and retire is None:
        raise UserError("items: give --add FILE, or --retire ID,ID")
    if add is None and (vectors or images):
        raise UserError("items: --vectors and --images are those of the items of --add, which is not given")
    folder = find_run(name)
    if not (folder / layout.manifest("sft")).is_file():
        raise UserError(f"{folder}: no finished sft stage there; run `llmrec sft RECIPE` first")
    with artifacts.lock(folder):
        catalogue = Catalogue.load(folder / BASE, as_trained=True)
        changes = read_changes(folder, catalogue.items) or no_changes()
        if add is not None:
            files = {"vectors": vectors, "images": images}
            given = {name: path for name, path in files.items() if path is not None}
            changes = _add(folder, catalogue, changes, add, given)
        if retire is not None:
            changes = _retire(catalogue, changes, _ids(retire))
        count = catalogue.with_changes(changes).count
        write_changes(folder, catalogue.items, changes)
    print(f"{folder.name}: {count} items may be recommended; a server that runs shows it after a restart")


def _add(folder: Path, catalogue: Catalogue, changes: Changes, path: Path, files: dict[str, Path]) -> Changes:
    """The changes with a file's items: new ones get semantic IDs, retired ones come back under their own."""
    recipe = load_run_recipe(folder)
    if not (folder / "ids" / CODEC).is_file():
        raise UserError(
            f"items: this run's IDs are of kind {recipe.ids.quantizer.kind}, which has none for new items; "
            "put them into the data and train again, or make the IDs from vectors (ids.quantizer.kind)"
        )
    items = _read(path, load_items(folder))
    names, retired = items["item_id"], set(changes.retired)
    known = {*catalogue.items, *changes.added["item_id"]}
    there = next((item for item in names if item in known - retired), None)
    if there is not None:
        raise UserError(
            f"{path}: item {there!r} is in the catalogue already; "
            "--add takes new items, and retired ones, which come back"
        )
    fresh = np.array([item not in known for item in names], bool)
    left = [item for item in changes.retired if item not in set(names)]
    print(f"{int(fresh.sum())} items added, {len(changes.retired) - len(left)} back")
    changes = replace(changes, retired=left)
    if not fresh.any():
        return changes
    vectors = new_items.new_item_vectors(folder, recipe, items, files, str(path))[fresh]
    rows = _encoded(folder, catalogue, changes, items.filter(fresh), vectors)
    return replace(changes, added=pl.concat([changes.added, rows], how="diagonal_relaxed"))


def _encoded(
    folder: Path, catalogue: Catalogue, changes: Changes, items: pl.DataFrame, vectors: np.ndarray
) -> pl.DataFrame:
    """Items with their semantic IDs and distances; prints what is to be known about them."""
    codec = load_codec(folder)
    levels = catalogue.length
    trained = np.load(folder / BASE / layout.SID_TABLE, allow_pickle=False)
    taken = np.concatenate([trained, changes.sids(levels)])
    sids = new_items.assign_ids(codec, vectors, taken, catalogue.trie.codes)
    moved = int((codec.encode(vectors) != sids[:, : codec.levels]).any(axis=1).sum())
    if moved:
        print(f"{moved} of them under the next-best code, as the path of their own is full")
    distances = new_items.distances(codec, vectors, sids)
    percentiles = new_items.percentiles(folder, distances)
    rows = items.with_columns(
        pl.Series("sid", sids, dtype=pl.Array(pl.Int32, levels)).cast(pl.List(pl.Int32)),
        pl.Series("distance", distances, dtype=pl.Float32),
        pl.Series(
            "percentile", [None] * len(items) if percentiles is None else percentiles, dtype=pl.Float32
        ),
    )
    _tell_distances(rows)
    return rows


def _tell_distances(rows: pl.DataFrame) -> None:
    """Print how far the items lie from the codebooks, and which are far off."""
    if rows["percentile"].null_count():
        print("items: this run keeps no distances to compare with; run the stage ids again", file=sys.stderr)
        return
    far = rows.filter(pl.col("percentile") >= FAR).sort("distance", descending=True)
    print(
        f"distance to the codebooks: median {rows['distance'].median():.3f}, "
        f"at the {rows['percentile'].median():.0f}th percentile of the training items'; "
        f"{len(far)} beyond the {FAR:.0f}th"
    )
    for row in far.head(SHOWN).iter_rows(named=True):
        print(f"  far off: {row['item_id']}  {row['title'][:60]}  ({row['distance']:.3f})")


def _retire(catalogue: Catalogue, changes: Changes, items: list[str]) -> Changes:
    known = {*catalogue.items, *changes.added["item_id"]}
    unknown = next((item for item in items if item not in known), None)
    if unknown is not None:
        raise UserError(f"--retire: item {unknown[:60]!r} is not in the catalogue")
    gone = list(dict.fromkeys([*changes.retired, *items]))
    print(f"{len(gone) - len(changes.retired)} items retired")
    return replace(changes, retired=gone)


def _ids(text: str) -> list[str]:
    """Item ids of an option: separated by commas, or a file's lines."""
    path = Path(text).expanduser()
    parts = path.read_text("utf-8").splitlines() if path.is_file() else text.split(",")
    found = [part.strip() for part in parts if part.strip()]
    if not found:
        raise UserError(f"--retire: no item ids in {text!r}")
    return found


def _read(path: Path, like: pl.DataFrame) -> pl.DataFrame:
    """A file's items, cleaned as the data stage cleans them, with the columns that the run's items have.

    Raises:
        UserError: an unreadable file, no column `item_id`, or an id that is empty or there twice.
    """
    if not path.is_file():
        raise UserError(f"--add: no such file: {path}")
    with tempfile.TemporaryDirectory() as scratch:
        found = _columns(path, Path(scratch))
        if "item_id" not in found:
            raise UserError(f"{path}: no column 'item_id' (it has {', '.join(found)})")
        fields = [name for name in like.columns if name in found and name not in ("item_id", "title")]
        lists = [name for name in fields if isinstance(like.schema[name], pl.List)]
        table = Table(
            path=path.name,
            columns={"item": "item_id", "title": "title" if "title" in found else "item_id"}
            | {name: name for name in fields},
            split_on=dict.fromkeys(lists, LIST_SEPARATOR),
        )
        parts = read.scan(table, [path], Path(scratch))
        frame = read.combined(parts)
        identifier = read.identifier(pl.col("item"), frame.collect_schema()["item"])
        names = read.collect(parts, table, frame.select(item_id=identifier))[0]["item_id"]
        if names.is_empty() or names.has_nulls():
            where = read.first_bad(parts, identifier.is_null(), "item")
            raise UserError(f"{where}: every item needs an id" if where else f"{path}: no items in it")
        if names.is_duplicated().any():
            raise UserError(f"{path}: item {names.filter(names.is_duplicated())[0]!r} is there twice")
        items, _ = read_items(table, [path], names, Path(scratch))
    return items.cast({name: like.schema[name] for name in items.columns}, strict=False)


def _columns(path: Path, scratch: Path) -> list[str]:
    """Names of a table's columns."""
    table = Table(path=path.name, columns={})
    readable = make_readable(table, path, scratch)
    kind = table.format_of(path)
    try:
        if kind == "parquet":
            frame = pl.scan_parquet(readable)
        elif kind == "csv":
            frame = pl.scan_csv(readable, separator=table.separator_of(path), infer_schema=False)
        else:
            frame = pl.scan_ndjson(readable, infer_schema_length=None)
        return frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: cannot be read as {kind}: {str(error).splitlines()[0]}") from None
