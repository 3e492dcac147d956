"""Reads the tables that a card describes, lazily, and locates bad rows for error messages."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec.data.card import Table
from llmrec.data.prepare import UNIT_SEPARATOR, make_readable
from llmrec.errors import UserError

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: the file as the user knows it.
        readable: the file that Polars reads: the same file, or a rewritten copy.
        frame: its columns, named by their meaning (`user`, `item`, …); text, except for typed Parquet columns.
    """

    path: Path
    readable: Path
    frame: pl.LazyFrame


def scan(table: Table, files: list[Path], scratch: Path) -> list[TableFile]:
    """Open the files of a table lazily.

    Args:
        table: the card's description of the table.
        files: files of the table.
        scratch: folder for rewritten copies (gzip and the like).

    Raises:
        UserError: an unreadable or empty file, or a missing column.
    """
    return [_open(table, path, make_readable(table, path, scratch)) for path in files]


def _open(table: Table, path: Path, readable: Path) -> TableFile:
    wanted = {column for text in table.columns.values() for column in _PLACEHOLDER.findall(text) or [text]}
    wanted.update(column for flags in table.flags.values() for column in flags)
    kind = table.format_of(path)
    try:
        if kind == "parquet":
            frame = pl.scan_parquet(readable)
        elif kind == "csv":
            frame = _scan_csv(table, path, readable)
        else:
            frame = pl.scan_ndjson(readable, schema=dict.fromkeys(sorted(wanted), pl.String))
        names = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(table, path, readable, error) from None
    problems = []
    for column in sorted(wanted - set(names)):
        near = difflib.get_close_matches(column, names, n=1)
        problems.append(
            f"no column {column!r} ({f'did you mean {near[0]!r}?' if near else 'it has ' + ', '.join(names)})"
        )
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}; correct `columns` in the card")
    columns = {name: _column(text) for name, text in table.columns.items()}
    return TableFile(
        path, readable, frame.select(**columns, **{name: _flags(of) for name, of in table.flags.items()})
    )


def _scan_csv(table: Table, path: Path, readable: Path) -> pl.LazyFrame:
    separator = table.separator_of(path)
    return pl.scan_csv(
        readable,
        separator=separator if len(separator) == 1 else UNIT_SEPARATOR,
        has_header=table.header is True,
        new_columns=table.header if isinstance(table.header, list) else None,
        quote_char=table.quote,
        infer_schema=False,
    )


def _column(text: str) -> pl.Expr:
    """Return a column, or a filled template of several. If one of them is null, the first column is used alone."""
    names = _PLACEHOLDER.findall(text)
    if not names:
        return pl.col(text)
    filled = pl.format(_PLACEHOLDER.sub("{}", text), *(pl.col(name).cast(pl.String) for name in names))
    return pl.coalesce(filled, pl.col(names[0]).cast(pl.String))


def _flags(columns: list[str]) -> pl.Expr:
    """Return the names of the columns that hold 1, as a list."""
    names = [
        pl.when(pl.col(name).cast(pl.String).str.strip_chars() == "1").then(pl.lit(name)) for name in columns
    ]
    return pl.concat_list(names).list.drop_nulls()


def collect(parts: list[TableFile], table: Table, *queries: pl.LazyFrame) -> list[pl.DataFrame]:
    """Run queries over the files of a table in one streaming pass.

    Raises:
        UserError: a file does not match the card; the message names the bad line if it can be located.
    """
    try:
        return pl.collect_all(queries, engine="streaming")
    except pl.exceptions.PolarsError as error:
        for part in parts:
            try:
                part.frame.select(pl.all().null_count()).collect(engine="streaming")
            except pl.exceptions.PolarsError as cause:
                raise _unreadable(table, part.path, part.readable, cause) from None
        raise UserError(f"{parts[0].path}: cannot be read: {_one_line(error)}") from None


def combined(parts: list[TableFile]) -> pl.LazyFrame:
    """Concatenate the files of a table to one frame, in their order.

    Raises:
        UserError: Parquet files whose column types differ.
    """
    frame = pl.concat([part.frame for part in parts])
    try:
        frame.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{parts[0].path.parent}: files of one table differ in types: {_one_line(error)}"
        ) from None
    return frame


def first_bad(parts: list[TableFile], bad: pl.Expr, column: str) -> str | None:
    """Locate the first row where a condition holds: `FILE: row N: column = 'value'`; None if no row does.

    Rows count from 1, after the header.
    """
    for part in parts:
        row = part.frame.with_row_index("__row").filter(bad).select("__row", column).head(1).collect()
        if row.height:
            value = row[column][0]
            shown = "is empty" if value is None else f"= {str(value)[:60]!r}"
            return f"{part.path}: row {row['__row'][0] + 1}: {column} {shown}"
    return None


def identifier(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Convert ids to text. Empty ids and NaN become null, and whole-number floats lose their `.0`."""
    if dtype.is_float():
        whole = pl.when(column == column.floor()).then(column.cast(pl.Int64, strict=False).cast(pl.String))
        return whole.otherwise(column.fill_nan(None).cast(pl.String))
    if dtype.is_integer():
        return column.cast(pl.String)
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(~text.is_in(["", "nan", "NaN"])).then(text)


def _unreadable(table: Table, path: Path, readable: Path, error: Exception) -> UserError:
    kind, line = table.format_of(path), None
    if kind == "csv":
        line = _bad_line(readable, lambda lines: _has_too_many_fields(table, path, lines))
    elif kind != "parquet":
        line = _bad_line(readable, _has_non_object)
    at = "" if line is None else f"line {line}: "
    return UserError(f"{path}: {at}cannot be read as {kind}: {_one_line(error)}")


def _bad_line(path: Path, stops_at_bad: Callable[[Iterator[str]], bool]) -> int | None:
    """Return the number of the line at which `stops_at_bad` stops, or which is not UTF-8; None if all are good."""
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007 - read by the function around
                yield line.decode()

    try:
        return number if stops_at_bad(lines()) else None
    except csv.Error:
        return None
    except ValueError:
        return number


def _has_too_many_fields(table: Table, path: Path, lines: Iterator[str]) -> bool:
    """Read CSV up to the first line that has more fields than columns; False if there is none."""
    separator = table.separator_of(path)
    delimiter = separator if len(separator) == 1 else UNIT_SEPARATOR
    if table.quote is None:
        rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, delimiter=delimiter, quotechar=table.quote)
    width = len(table.header) if isinstance(table.header, list) else len(next(rows, []))
    return any(len(row) > width for row in rows)


def _has_non_object(lines: Iterator[str]) -> bool:
    """Read JSON lines up to the first that is not an object; False if there is none."""
    return any(line.strip() and not isinstance(json.loads(line), dict) for line in lines)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
