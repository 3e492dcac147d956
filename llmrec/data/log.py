"""The interaction log: who chose what, when, as dictionary codes and numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.data import read
from llmrec.data.card import Table
from llmrec.errors import UserError

_UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
TEXT_FIELDS = ("review", "summary")
_YEAR = 365 * 86_400
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
_ZONED_DATES = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")


@dataclass(frozen=True)
class Log:
    """Interactions as codes.

    Attributes:
        rows: `user: u32, item: u32`, optional `time: f64` as in the file, `rating: f32`, `event: u32`, and
            `review: str`, `summary: str` as in the file.
        users: user ids; a code is a position in it. Codes count users in order of first appearance.
        items: item ids, in the same way.
        events: event names.
        unit: how many of the file's time units make a second.
    """

    rows: pl.DataFrame
    users: pl.Series
    items: pl.Series
    events: pl.Series
    unit: int = 1

    @property
    def has_times(self) -> bool:
        """Whether the file gave times; otherwise its order is the order."""
        return "time" in self.rows.columns

    def keep(self, mask: Any) -> Log:
        """The rows where a boolean mask holds; codes unchanged."""
        return replace(self, rows=self.rows.filter(mask))

    def compact(self) -> Log:
        """Renumber users and items in order of first appearance, without those that have no rows."""
        rows, users = _renumber(self.rows, "user", self.users)
        rows, items = _renumber(rows, "item", self.items)
        return replace(self, rows=rows, users=users, items=items)

    def seconds(self) -> npt.NDArray[np.int64]:
        """Time of each row of an ordered log in seconds; without times, its place in the user's history."""
        if self.has_times:
            return (self.rows["time"] / self.unit).floor().cast(pl.Int64).to_numpy()
        user = self.rows["user"].to_numpy()
        start = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
        return np.arange(len(user)) - np.repeat(start, np.diff(start, append=len(user)))

    def clock(self) -> str:
        """What the file's times were taken for; numbers below a year's seconds are positions."""
        if not self.has_times:
            return "order of the file"
        latest = cast(float, self.rows["time"].max())
        return _UNITS[self.unit] if latest >= _YEAR else "positions"


def _renumber(rows: pl.DataFrame, column: str, names: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    order = rows[column].unique(maintain_order=True)
    rank = np.zeros(len(names), dtype=np.uint32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.uint32)
    codes = pl.Series(column, rank[rows[column].to_numpy()])
    return rows.with_columns(codes), names[order]


def read_log(table: Table, files: list[Path], scratch: Path) -> Log:
    """Read the interactions of a dataset in one streaming pass.

    Ids become codes on the way, so that no column of text is held whole, but reviews where the card names them.

    Args:
        table: the card's description.
        files: its files, read in this order.
        scratch: folder for rewritten copies.

    Raises:
        UserError: naming file and row of each kind of bad value: an empty id, a time that is unparsable or
            negative, a rating that is no number.
    """
    parts = read.scan(table, files, scratch)
    frame = read.combined(parts)
    schema = frame.collect_schema()
    dictionaries = {name: pl.Categories.random() for name in ("user", "item", "event")}
    columns = {}
    for name, dtype in schema.items():
        if name in dictionaries:
            coded = read.identifier(pl.col(name), dtype).cast(pl.Categorical(dictionaries[name]))
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
    """Time as a float of whatever unit the file has; dates become epoch seconds (UTC)."""
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
        missing, shown = columns[name].is_null(), f"(column {table.columns[name]!r})"
        if rows[name].null_count():
            if name == "rating":
                given = read.identifier(pl.col(name).cast(pl.String), pl.String()).is_not_null()
                problems.append((missing & given, name, f"not a number {shown}"))
            elif name == "time":
                problems.append((missing, name, f"not a time {shown}"))
            elif name in ("user", "item"):
                problems.append((missing, name, f"an empty {name} id {shown}"))
        if name == "time" and cast(float, rows[name].min() or 0) < 0:
            problems.append((columns[name] < 0, name, f"negative, or before 1970 {shown}"))
    found = [(read.first_bad(parts, bad, name), what) for bad, name, what in problems]
    lines = [f"{where}: {what}" for where, what in found if where is not None]
    if lines:
        raise UserError("; ".join(lines))


def _unit(rows: pl.DataFrame) -> int:
    """Time units per second, by the median: 1e11 seconds is the year 5138, 1e11 milliseconds is 1973."""
    if "time" not in rows.columns:
        return 1
    median = cast(float, rows["time"].gather_every(len(rows) // 100_000 + 1).median())
    return next((10**power for power, least in ((9, 1e17), (6, 1e14), (3, 1e11)) if median >= least), 1)
