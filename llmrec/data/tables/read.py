"""Reads the tables that a card describes, lazily, and locates bad rows for error messages."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from llmrec.data.tables.csv_files import open_csv
from llmrec.data.tables.described import FILE_FOLDER, FILE_NAME, PLACEHOLDER, Interactions, Table
from llmrec.data.tables.json_files import open_json, open_texts
from llmrec.data.tables.lists import open_sequences, with_fields
from llmrec.data.tables.notes import listed, quiet, short
from llmrec.data.tables.sniff import UNIT_SEPARATOR
from llmrec.errors import UserError

JOINED = "__joined"
"""Column of the values by which a table is joined to a log."""
PREFIX = "joined."
"""What a card writes before a column of the joined table, where the log has one of the same name."""


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: the file as the user knows it.
        readable: the file that Polars reads: the same file, or a rewritten copy.
        frame: its columns, named by their meaning (`user`, `item`, …); text, except for typed Parquet columns.
        has_entries: whether the frame has a row for each entry of the lists in the file's rows.
    """

    path: Path
    readable: Path
    frame: pl.LazyFrame
    has_entries: bool = False


def scan(table: Table, files: list[Path], scratch: Path, joined: Sequence[Path] = ()) -> list[TableFile]:
    """Open the files of a table lazily.

    Args:
        table: the card's description of the table.
        files: files of the table.
        scratch: folder for rewritten copies (gzip and the like).
        joined: files of the table that is joined to a log (`llmrec.data.tables.described.Join`).

    Raises:
        UserError: an unreadable or empty file, a missing column, or a joined table with two rows for one value.
    """
    beside = _beside(table, joined, scratch)
    return [_open(table, path, scratch, beside) for path in files]


def column_names(table: Table, path: Path, scratch: Path, needed: set[str]) -> list[str]:
    """Return the names of a file's columns, of which some are needed; a separator is sought that gives these.

    Raises:
        UserError: an unreadable or empty file.
    """
    names = _file_frame(table, path, scratch, needed, has_all=True)[1].collect_schema().names()
    return [*names, *_in_texts(needed, names)]


def check_columns(table: Table, files: list[Path], scratch: Path, joined: Sequence[Path] = ()) -> None:
    """Check that each file of a table has the columns that the card names, JSON files too.

    It says nothing else of the files, and reads no rows of CSV and Parquet: who reads them does.

    Raises:
        UserError: an unreadable or empty file, or a missing column.
    """
    with quiet():
        beside = _beside(table, joined, scratch)
        for path in files:
            wanted = table.columns_read() if beside is None else {beside.on}
            _check_columns(table, path, column_names(table, path, scratch, wanted), beside)


def _check_columns(table: Table, path: Path, names: list[str], beside: Beside | None) -> None:
    """Raise a UserError unless a file, with what is joined to it, has the columns that the card names."""
    wanted, problems = table.columns_read(), []
    if beside is not None:
        wanted, names = wanted | {beside.on}, [*names, *beside.names]
    for column in sorted(wanted - set(names)):
        near = difflib.get_close_matches(column, names, n=1)
        problems.append(
            f"no column {column!r} ({f'did you mean {near[0]!r}?' if near else 'it has ' + listed(names)})"
        )
    if problems:
        raise UserError(f"{path}: {short('; '.join(problems), 200)}; correct `columns` in the card")


def _open(table: Table, path: Path, scratch: Path, beside: Beside | None = None) -> TableFile:
    if beside is None:
        readable, frame = _file_frame(table, path, scratch, table.columns_read())
    else:
        readable, frame = _file_frame(table, path, scratch, {beside.on}, has_all=True)
    _check_columns(table, path, frame.collect_schema().names(), beside)
    if beside is not None:
        frame = beside.joined_to(frame, table.missing)
    columns = {name: _column(text, frame, table) for name, text in table.columns.items()}
    return TableFile(
        path, readable, frame.select(**columns, **{name: _flags(of) for name, of in table.flags.items()})
    )


