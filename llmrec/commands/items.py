"""`llmrec items`: add items to a trained run, and retire items, without training."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from llmrec import artifacts, layout
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.changes import Changes, no_changes, read_changes, write_changes
from llmrec.catalogue.lookup import unknown_item
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
"""An item whose distance is above this percentile of the training items' distances is far from the codebooks."""
SHOWN = 5
LIST_SEPARATOR = "|"


def run(
    name: str,
    add: Path | None,
    vectors: Path | None,
    images: Path | None,
    retire: str | None,
    find: str | None = None,
) -> None:
    """Add items to a trained run's catalogue, retire others, and print how well the codebooks fit new items.

    Args:
        name: a run's name, or its folder.
        add: table of the new items: `item_id`, and any of the run's other fields.
        vectors: vectors of the new items, if the run's IDs were made from the user's own vectors.
        images: image vectors of the new items, if the run's IDs were made from such.
        retire: item ids separated by commas, or a file with one id per line.
        find: the option of the list, which does not go with a change.

    Raises:
        UserError: options that do not go together, a run without a finished sft stage, or invalid files or ids.
    """
    if add is None and (vectors or images):
        raise UserError("items: --vectors and --images belong to the items of --add, which is not given")
    if find is not None:
        raise UserError("items: --find lists items; give it without --add and --retire")
    folder = artifacts.find_run(name)
    if not (folder / layout.manifest("sft")).is_file():
        raise artifacts.unfinished(folder)
    with artifacts.lock(folder):
        catalogue = Catalogue.load(folder / BASE, as_trained=True)
        changes = read_changes(folder, catalogue.items) or no_changes()
        if add is not None:
            files = {"vectors": vectors, "images": images}
            vector_files = {name: path for name, path in files.items() if path is not None}
            changes = _add(folder, catalogue, changes, add, vector_files)
        if retire is not None:
            changes = _retire(catalogue, changes, _ids(retire), folder.name)
        count = catalogue.with_changes(changes).count
        write_changes(folder, catalogue.items, changes)
    print(
        f"{folder.name}: {count} items can be recommended; a running server uses the change after a restart"
    )


def _add(folder: Path, catalogue: Catalogue, changes: Changes, path: Path, files: dict[str, Path]) -> Changes:
    """Return the changes with a file's items: new items get semantic IDs, retired items return with their own."""
    recipe = load_run_recipe(folder)
    if not (folder / "ids" / CODEC).is_file():
        raise UserError(
            f"items: this run's IDs are of kind {recipe.ids.quantizer.kind}, which has no IDs for new items; "
            "put them into the data and train again, or make the IDs from vectors (ids.quantizer.kind)"
        )
    items = _read(path, load_items(folder))
    names, retired = items["item_id"], set(changes.retired)
    registered = {*catalogue.items, *changes.added["item_id"]}
    duplicate = next((item for item in names if item in registered - retired), None)
    if duplicate is not None:
        raise UserError(
            f"{path}: item {duplicate!r} is in the catalogue already; "
            "--add takes new items, and retired items, which return"
        )
    is_new = np.array([item not in registered for item in names], bool)
    still_retired = [item for item in changes.retired if item not in set(names)]
    print(f"{int(is_new.sum())} items added, {len(changes.retired) - len(still_retired)} back")
    changes = replace(changes, retired=still_retired)
    if not is_new.any():
        return changes
    vectors = new_items.new_item_vectors(folder, recipe, items, files, str(path))[is_new]
    rows = _assign_ids(folder, catalogue, changes, items.filter(is_new), vectors)
    return replace(changes, added=pl.concat([changes.added, rows], how="diagonal_relaxed"))


