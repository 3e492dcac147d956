"""Datasets of other projects: what a folder holds, and the tables and the card that are made of it.

LC-Rec, LETTER  name.inter.json, name.item.json, name.index.json in one folder
MiniOneRec      train/name*.csv, valid/name*.csv, test/name*.csv; index/name.index.json, index/name.item.json
OpenOneRec      a log with `uid, split, hist_video_pid, target_video_pid`, `*pid2sid*.parquet` with `pid, sid`, and
                `*caption*.parquet` with `pid, dense_caption`
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import polars as pl

from llmrec.config import Part
from llmrec.data.split import KNOWN, LABELS, SPLITS
from llmrec.data.tables import read
from llmrec.data.tables.described import PART, Interactions
from llmrec.data.tables.histories import joined
from llmrec.data.words import TITLE_LIMIT, clean_text
from llmrec.errors import UserError, shortened
from llmrec.files import cause_of
from llmrec.ids import exchange

GIVEN = {"kind": "given", "column": PART}
HISTORY, TARGETS = "hist_video_pid", "target_video_pid"
COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("uid", "pid", "dense_caption"), pl.String()),
    **dict.fromkeys((HISTORY, TARGETS), pl.List(pl.String())),
    "split": pl.Float64(),
    "sid": pl.List(pl.Int64()),
}
"""Column of OpenOneRec's tables → the type that it is read as."""


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
    exchange.card_path(dest)  # before the long work
    tables = {path: _columns(path) for path in sorted(folder.glob("*.parquet"))}
    logs = [path for path, columns in tables.items() if {"uid", "split", HISTORY, TARGETS} <= columns]
    if len(logs) != 1:
        raise UserError(
            f"{folder}: one log with uid, split, {HISTORY} and {TARGETS} is needed ({len(logs)} found)"
        )
    sids = _sids(folder, [path for path, columns in tables.items() if {"pid", "sid"} <= columns])
    captions = [path for path, columns in tables.items() if {"pid", "dense_caption"} <= columns]
    known = sids.select(item_id="pid")
    items = _captioned(captions[0], known) if captions else None
    rows = _rows(logs[0], known)
    index = dest / "sids.index.json"
    codes = sids["sid"].cast(pl.List(pl.Int32)).list.to_array(len(sids["sid"][0])).to_numpy()
    # Before the card, which says that all is there.
    exchange.write_index(known["item_id"].to_list(), codes, index)
    split = GIVEN | {"valid": "last"}
    return exchange.write_dataset(dest, name or folder.resolve().name, lambda: rows, items, split), index


def _columns(path: Path) -> set[str]:
    try:
        return set(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: no Parquet file: {cause_of(error)}") from None


def _read(path: Path, *columns: str) -> pl.DataFrame:
    """Return some of `COLUMNS` of a table, as the types that stand there; what is no value of its type is null."""
    try:
        frame = pl.read_parquet(path, columns=list(columns), glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None
    for column in columns:
        if not _fits(frame.schema[column], COLUMNS[column]):
            found = frame.schema[column]
            raise UserError(
                f"{path}: column {column} is of type {found}, not to be read as {COLUMNS[column]}"
            )
    return frame.cast({column: COLUMNS[column] for column in columns}, strict=False)


def _fits(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether a column of a type can be meant where another is wanted: an id may be a number or a text."""
    if found != pl.Null and isinstance(found, pl.List | pl.Array) != isinstance(wanted, pl.List):
        return False
    value, meant = (getattr(kind, "inner", kind) for kind in (found, wanted))
    if value == pl.Null or value.is_integer():
        return True
    is_text = isinstance(value, pl.String | pl.Categorical | pl.Enum)
    return (is_text and meant != pl.Int64) or (value.is_float() and meant == pl.Float64)


def _sids(folder: Path, paths: list[Path]) -> pl.DataFrame:
    """Return `pid, sid` of the tables, checked; of an item in several rows the first counts."""
    tables = [_read(path, "pid", "sid").with_columns(path=pl.lit(str(path))) for path in paths]
    rows = pl.concat(tables) if tables else pl.DataFrame()
    if rows.is_empty():
        raise UserError(f"{folder}: no *pid2sid*.parquet has rows with pid and sid")
    sid, first = pl.col("sid"), rows["sid"][0]
    width = 0 if first is None else len(first)
    is_valid = (
        pl.col("pid").is_not_null()
        & (sid.list.len() == width)
        & (sid.list.drop_nulls().list.len() == width)
        & (sid.list.min() >= 0)
        & (sid.list.max() < exchange.MAX_CODES)
        & (width <= len(exchange.LEVELS))
    )
    wrong = rows.filter(~is_valid.fill_null(False))
    if len(wrong):
        pid, codes, path = wrong.row(0)
        raise UserError(
            f"{path}: pid {pid}: its sid is {shortened(str(codes), 60)}; every item needs as many codes as the "
            f"first, 1 to {len(exchange.LEVELS)} of them, below {exchange.MAX_CODES:,}"
        )
    return rows.unique("pid", keep="first", maintain_order=True)


def _captioned(path: Path, known: pl.DataFrame) -> pl.DataFrame:
    """Return `item_id, title, description` of the items that have a caption; the title is its beginning."""
    frame = _read(path, "pid", "dense_caption").drop_nulls()
    frame = frame.select(item_id="pid", description="dense_caption").unique("item_id")
    frame = known.join(frame, on="item_id", maintain_order="left")
    title = pl.col("description").map_elements(lambda text: clean_text(text, TITLE_LIMIT).text, pl.String)
    return frame.select("item_id", title=title, description="description").drop_nulls()


def _rows(path: Path, known: pl.DataFrame) -> pl.DataFrame:
    """Return `user_id, item_id, position, part` of the log; items without a semantic ID are left out.

    Split 0 is for training; elsewhere the history is shown and the targets are test.
    """
    log = _read(path, "uid", "split", HISTORY, TARGETS).with_row_index("row")
    wrong = log.filter(pl.col("uid").is_null() | pl.col("split").is_null())
    if len(wrong):
        raise UserError(f"{path}: row {wrong['row'][0] + 1}: no uid, or a split that is no number")

    def items(column: str, otherwise: str) -> pl.DataFrame:
        part = pl.when(pl.col("split") == 0).then(pl.lit(SPLITS[0])).otherwise(pl.lit(otherwise))
        return log.select("row", user_id="uid", item_id=column, **{PART: part}).explode("item_id")

    both = pl.concat([items(HISTORY, LABELS[KNOWN]), items(TARGETS, SPLITS[2])])
    rows = both.sort("row", maintain_order=True)
    kept = rows.join(known, on="item_id", how="semi", maintain_order="left")
    if kept.is_empty():
        raise UserError(f"{path}: no item of it has a semantic ID")
    return _with_positions(kept)
