"""Lists that were made elsewhere, as a system under evaluation: read and checked as untrusted input.

They are measured like any other system's: full catalogue, the same users and targets, and seen items left out where
`data.mask_seen` leaves them out of all lists.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import polars as pl

from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import listed, short, tell
from llmrec.data.tables.read import column_names, scan
from llmrec.errors import UserError
from llmrec.evaluate.lists import SCHEMA

NAMES = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "rank": ("rank",),
    "score": ("score",),
    "split": ("split",),
}
"""Meaning of a column → the names that it may have."""
SPLITS = ("valid", "test")
DEFAULT_SPLIT = "test"
"""Split of a file without a column `split`."""


def read_given_lists(path: Path) -> pl.DataFrame:
    """Read a file of lists: CSV, TSV, JSON lines (each also `.gz`) or Parquet.

    Args:
        path: the file, with the columns `user`, `item`, `rank` or `score` or both, and optionally `split`. Rank 1 is
            the best; without ranks, the highest score is, and the earlier row wins a tie.

    Returns:
        `split, user_id, item_id, rank, score`, sorted by rank; ranks count 1, 2, 3 …

    Raises:
        UserError: the file cannot be read, a column is missing, or a value is empty or not what it should be.
    """
    if not path.is_file():
        raise UserError(f"eval.lists: {path}: no such file")
    with tempfile.TemporaryDirectory() as scratch:
        frame = _columns(path, Path(scratch))
    _check_cells(frame, path)
    frame = _with_numbers(frame, path)
    order = ["rank"] if "rank" in frame.columns else ["score"]
    keys = ["split", "user_id"]
    if order == ["rank"]:
        twice = frame.filter(pl.struct(*keys, "rank").is_duplicated())
        if len(twice):
            raise UserError(f"{path}: user {_shown(twice['user_id'][0])} has rank {twice['rank'][0]} twice")
    ordered = frame.sort(order, descending=order == ["score"], maintain_order=True)
    score = pl.col("score") if "score" in frame.columns else -pl.col("rank").cast(pl.Float64)
    return ordered.select(
        *keys, "item_id", rank=(pl.int_range(pl.len()) + 1).over(keys).cast(pl.Int32), score=score
    ).sort("split", "user_id", "rank", maintain_order=True)


def lists_of_split(
    given: pl.DataFrame,
    split: str,
    examples: pl.DataFrame,
    catalogue: Sequence[str],
    k: int,
    mask_seen: bool,
    name: str,
) -> pl.DataFrame | None:
    """Return the lists of a split's users, and say on stderr what is wrong with them.

    Users without a list count as misses, and items outside the catalogue as invalid recommendations.

    Args:
        given: the return value of `read_given_lists`.
        split: the split under evaluation.
        examples: `user_id, history: list[str], target` of its users.
        catalogue: all item ids.
        k: length of the lists.
        mask_seen: whether items of the history are left out.
        name: the system, for messages.

    Returns:
        `user_id, rank, item_id, score`; None if the file has no list for the split.

    Raises:
        UserError: the file has lists for the split, but none of a user under evaluation.
    """
    rows = given.filter(pl.col("split") == split)
    if rows.is_empty():
        tell(name, f"no lists for the split {split}; it is left out there")
        return None
    known = rows.join(examples, on="user_id", how="semi")
    if known.is_empty():
        raise UserError(
            f"{name}: no list is of a user of the split {split}; its users are {listed(examples['user_id'][:3])} …, "
            f"those of the file {listed(rows['user_id'].unique(maintain_order=True)[:3])} …"
        )
    if mask_seen:
        seen = examples.select("user_id", item_id=pl.col("history")).explode("item_id", empty_as_null=False)
        known = known.join(seen.unique(), on=["user_id", "item_id"], how="anti", maintain_order="left")
    ranked = known.with_columns(rank=(pl.int_range(pl.len()) + 1).over("user_id").cast(pl.Int32))
    lists = ranked.filter(pl.col("rank") <= k).select(*SCHEMA).cast(SCHEMA)
    _tell_gaps(lists, examples, catalogue, name, split)
    return lists


def _columns(path: Path, scratch: Path) -> pl.DataFrame:
    """Read the known columns, as text or with Parquet's types, named by their meaning."""
    plain = Table(path=path.name, columns={})
    names = column_names(plain, path, scratch, {"user", "user_id"})
    columns = {
        meaning: found[0]
        for meaning, options in NAMES.items()
        if (found := [option for option in options if option in names])
    }
    lacking = [meaning for meaning in ("user", "item") if meaning not in columns]
    if lacking or not {"rank", "score"} & set(columns):
        raise UserError(
            f"{path}: no column {lacking[0] if lacking else 'rank or score'!r}; lists need user, item, and rank or "
            f"score; it has {listed(names)}"
        )
    table = Table(path=path.name, columns=columns)
    try:
        frame = scan(table, [path], scratch)[0].frame.collect()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: cannot be read: {short(str(error))}") from None
    texts = {"user": "user_id", "item": "item_id"}
    frame = frame.rename(texts)
    if "split" not in frame.columns:
        frame = frame.with_columns(split=pl.lit(DEFAULT_SPLIT))
    return frame.with_columns(pl.col("user_id", "item_id", "split").cast(pl.String).str.strip_chars())


def _check_cells(frame: pl.DataFrame, path: Path) -> None:
    """Check that no cell is empty, and that splits are known."""
    if frame.is_empty():
        raise UserError(f"{path}: no rows")
    for name in frame.columns:
        empty = frame[name].is_null() | (frame[name].cast(pl.String) == "")
        if empty.any():  # text that is empty, or no value
            raise UserError(f"{path}: row {(empty.arg_max() or 0) + 1}: {name} is empty")
    others = frame.filter(~pl.col("split").is_in(SPLITS))
    if len(others):
        raise UserError(f"{path}: split {_shown(others['split'][0])}; splits are {' and '.join(SPLITS)}")


def _with_numbers(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Convert ranks to whole numbers from 1, and scores to finite numbers."""
    for name in ("rank", "score"):
        if name not in frame.columns:
            continue
        values = frame[name].cast(pl.Float64, strict=False)
        good = values.is_not_null() & values.is_finite()
        if name == "rank":
            good &= (values >= 1) & (values == values.floor()) & (values < 2**31)
        if not good.all():
            row = (~good).arg_max() or 0
            needed = "a whole number from 1" if name == "rank" else "a finite number"
            raise UserError(f"{path}: row {row + 1}: {name} is {_shown(frame[name][row])}, not {needed}")
        frame = frame.with_columns(values.cast(pl.Int64) if name == "rank" else values)
    return frame


def _tell_gaps(
    lists: pl.DataFrame, examples: pl.DataFrame, catalogue: Collection[str], name: str, split: str
) -> None:
    """Say how many users have no list, and how many places hold an unknown item."""
    missing = len(examples) - lists["user_id"].n_unique()
    if missing:
        tell(name, f"{missing:,} of {len(examples):,} {split} users have no list, and count as misses")
    unknown = lists.filter(~pl.col("item_id").is_in(list(catalogue)))
    if len(unknown):
        first = _shown(unknown["item_id"][0])
        tell(name, f"{len(unknown):,} places of {split} lists hold no item of the catalogue, such as {first}")


def _shown(value: object) -> str:
    return short(repr(value), 60)