@dataclass(frozen=True)
class Beside:
    """The rows that are joined to a log.

    Attributes:
        on: column of the log by which they are joined.
        key: the other table's column with the same values.
        file: its first file.
        frame: the other table, not read yet; `JOINED` has the values that the log's column has, as text.
    """

    on: str
    key: str
    file: Path
    frame: pl.LazyFrame

    @cached_property
    def names(self) -> list[str]:
        """Columns that the card takes from the other table, as it names them."""
        return [name for name in self.frame.collect_schema().names() if name != JOINED]

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The other table, with each value of `JOINED` once.

        Raises:
            UserError: two rows that differ have the same value.
        """
        rows = self.frame.filter(pl.col(JOINED).is_not_null()).unique().collect()
        twice = rows.filter(pl.col(JOINED).is_duplicated())
        if len(twice):
            value = f"{self.key} = {str(twice[JOINED].min())[:60]!r}"
            raise UserError(
                f"{self.file}: {value} stands on rows that differ; a joined table has one row for each {self.key!r}"
            )
        return rows

    def joined_to(self, frame: pl.LazyFrame, missing: list[str]) -> pl.LazyFrame:
        """The rows of a file of the log in their order, with the columns of the other table that it lacks."""
        schema = frame.collect_schema()
        key = identifier(pl.col(self.on), schema[self.on], missing)
        new = [name for name in self.names if name not in schema]
        return frame.with_columns(key.alias(JOINED)).join(
            self.rows.lazy().select(JOINED, *new), on=JOINED, how="left", maintain_order="left"
        )


def _beside(table: Table, files: Sequence[Path], scratch: Path) -> Beside | None:
    """Open the table that is joined to a log; None if none is."""
    join = table.join if isinstance(table, Interactions) else None
    if join is None:
        return None
    on, key = join.keys
    used, frames = table.columns_read(), []
    for path in files:
        _, frame = _file_frame(join, path, scratch, {key}, has_all=True)
        names = frame.collect_schema().names()
        if key not in names:
            raise UserError(
                f"{path}: no column {key!r} (it has {listed(names)}); correct `join.by` in the card"
            )
        wanted = [pl.col(name) for name in names if name in used]
        wanted += [pl.col(name).alias(PREFIX + name) for name in names if PREFIX + name in used]
        values = identifier(pl.col(key), frame.collect_schema()[key], join.missing)
        frames.append(frame.select(values.alias(JOINED), *wanted))
    return Beside(on, key, files[0], pl.concat(frames, how="diagonal_relaxed"))


def _file_frame(
    table: Table, path: Path, scratch: Path, wanted: set[str], has_all: bool = False
) -> tuple[Path, pl.LazyFrame]:
    """Open one file; return the file that Polars reads, and its columns under their own names.

    Of JSON only the wanted columns are there, unless `has_all`.
    """
    kind = table.format_of(path)
    about = {FILE_NAME: Path(path.name.removesuffix(".gz")).stem, FILE_FOLDER: path.parent.name}
    of_file, wanted = {name: pl.lit(about[name]) for name in about if name in wanted}, wanted - about.keys()
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        if kind == "parquet":
            texts = pl.selectors.binary().map_batches(_texts, return_dtype=pl.String, is_elementwise=True)
            frame = with_fields(path, pl.scan_parquet(path), wanted, table.columns_in_rows())
            readable, frame = path, frame.with_columns(texts)
        elif kind in ("csv", "blocks"):
            readable, frame = _scan_csv(table, path, scratch, wanted)
        elif kind == "sequences":
            readable = open_sequences(table, path, scratch)
            frame = pl.scan_csv(readable, separator=UNIT_SEPARATOR, quote_char=None, infer_schema=False)
        else:
            readable = open_json(table, path, scratch, wanted)
            schema = None if has_all else dict.fromkeys(sorted(wanted), pl.String)
            frame = pl.scan_ndjson(readable, schema=schema, infer_schema_length=None)
        if not has_all and _in_texts(wanted, frame.collect_schema().names()):
            readable = open_texts(table, path, frame, scratch, wanted)
            frame = pl.scan_ndjson(readable, schema=dict.fromkeys(sorted(wanted), pl.String))
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(table, path, path, error) from None
    return readable, frame.with_columns(**of_file)


def _in_texts(wanted: set[str], names: list[str]) -> list[str]:
    """Return the wanted columns that a file lacks, if each could be a field of objects that it holds as text."""
    lacking = sorted(wanted - set(names))
    return lacking if all("." in name and name.partition(".")[0] in names for name in lacking) else []


def _texts(values: pl.Series) -> pl.Series:
    """Return bytes as text, since some writers of Parquet leave out that they are; null for other bytes."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        return pl.Series(values.name, map(_text, values), pl.String)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _scan_csv(table: Table, path: Path, scratch: Path, wanted: set[str]) -> tuple[Path, pl.LazyFrame]:
    file = open_csv(table, path, scratch, wanted)
    frame = pl.scan_csv(
        file.readable,
        separator=file.separator,
        has_header=table.header is True,
        new_columns=table.header if isinstance(table.header, list) else None,
        quote_char=file.quote,
        infer_schema=False,
    )
    if file.separator != file.written and file.quote is not None:
        frame = frame.with_columns(pl.all().str.replace_all(file.separator, file.written, literal=True))
    return file.readable, frame


def _column(text: str, frame: pl.LazyFrame, table: Table) -> pl.Expr:
    """Return a column, or a filled template of several. If one of them is null, the first column is used alone."""
    names = PLACEHOLDER.findall(text)
    if not names:
        return pl.col(text)
    values = [without_missing(pl.col(name).cast(pl.String), table.missing) for name in names]
    return pl.coalesce(pl.format(PLACEHOLDER.sub("{}", text), *values), values[0])


