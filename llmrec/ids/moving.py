"""Datasets of other projects: what a folder holds, and the tables and the card that are made of it.

LC-Rec, LETTER  name.inter.json, name.item.json, name.index.json in one folder
MiniOneRec      train/name*.csv, valid/name*.csv, test/name*.csv; index/name.index.json, index/name.item.json
OpenOneRec      a log with `uid, split, hist_video_pid, target_video_pid`, `*pid2sid*.parquet` with `pid, sid`, and
                `*caption*.parquet` with `pid, dense_caption`
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from llmrec.config import Part
from llmrec.data.split import KNOWN, LABELS, SPLITS
from llmrec.data.tables import read
from llmrec.data.tables.described import PART, Interactions
from llmrec.data.tables.histories import joined
from llmrec.data.words import TITLE_LIMIT, clean_text
from llmrec.errors import UserError
from llmrec.ids import exchange

GIVEN = {"kind": "given", "column": PART}
HISTORY, TARGETS = "hist_video_pid", "target_video_pid"


def import_folder(folder: Path, dest: Path, name: str | None = None) -> tuple[Path, Path | None]:
    """Convert a folder of another project's files into a dataset.

    Args:
        folder: the files, as the project publishes them.
        dest: destination of the tables and the card; created if missing.
        name: which dataset, if the folder holds several.

    Returns:
        The path of the card, and that of the index of semantic IDs; None if there is none, or there are several.

    Raises:
        UserError: files of no such project, several datasets and no name, a file of another form, or a card already
            at `dest`.
    """
    if (folder / "train").is_dir():
        return _of_windows(folder, dest, name)
    if list(folder.glob("*pid2sid*.parquet")):
        return _of_parquet(folder, dest, name)
    card = exchange.to_tables(folder, dest, name)
    found = sorted(folder.glob(f"{name or '*'}.index.json"))
    return card, found[0] if len(found) == 1 else None


def _of_windows(folder: Path, dest: Path, name: str | None) -> tuple[Path, Path | None]:
    """MiniOneRec: rows of a target and the ten items before it."""
    indices = {path.name.removesuffix(".index.json"): path for path in sorted(folder.rglob("*.index.json"))}
    if name is None and len(indices) != 1:
        raise UserError(
            f"{folder}: one *.index.json is needed ({', '.join(indices) or 'none'} found); --name chooses"
        )
    chosen = next(iter(indices)) if name is None else name
    if chosen not in indices:
        raise UserError(f"{folder}: no {chosen}.index.json; there are {', '.join(indices) or 'none'}")
    files = {part: sorted((folder / part).glob(f"{chosen}*.csv")) for part in SPLITS}
    for part, paths in files.items():
        if not paths:
            raise UserError(
                f"{folder / part}: no {chosen}*.csv; MiniOneRec's folder has one for train, valid and test"
            )
    items = exchange.read_items(indices[chosen].with_name(f"{chosen}.item.json"))
    card = exchange.write_dataset(dest, chosen, lambda: _windows(files), items, GIVEN)
    return card, indices[chosen]


def _windows(files: dict[Part, list[Path]]) -> pl.DataFrame:
    """Return `user_id, item_id, position, part` of MiniOneRec's files by part."""
    columns = {"user": "user_id", "item": "item_id", "history": "history_item_id"}
    table = Interactions.model_validate({"path": "*.csv", "columns": columns})
    paths = [(part, path) for part, found in files.items() for path in found]
    with tempfile.TemporaryDirectory() as scratch:
        opened = read.scan(table, [path for _, path in paths], Path(scratch))
        parts = [
            replace(file, frame=file.frame.with_columns(pl.lit(part).alias(PART)))
            for (part, _), file in zip(paths, opened, strict=True)
        ]
        log = joined(parts, table, {name: code for code, name in enumerate(LABELS)}).frame.collect()
    return _with_positions(log.rename({"user": "user_id", "item": "item_id"}))


def _with_positions(log: pl.DataFrame) -> pl.DataFrame:
    position = pl.int_range(pl.len()).over("user_id").alias("position")
    return log.select("user_id", "item_id", position, PART)


def _of_parquet(folder: Path, dest: Path, name: str | None) -> tuple[Path, Path]:
    """OpenOneRec: one row a user with a history and its targets; items without captions are their ids."""
    tables = {path: set(pl.read_parquet_schema(path)) for path in sorted(folder.glob("*.parquet"))}
    logs = [path for path, columns in tables.items() if {"uid", "split", HISTORY, TARGETS} <= columns]
    if len(logs) != 1:
        raise UserError(
            f"{folder}: one log with uid, split, {HISTORY} and {TARGETS} is needed ({len(logs)} found)"
        )
    sids = pl.concat(
        [
            pl.read_parquet(path, columns=["pid", "sid"])
            for path, columns in tables.items()
            if {"pid", "sid"} <= columns
        ]
    ).unique("pid", keep="first", maintain_order=True)
    captions = [path for path, columns in tables.items() if {"pid", "dense_caption"} <= columns]
    known = sids.select(item_id=pl.col("pid").cast(pl.String))
    items = _captioned(captions[0], known) if captions else None
    card = exchange.write_dataset(
        dest, name or folder.resolve().name, lambda: _rows(logs[0], known), items, GIVEN | {"valid": "last"}
    )
    index = dest / "sids.index.json"
    exchange.write_index(known["item_id"].to_list(), np.array(sids["sid"].to_list(), np.int32), index)
    return card, index


def _captioned(path: Path, known: pl.DataFrame) -> pl.DataFrame:
    """Return `item_id, title, description` of the items that have a caption; the title is its beginning."""
    frame = pl.read_parquet(path, columns=["pid", "dense_caption"]).drop_nulls()
    frame = frame.select(item_id=pl.col("pid").cast(pl.String), description="dense_caption").unique("item_id")
    frame = known.join(frame, on="item_id", maintain_order="left")
    title = pl.col("description").map_elements(lambda text: clean_text(text, TITLE_LIMIT).text, pl.String)
    return frame.select("item_id", title=title, description="description").drop_nulls()


def _rows(path: Path, known: pl.DataFrame) -> pl.DataFrame:
    """Return `user_id, item_id, position, part` of the log; items without a semantic ID are left out."""
    frame = pl.read_parquet(path, columns=["uid", "split", HISTORY, TARGETS])
    rows = pl.DataFrame(
        list(_interactions(frame)),
        schema=dict.fromkeys(("user_id", "item_id", PART), pl.String),
        orient="row",
    )
    kept = rows.join(known, on="item_id", how="semi", maintain_order="left")
    if kept.is_empty():
        raise UserError(f"{path}: no item of it has a semantic ID")
    return _with_positions(kept)


def _interactions(frame: pl.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield user, item and part. Split 0 is for training; elsewhere the history is shown and the targets are test."""
    for user, split, history, targets in frame.iter_rows():
        is_train = int(split) == 0
        for item in history or []:
            yield str(user), str(item), SPLITS[0] if is_train else LABELS[KNOWN]
        for item in targets or []:
            yield str(user), str(item), SPLITS[0] if is_train else SPLITS[2]