def _assign_ids(
    folder: Path, catalogue: Catalogue, changes: Changes, items: pl.DataFrame, vectors: np.ndarray
) -> pl.DataFrame:
    """Assign semantic IDs and distances to items, and print a summary."""
    codec = load_codec(folder)
    levels = catalogue.length
    trained = np.load(folder / BASE / layout.SID_TABLE, allow_pickle=False)
    taken = np.concatenate([trained, changes.sids(levels)])
    sids = new_items.assign_ids(codec, vectors, taken, catalogue.trie.codes)
    moved = int((codec.encode(vectors) != sids[:, : codec.levels]).any(axis=1).sum())
    if moved:
        print(f"{moved} of them got the next-best code, because their own code is full")
    distances = new_items.distances(codec, vectors, sids)
    percentiles = new_items.percentiles(folder, distances)
    rows = items.with_columns(
        pl.Series("sid", sids, dtype=pl.Array(pl.Int32, levels)).cast(pl.List(pl.Int32)),
        pl.Series("distance", distances, dtype=pl.Float32),
        pl.Series(
            "percentile", [None] * len(items) if percentiles is None else percentiles, dtype=pl.Float32
        ),
    )
    _print_distances(rows)
    return rows


def _print_distances(rows: pl.DataFrame) -> None:
    """Print the distances of the items from the codebooks, and the items that are far from them."""
    if rows["percentile"].null_count():
        print("items: this run has no distances to compare with; run the stage ids again", file=sys.stderr)
        return
    far = rows.filter(pl.col("percentile") >= FAR).sort("distance", descending=True)
    distance, percentile = (cast(float, rows[name].median()) for name in ("distance", "percentile"))
    print(
        f"distance to the codebooks: median {distance:.3f}, "
        f"at the {percentile:.0f}th percentile of the training items'; "
        f"{len(far)} beyond the {FAR:.0f}th"
    )
    for row in far.head(SHOWN).iter_rows(named=True):
        print(f"  far off: {row['item_id']}  {row['title'][:60]}  ({row['distance']:.3f})")


def _retire(catalogue: Catalogue, changes: Changes, items: list[str], name: str) -> Changes:
    registered = {*catalogue.items, *changes.added["item_id"]}
    unknown = next((item for item in items if item not in registered), None)
    if unknown is not None:
        raise unknown_item("--retire", unknown, sorted(registered), run=name)
    retired = list(dict.fromkeys([*changes.retired, *items]))
    print(f"{len(retired) - len(changes.retired)} items retired")
    return replace(changes, retired=retired)


def _ids(text: str) -> list[str]:
    """Return the item ids of an option: ids separated by commas, or a file with one id per line."""
    path = Path(text).expanduser()
    parts = path.read_text("utf-8").splitlines() if path.is_file() else text.split(",")
    ids = [part.strip() for part in parts if part.strip()]
    if not ids:
        raise UserError(f"--retire: no item ids in {text!r}")
    return ids


def _read(path: Path, like: pl.DataFrame) -> pl.DataFrame:
    """Read a file's items, cleaned as in the data stage, with the columns of the run's items.

    Raises:
        UserError: the file is unreadable or has no column `item_id`, or an id is empty or repeated.
    """
    if not path.is_file():
        raise UserError(f"--add: no such file: {path}")
    with tempfile.TemporaryDirectory() as scratch:
        columns = _columns(path, Path(scratch))
        if "item_id" not in columns:
            raise UserError(f"{path}: no column 'item_id' (it has {', '.join(columns)})")
        fields = [name for name in like.columns if name in columns and name not in ("item_id", "title")]
        lists = [name for name in fields if isinstance(like.schema[name], pl.List)]
        table = Table(
            path=path.name,
            columns={"item": "item_id", "title": "title" if "title" in columns else "item_id"}
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
            raise UserError(f"{path}: item {names.filter(names.is_duplicated())[0]!r} occurs twice")
        items, _ = read_items(table, [path], names, Path(scratch))
    return items.cast({name: like.schema[name] for name in items.columns}, strict=False)


def _columns(path: Path, scratch: Path) -> list[str]:
    """Return the names of a table's columns."""
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
