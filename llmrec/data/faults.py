"""Finds rows of a log that cannot be used: without an id, without a time, with a rating that is no number."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from llmrec.data.tables import read
from llmrec.data.tables.described import PART, Interactions
from llmrec.data.tables.notes import short, tell
from llmrec.data.times.reading import UNIT_NAMES, UNITS, mixed_units, no_times
from llmrec.errors import UserError


@dataclass(frozen=True)
class Fault:
    """Rows with one kind of bad value.

    Attributes:
        column: the column's meaning.
        rows: whether each row is bad, bool `[rows]`.
        problem: what is wrong.
        key: key of the card that drops such rows; None if none does.
    """

    column: str
    rows: pl.Series
    problem: str
    key: str | None


def refuse_or_drop(
    table: Interactions, rows: pl.DataFrame, unit: int, parts: list[read.TableFile]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Drop the rows that the card lets drop, and refuse others that cannot be used.

    Args:
        table: the card's description of the log.
        rows: the log's rows as they were read, `time` in `unit`; null for what could not be read.
        unit: number of the times' units in a second.
        parts: the files of the rows, in order.

    Returns:
        The rows that stay, and the number of dropped ones by key.

    Raises:
        UserError: one line that names the first row of each kind of bad value.
    """
    if "time" in rows.columns:
        _refuse_mixed_units(rows, unit, parts)
    problems = []
    dropped: dict[str, int] = {}
    keep = pl.repeat(True, len(rows), dtype=pl.Boolean, eager=True)
    for fault in _faults(table, rows, unit, parts):
        left = fault.rows & keep  # a row without an order has neither a user nor a time: one fault
        if fault.key is not None and getattr(table, fault.key) == "drop":
            if left.any():
                dropped[fault.key] = dropped.get(fault.key, 0) + int(left.sum())
            keep &= ~fault.rows
        elif left.any():
            problems.append(replace(fault, rows=left))
    lines = _lines(problems, parts)
    if lines:
        keys = [f"`{key}: drop`" for key in dict.fromkeys(fault.key for fault in problems) if key is not None]
        way = f"; to drop such rows, write {' and '.join(keys)} into the card" if keys else ""
        raise UserError(short("; ".join(lines), 300 - len(way)) + way)
    for key, count in dropped.items():
        tell(parts[0].path.name, f"{count:,} of {len(rows):,} rows dropped, as the card says (`{key}: drop`)")
    if not keep.any():
        first = _lines(_faults(table, rows, unit, parts), parts)[0]
        raise UserError(short(f"no rows are left: {first}"))
    return (rows if keep.all() else rows.filter(keep)), dropped


def _faults(table: Interactions, rows: pl.DataFrame, unit: int, parts: list[read.TableFile]) -> list[Fault]:
    faults = []
    for name in sorted(rows.columns, key=lambda name: name not in ("user", "item")):
        column = f"(column {table.columns.get(name, name)!r})"
        nulls = rows[name].is_null() if rows[name].null_count() else None
        if name in ("user", "item") and nulls is not None:
            faults.append(Fault(name, nulls, f"an empty {name} id {column}", "without_id"))
        elif name == PART and nulls is not None:
            problem = f"names no part {column}; `split.values` in the card can say which it is"
            faults.append(Fault(name, nulls, problem, None))
        elif name == "rating" and nulls is not None:
            faults.append(Fault(name, _has_text(name, nulls, table, parts), f"not a number {column}", None))
        elif name == "time":
            if nulls is not None:
                problem = f"not a time {column} that is understood; `time_format` can describe it"
                faults.append(Fault(name, nulls, problem, "times"))
            for problem, mask in no_times(rows[name], unit).items():
                faults.append(Fault(name, mask, f"{problem} {column}", "times"))
    return [fault for fault in faults if fault.rows.any()]


def _has_text(name: str, nulls: pl.Series, table: Interactions, parts: list[read.TableFile]) -> pl.Series:
    """Return which nulls of a column of numbers stand for text, and not for a missing value."""
    text = read.identifier(pl.col(name).cast(pl.String), pl.String(), table.missing)
    frame = read.combined(parts).select(text.is_not_null())
    return nulls & frame.collect(engine="streaming")[name]


def _refuse_mixed_units(rows: pl.DataFrame, unit: int, parts: list[read.TableFile]) -> None:
    pair = mixed_units(rows["time"], unit)
    if pair is not None:
        places = [read.row_at(parts, row, "time") for row in pair]
        raise UserError(
            short(
                f"{places[0]} is in {UNIT_NAMES[unit]} since 1970, {places[1]} is not; "
                f"bring them to one unit, or write the unit of all into the card: `time_format` ({', '.join(UNITS)})",
            )
        )


def _lines(faults: list[Fault], parts: list[read.TableFile]) -> list[str]:
    """Describe the first row of each fault; the file is named where it differs from that of the fault before."""
    lines, before = [], ""
    for fault in faults:
        line = f"{read.row_at(parts, int(fault.rows.arg_true()[0]), fault.column)}: {fault.problem}"
        file = next((f"{part.path}: " for part in parts if line.startswith(f"{part.path}: ")), "")
        lines.append(line.removeprefix(file) if file == before else line)
        before = file
    return lines
