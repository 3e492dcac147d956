"""The interaction log: users, items, times and events as dictionary codes and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.data.faults import refuse_or_drop
from llmrec.data.split import LABELS
from llmrec.data.tables import histories, read
from llmrec.data.tables.described import PART, Interactions
from llmrec.data.tables.explode import explode, matching, refuse_objects
from llmrec.data.tables.notes import tell
from llmrec.data.times.reading import (
    UNIT_NAMES,
    Reading,
    are_positions,
    as_floats,
    date_of,
    derived_unit,
    reading,
)
from llmrec.errors import UserError

_SAMPLE = 1_000
_DECIMALS = r"^(\s*[-+]?\d+),(\d{1,2}\s*)$"
TEXT_FIELDS = ("review", "summary")
"""Columns that stay text in the log."""


@dataclass(frozen=True)
class Log:
    """Interactions as codes.

    Attributes:
        rows: `user: u32, item: u32`, optional `time: i64 | f64` in `unit`, `rating: f32`, `event: u32`, and
            `review: str`, `summary: str` as in the file; `part: u8`, an index into `split.LABELS`, of a given split.
        users: user ids; a user code is an index into it. Codes follow the order of first appearance.
        items: item ids; an item code is an index into it, in the same order.
        events: event names; an event code is an index into it.
        unit: number of the times' units in a second.
        has_dates: whether the file's times were dates and not numbers.
        dropped: number of the file's rows that were left out, by reason.
    """

    rows: pl.DataFrame
    users: pl.Series
    items: pl.Series
    events: pl.Series
    unit: int = 1
    has_dates: bool = False
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def has_times(self) -> bool:
        """Whether the file has times; otherwise the order of its rows counts."""
        return "time" in self.rows.columns

    def keep(self, mask: Any) -> Log:
        """Return the log with the rows that a boolean mask selects; codes stay the same."""
        return replace(self, rows=self.rows.filter(mask))

    def compact(self) -> Log:
        """Renumber users and items in order of first appearance, and drop those without rows."""
        rows, users = _renumber(self.rows, "user", self.users)
        rows, items = _renumber(rows, "item", self.items)
        return replace(self, rows=rows, users=users, items=items)

    def seconds(self) -> npt.NDArray[np.int64]:
        """Return the time of each row of an ordered log in seconds; without times, its index in its user's rows."""
        if self.has_times:
            return (self.rows["time"] // self.unit).cast(pl.Int64).to_numpy()
        user = self.rows["user"].to_numpy()
        start = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
        return np.arange(len(user)) - np.repeat(start, np.diff(start, append=len(user)))

    def clock(self) -> str:
        """Return the unit in which the file's times were read. Numbers below a year in seconds are positions."""
        if not self.has_times:
            return "order of the file"
        if self.has_dates:
            return "dates"
        return "positions" if are_positions(self.rows["time"], self.unit) else UNIT_NAMES[self.unit]


def _renumber(rows: pl.DataFrame, column: str, names: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Renumber the codes of a column in order of first appearance; return the rows and the names in use."""
    order = rows[column].unique(maintain_order=True)
    rank = np.zeros(len(names), dtype=np.uint32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.uint32)
    codes = pl.Series(column, rank[rows[column].to_numpy()])
    return rows.with_columns(codes), names[order]


def read_log(
    table: Interactions,
    files: list[Path],
    scratch: Path,
    parts_of_files: Sequence[str] = (),
    words: Mapping[str, int] | None = None,
    joined: Sequence[Path] = (),
) -> Log:
    """Read the interactions of a dataset in one streaming pass.

    Ids become codes while reading, so that no text column is held in memory as a whole, except reviews if the card
    names them.

    Args:
        table: the card's description of the log.
        files: files of the log, read in this order.
        scratch: folder for rewritten copies.
        parts_of_files: part of a given split that each file holds; empty if a column says so, or nothing does.
        words: name of a part → index into `split.LABELS`; None if the split is not given.
        joined: files of the table that `table.join` describes.

    Raises:
        UserError: an empty id, a time that cannot be parsed or stands for no time, times in two units, or a rating
            that is not a number; the message names the file and row of the first bad value of each kind.
    """
    parts = read.scan(table, files, scratch, joined)
    parts, words = _as_interactions(table, parts, parts_of_files, dict(words or {}))
    frame = read.combined(parts)
    how = None
    if "time" in table.columns:
        how = reading(
            pl.col("time"), parts, table.time_formats(), table.missing, has_clock="{" in table.columns["time"]
        )
    rows, names = _collect(table, parts, frame, how, words)
    if how is not None and how.unit is None and _has_decimals(rows, frame):
        # The first values were whole numbers, and later ones are not.
        how = as_floats(pl.col("time").cast(pl.String).str.strip_chars())
        rows, names = _collect(table, parts, frame, how, words)
    if rows.is_empty():
        raise UserError(f"{parts[0].path}: no interactions in it, only a header")
    unit = 1 if how is None else how.unit or derived_unit(rows["time"])
    empty = [name for name in rows.columns if rows[name].null_count() == len(rows)]
    rows, dropped = refuse_or_drop(table, rows, unit, parts)
    for name in empty:
        tell(files[0].name, f"column {table.columns.get(name)!r} ({name}) holds no value")
    users, items, events = names
    has_dates = how is not None and how.name != "numbers"
    log = Log(rows, users, items, events, unit, has_dates, dropped).compact()
    _tell_times(log, how, files)
    return log


def _as_interactions(
    table: Interactions,
    parts: list[read.TableFile],
    parts_of_files: Sequence[str],
    words: dict[str, int],
) -> tuple[list[read.TableFile], dict[str, int]]:
    """Make the files of a log one row an interaction, with the part of each row where it is given.

    Returns:
        The files, and name of a part → index into `split.LABELS`.
    """
    names = {name: code for code, name in enumerate(LABELS)}
    if parts_of_files and PART not in table.columns:
        words = names
        parts = [
            replace(part, frame=part.frame.with_columns(pl.lit(name).alias(PART)))
            for part, name in zip(parts, parts_of_files, strict=True)
        ]
    if "history" in table.columns:
        return [histories.joined(parts, table, words)], names
    refuse_objects(parts, table)
    return matching(explode(parts, table), table.pattern), words


def _collect(
    table: Interactions,
    parts: list[read.TableFile],
    frame: pl.LazyFrame,
    how: Reading | None,
    words: dict[str, int],
) -> tuple[pl.DataFrame, list[pl.Series]]:
    """Read all rows as codes and numbers; return them with the users', items' and events' names."""
    dictionaries = {name: pl.Categories.random() for name in ("user", "item", "event")}
    columns = {}
    for name, dtype in frame.collect_schema().items():
        if name in dictionaries:
            coded = read.identifier(pl.col(name), dtype, table.missing).cast(
                pl.Categorical(dictionaries[name])
            )
            columns[name] = coded.to_physical().cast(pl.UInt32)
        elif name == "time" and how is not None:
            columns[name] = how.values
        elif name == PART:
            columns[name] = read.part_code(pl.col(name), dtype, words)
        elif name in TEXT_FIELDS:
            columns[name] = pl.col(name).cast(pl.String)
        else:
            columns[name] = _number(name, dtype, parts).cast(pl.Float32, strict=False).fill_nan(None)
    (rows,) = read.collect(parts, table, frame.select(**columns))
    return rows, [dictionary.to_series().cast(pl.String) for dictionary in dictionaries.values()]


def _number(name: str, dtype: pl.DataType, parts: list[read.TableFile]) -> pl.Expr:
    """Return a column of ratings, with a point in place of the comma before decimals (`3,5`), if some have one."""
    has_comma = dtype == pl.String and any(
        read.sample(part, name, _SAMPLE).str.contains(",", literal=True).any() for part in parts
    )
    return pl.col(name).str.replace(_DECIMALS, "$1.$2") if has_comma else pl.col(name)


def _has_decimals(rows: pl.DataFrame, frame: pl.LazyFrame) -> bool:
    """Whether integers were read from a column of text that also holds numbers with decimals."""
    if rows["time"].dtype != pl.Int64 or not rows["time"].null_count():
        return False
    if frame.collect_schema()["time"] != pl.String:
        return False
    text = pl.col("time").str.strip_chars()
    is_number = text.cast(pl.Int64, strict=False).is_null() & text.cast(pl.Float64, strict=False).is_finite()
    return bool(frame.select(is_number.any()).collect(engine="streaming").item())


def _tell_times(log: Log, how: Reading | None, files: list[Path]) -> None:
    """Say how times were read, and over which days."""
    if how is None:
        return
    name = log.clock()
    first, last = (cast(float, bound) for bound in (log.rows["time"].min(), log.rows["time"].max()))
    if name == "positions":
        span = f"positions, {first:,.0f} to {last:,.0f}"
    else:
        name = how.name if log.has_dates else f"{name} since 1970"
        span = f"{name}, {date_of(first, log.unit)} to {date_of(last, log.unit)} (UTC)"
    doubt = (
        "; if day and month are the other way round, write `time_format` into the card"
        if how.is_doubtful
        else ""
    )
    tell(files[0].name, f"times read as {span}{doubt}")
