"""The interaction log: users, items, times and events as dictionary codes and numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.data.card import Table
from llmrec.data.tables import read
from llmrec.errors import UserError

_UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
TEXT_FIELDS = ("review", "summary")
"""Columns that stay text in the log."""
_YEAR = 365 * 86_400
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
_ZONED_DATES = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")


@dataclass(frozen=True)
class Log:
    """Interactions as codes.

    Attributes:
        rows: `user: u32, item: u32`, optional `time: f64` as in the file, `rating: f32`, `event: u32`, and
            `review: str`, `summary: str` as in the file.
        users: user ids; a user code is an index into it. Codes follow the order of first appearance.
        items: item ids; an item code is an index into it, in the same order.
        events: event names; an event code is an index into it.
        unit: number of the file's time units in a second.
    """

    rows: pl.DataFrame
    users: pl.Series
    items: pl.Series
    events: pl.Series
    unit: int = 1

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
            return (self.rows["time"] / self.unit).floor().cast(pl.Int64).to_numpy()
        user = self.rows["user"].to_numpy()
        start = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
        return np.arange(len(user)) - np.repeat(start, np.diff(start, append=len(user)))

    def clock(self) -> str:
        """Return the unit in which the file's times were read. Numbers below a year in seconds are positions."""
        if not self.has_times:
            return "order of the file"
        latest = cast(float, self.rows["time"].max())
        return _UNITS[self.unit] if latest >= _YEAR else "positions"


def _renumber(rows: pl.DataFrame, column: str, names: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Renumber the codes of a column in order of first appearance; return the rows and the names in use."""
    order = rows[column].unique(maintain_order=True)
    rank = np.zeros(len(names), dtype=np.uint32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.uint32)
    codes = pl.Series(column, rank[rows[column].to_numpy()])
    return rows.with_columns(codes), names[order]


def read_log(table: Table, files: list[Path], scratch: Path) -> Log:
    """Read the interactions of a dataset in one streaming pass.

    Ids become codes while reading, so that no text column is held in memory as a whole, except reviews if the card
    names them.

    Args:
        table: the card's description of the log.
        files: files of the log, read in this order.
        scratch: folder for rewritten copies.

    Raises:
        UserError: an empty id, a time that cannot be parsed or is negative, or a rating that is not a number; the
            message names the file and row of the first bad value of each kind.
    """
    parts = read.scan(table, files, scratch)
    frame = read.combined(parts)
    schema = frame.collect_schema()
    dictionaries = {name: pl.Categories.random() for name in ("user", "item", "event")}
    columns = {}
    for name, dtype in schema.items():
        if name in dictionaries:
            coded = read.identifier(pl.col(name), dtype, table.missing).cast(
                pl.Categorical(dictionaries[name])
            )
            columns[name] = coded.to_physical().cast(pl.UInt32)
        elif name == "time":
            columns[name] = _time(dtype, parts, table)
        elif name in TEXT_FIELDS:
            columns[name] = pl.col(name).cast(pl.String)
        else:
            columns[name] = pl.col(name).cast(pl.Float32, strict=False).fill_nan(None)
    (rows,) = read.collect(parts, table, frame.select(**columns))
    if rows.is_empty():
        raise UserError(f"{parts[0].path}: no interactions in it, only a header")
    _refuse_bad_values(table, rows, columns, parts)
    users, items, events = (dictionary.to_series().cast(pl.String) for dictionary in dictionaries.values())
    return Log(rows, users, items, events, _unit(rows)).compact()


def _time(dtype: pl.DataType, parts: list[read.TableFile], table: Table) -> pl.Expr:
    """Return the time as a float in the file's unit; dates become epoch seconds (UTC)."""
    column = pl.col("time")
    if dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None)
    text = column.cast(pl.String).str.strip_chars()
    (head,) = read.collect(parts, table, parts[0].frame.select(text).head(1000))
    sample = head["time"].drop_nulls()
    if len(sample) == 0 or sample.cast(pl.Float64, strict=False).is_not_null().any():
        number = text.cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number)
    text = text.str.replace(r"^(\d{4}-\d{2}-\d{2})T", "${1} ")
    dates = [text.str.to_datetime(form, time_unit="us", strict=False) for form in _DATES]
    for form in _ZONED_DATES:
        zoned = text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
        dates.append(zoned.dt.replace_time_zone(None))
    return pl.coalesce(dates).dt.epoch("us") / 1e6


def _refuse_bad_values(
    table: Table, rows: pl.DataFrame, columns: dict[str, pl.Expr], parts: list[read.TableFile]
) -> None:
    """Raise one error that names the first row of each kind of bad value."""
    problems = []
    for name in rows.columns:
        missing, column = columns[name].is_null(), f"(column {table.columns[name]!r})"
        if rows[name].null_count():
            if name == "rating":
                has_text = read.identifier(
                    pl.col(name).cast(pl.String), pl.String(), table.missing
                ).is_not_null()
                problems.append((missing & has_text, name, f"not a number {column}"))
            elif name == "time":
                problems.append((missing, name, f"not a time {column}"))
            elif name in ("user", "item"):
                problems.append((missing, name, f"an empty {name} id {column}"))
        if name == "time" and cast(float, rows[name].min() or 0) < 0:
            problems.append((columns[name] < 0, name, f"negative, or before 1970 {column}"))
    located = [(read.first_bad(parts, bad, name), problem) for bad, name, problem in problems]
    lines = [f"{where}: {problem}" for where, problem in located if where is not None]
    if lines:
        raise UserError("; ".join(lines))


def _unit(rows: pl.DataFrame) -> int:
    """Derive the time units per second from the median: 1e11 seconds is the year 5138, 1e11 milliseconds is 1973."""
    if "time" not in rows.columns:
        return 1
    median = cast(float, rows["time"].gather_every(len(rows) // 100_000 + 1).median())
    return next((10**power for power, least in ((9, 1e17), (6, 1e14), (3, 1e11)) if median >= least), 1)