def without_missing(text: pl.Expr, words: list[str]) -> pl.Expr:
    """Return text without the words that mean a missing value; those become null."""
    return pl.when(~text.str.strip_chars().is_in(["", *words])).then(text)


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
        raise _unreadable(table, parts[0].path, parts[0].readable, error) from None


def combined(parts: list[TableFile]) -> pl.LazyFrame:
    """Concatenate the files of a table to one frame, in their order.

    Raises:
        UserError: Parquet files whose column types differ.
    """
    schemas = [part.frame.collect_schema() for part in parts]
    for part, schema in zip(parts, schemas, strict=True):
        for name, dtype in schema.items():
            if dtype != schemas[0][name]:
                types = f"{schemas[0][name]} in {parts[0].path.name} and {dtype} in {part.path.name}"
                raise UserError(
                    short(f"{part.path.parent}: files of one table differ in types: {name} is {types}")
                )
    return pl.concat([part.frame for part in parts])


def sample(part: TableFile, column: str, rows: int) -> pl.Series:
    """Return the values in the first rows of a file that are present, or else the first ones that are."""
    # Only the first rows are read, unless they are all empty.
    head = part.frame.select(column).head(rows).collect(engine="streaming")[column].drop_nulls()
    if len(head):
        return head
    present = part.frame.select(column).filter(pl.col(column).is_not_null()).head(rows)
    return present.collect(engine="streaming")[column]


def first_bad(parts: list[TableFile], bad: pl.Expr, column: str) -> str | None:
    """Locate the first row where a condition holds: `FILE: row N: column = 'value'`; None if no row does.

    Rows count from 1, after the header.
    """
    for part in parts:
        row = part.frame.with_row_index("__row").filter(bad).select("__row", column).head(1).collect()
        if row.height:
            return _place(part, row["__row"][0], column, row[column][0])
    return None


def row_at(parts: list[TableFile], number: int, column: str) -> str:
    """Describe the value of a row: `FILE: row N: column = 'value'`. `number` counts all files' rows from 0."""
    for part in parts:
        rows = int(part.frame.select(pl.len()).collect(engine="streaming").item())
        if number < rows:
            return _place(part, number, column, part.frame.select(column).slice(number, 1).collect().item())
        number -= rows
    raise IndexError(number)


def _place(part: TableFile, row: int, column: str, value: object) -> str:
    shown = "is empty" if value is None else f"= {str(value)[:60]!r}"
    kind = "entry" if part.has_entries else "row"
    return f"{part.path}: {kind} {row + 1}: {column} {shown}"


def identifier(column: pl.Expr, dtype: pl.DataType, missing: list[str]) -> pl.Expr:
    """Convert ids to text. Empty ids, NaN and `missing` words become null; whole-number floats lose their `.0`."""
    if dtype.is_float():
        whole = pl.when(column == column.floor()).then(column.cast(pl.Int64, strict=False).cast(pl.String))
        return whole.otherwise(column.fill_nan(None).cast(pl.String))
    if dtype.is_integer():
        return column.cast(pl.String)
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(~text.is_in(["", "nan", "NaN", *missing])).then(text)


def as_identifier(column: pl.Expr, missing: list[str]) -> pl.Expr:
    """Convert ids of any type to text, like `identifier`; for entries of lists, whose type is known later."""
    text = column.cast(pl.String).str.strip_chars().str.replace(r"^(-?\d+)\.0$", "$1")
    return pl.when(~text.is_in(["", "nan", "NaN", *missing])).then(text)


def part_code(column: pl.Expr, dtype: pl.DataType, words: dict[str, int]) -> pl.Expr:
    """Return the index of the part that a value names, u8; null if it names none."""
    text = identifier(column, dtype, []).str.to_lowercase()
    return text.replace_strict(words, default=None, return_dtype=pl.UInt8)


def _unreadable(table: Table, path: Path, readable: Path, error: Exception) -> UserError:
    """Return the error for a file that cannot be read, in our words, with the line if it can be located."""
    if isinstance(error, OSError) and error.strerror is not None:
        return UserError(f"{path}: cannot be read: {error.strerror}")
    kind = table.format_of(path)
    if kind == "parquet":
        return UserError(
            f"{path}: not a Parquet file, or a damaged one; `format` in the card can name another"
        )
    line = _first_non_object(readable) if "json" in kind else None
    at = "" if line is None else f"line {line}: "
    return UserError(f"{path}: {at}cannot be read as {kind}; correct the file, or `format` in the card")


def _first_non_object(path: Path) -> int | None:
    """Return the number of the first line that is not a JSON object in UTF-8; None if all are."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip() and not isinstance(json.loads(line.decode()), dict):
                    return number
            except (ValueError, RecursionError):
                return number
    return None
