"""Opens CSV files: every row is checked, and what is not plain CSV is rewritten, or refused with its line."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmrec.data.tables import sniff
from llmrec.data.tables.csv_check import Check, Finding, line_at
from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import quiet, tell
from llmrec.data.tables.prepare import decoded_lines, write_copy
from llmrec.data.tables.sniff import UNIT_SEPARATOR
from llmrec.errors import UserError

_LONGEST_VALUE = 1 << 24


@dataclass(frozen=True)
class CsvFile:
    """A CSV file in the form in which Polars reads it.

    Attributes:
        path: the file as the user knows it.
        readable: the same file, or a copy: UTF-8, each row with one value a column, no empty lines.
        separator: separator of the readable file, one byte.
        quote: quote of the readable file, or None.
        names: names of its columns.
        written: separator as the user wrote it; differs from `separator` if that has several characters, or if the
            last column takes the rest of a line.
        skipped: number of lines of the user's file that the readable one lacks.
    """

    path: Path
    readable: Path
    separator: str
    quote: str | None
    names: list[str]
    written: str
    skipped: int = 0

    def line(self, offset: int) -> int:
        """Return the number of the line of the user's file that holds a byte of the readable one."""
        return line_at(self.readable, offset) + self.skipped


def open_csv(table: Table, path: Path, scratch: Path, wanted: Collection[str]) -> CsvFile:
    """Open a CSV file, check all of its rows, and say on stderr what the card does not say.

    Args:
        table: the card's description of the file.
        path: the file, possibly gzip.
        scratch: folder for copies.
        wanted: names of the columns that will be read.

    Raises:
        UserError: an empty or unreadable file, the wrong encoding, a row with a wrong number of fields, or a quote
            that is not closed; the message names the line.
    """
    start = sniff.head(path)
    encoding = sniff.encoding(table, start)
    file = _readable(table, path, scratch, encoding, start, wanted)
    if not _needs_rewriting(table):
        check = Check(file.separator, file.quote, len(file.names))
        finding = check.run(file.readable)
        if finding is not None and finding.kind == "utf8":
            _require_cp1252(table, file, finding)
            with quiet():  # the separator was told before
                file = _readable(table, path, scratch, "cp1252", start, wanted)
            check = Check(file.separator, file.quote, len(file.names))
            finding = check.run(file.readable)
        if finding is None:
            _tell_rows_in_quotes(file, check)
            return file
        _refuse(file, finding)
        if finding.kind == "quotes":
            rewritten = _rewritten(table, file, scratch)
            line = file.line(finding.offset)
            tell(
                path.name, f"line {line}: a quote inside a value is taken as text, and so are others like it"
            )
            return rewritten
    return _rewritten(table, file, scratch)


def _needs_rewriting(table: Table) -> bool:
    """Whether only Python's reader can read a file that is written like this."""
    return table.escape is not None or (table.quote is not None and not table.quote.isascii())


def _readable(
    table: Table, path: Path, scratch: Path, encoding: str, start: bytes, wanted: Collection[str]
) -> CsvFile:
    """Return the file, or a copy of it in UTF-8 with a separator of one byte."""
    has_blocks = table.format == "blocks"  # a block's first line is its name
    text = start.decode(encoding, "replace").removeprefix("\ufeff").split("\n", table.skip + has_blocks)[-1]
    written = sniff.separator(table, path, text, wanted)
    first = sniff.first_row(text, written, table.quote, table.escape)
    names = table.header if isinstance(table.header, list) else first
    if not names:
        raise UserError(f"{path}: no columns in it")
    if table.separator is None and written != ("\t" if ".tsv" in path.suffixes else ","):
        tell(
            path.name,
            f"its columns are taken to be separated by {written!r}; if they are not, write `separator` into the card",
        )
    for name in sorted(set(wanted)):
        if names.count(name) > 1:
            tell(path.name, f"{names.count(name)} columns are named {name!r}; the first is read")
    if isinstance(table.header, list) and not has_blocks and _is_header(first, names):
        tell(
            path.name,
            "its first line looks like the names of the columns, but the card gives them (`header`), so the line is "
            "read as a row; leave `header` out of the card if it is none",
        )
    is_replaced = table.rest or len(written.encode()) > 1
    readable = path
    if is_replaced or has_blocks or not sniff.is_utf8(encoding):
        lines: Iterator[str] = decoded_lines(path, encoding)
        lines = itertools.islice(lines, table.skip, None)
        if has_blocks:
            lines = _with_names_of_blocks(path, lines, written, len(names))
        if is_replaced:
            most = len(names) - 1 if table.rest else -1
            lines = (line.replace(written, UNIT_SEPARATOR, most) for line in lines)
        readable = write_copy(path, scratch, lines)
    elif path.suffix == ".gz" or table.skip:
        readable = write_copy(path, scratch, skip=table.skip)
    separator = UNIT_SEPARATOR if is_replaced else written
    return CsvFile(path, readable, separator, table.quote, names, written, table.skip)


def _with_names_of_blocks(path: Path, lines: Iterator[str], separator: str, width: int) -> Iterator[str]:
    """Yield the lines of blocks, each with the name of its block, a line `NAME:`, before its values."""
    name = None
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("\ufeff")
        if text.endswith(":"):
            name = text[:-1]
        elif name is None or (text and text.count(separator) != width - 2):
            problem = "a block starts with a line `NAME:`" if name is None else f"not {width - 1} values"
            raise UserError(f"{path}: line {number}: {problem}; correct the line, or `header` in the card")
        elif text:
            yield f"{name}{separator}{text}\n"


def _is_header(first: list[str], names: list[str]) -> bool:
    """Whether a row holds one of the columns' names at its own place."""
    return any(
        value.strip().lower() == name.strip().lower() for value, name in zip(first, names, strict=False)
    )


def _require_cp1252(table: Table, file: CsvFile, finding: Finding) -> None:
    """Raise a UserError if a file that is not UTF-8 should not be read as cp1252 either; else say that it is."""
    line = file.line(finding.offset)
    with file.readable.open("rb") as bytes_around:
        bytes_around.seek(max(0, finding.offset - (1 << 16)))
        around = bytes_around.read(1 << 17)
    if table.encoding is not None:
        raise UserError(
            f"{file.path}: line {line}: not {table.encoding}, which the card names as `encoding`; "
            "name another there, such as cp1252"
        )
    undefined = any(byte in around for byte in b"\x81\x8d\x8f\x90\x9d")
    if undefined or sniff.is_mostly_utf8(around):
        raise UserError(
            f"{file.path}: line {line}: not UTF-8; correct the line, or name the file's `encoding` in the card "
            "(cp1252, latin-1)"
        )
    tell(
        file.path.name,
        f"line {line} is not UTF-8, so the file is read as cp1252; if letters look wrong, name the right `encoding` "
        "in the card",
    )


def _tell_rows_in_quotes(file: CsvFile, check: Check) -> None:
    found = check.rows_in_quotes
    if found.count:
        line = file.line(found.offset)
        tell(
            file.path.name,
            f"{found.count:,} lines inside quotes look like rows and are read as text, the first is line {line}; "
            "if quotes are plain text in this file, write `quote: null` into the card",
        )


def _refuse(file: CsvFile, finding: Finding) -> None:
    """Raise a UserError for what no reading of the file would make right."""
    if finding.kind == "fields":
        raise _wrong_fields(file, file.line(finding.offset), finding.fields)
    if finding.kind == "open":
        raise _wrong_quote(file, file.line(finding.offset), "a quote opens and is never closed")


def _wrong_fields(file: CsvFile, line: int, fields: int) -> UserError:
    # Where the first two lines differ, the first may be a title.
    way = "; `skip` leaves out lines above the header" if line == file.skipped + 2 else ""
    return UserError(
        f"{file.path}: line {line}: {fields} values for {len(file.names)} columns; correct the line, or the card's "
        f"`separator` (now {file.written!r}), `quote` (now {file.quote or 'null'}) or `escape`{way}"
    )


def _wrong_quote(file: CsvFile, line: int, problem: str) -> UserError:
    return UserError(
        f"{file.path}: line {line}: {problem}; write `quote: null` into the card if quotes are plain text, "
        '`escape: "\\\\"` if backslashes stand before them'
    )


def _rewritten(table: Table, file: CsvFile, scratch: Path) -> CsvFile:
    """Return a file that Python's reader has read and written as plain CSV."""
    width = len(file.names)
    limit = csv.field_size_limit(_LONGEST_VALUE)
    try:
        readable = write_copy(file.path, scratch, _plain_lines(table, file, width))
    finally:
        csv.field_size_limit(limit)
    return replace(file, readable=readable, separator=",", quote='"', written=",")


def _plain_lines(table: Table, file: CsvFile, width: int) -> Iterator[str]:
    """Yield the rows of a file as lines of plain CSV, without empty lines."""
    buffer = io.StringIO()
    # Python quotes carriage returns only if they belong to the line's end.
    writer = csv.writer(buffer, lineterminator="\r\n")
    with file.readable.open(encoding="utf-8-sig", newline="") as lines:
        rows = sniff.reader(lines, file.separator, table.quote, table.escape, strict=True)
        before = 0
        try:
            for row in rows:
                if row:
                    if len(row) != width:
                        raise _wrong_fields(file, before + 1 + file.skipped, len(row))
                    if file.written != file.separator:
                        row = [value.replace(file.separator, file.written) for value in row]
                    writer.writerow(row)
                    yield buffer.getvalue()
                    buffer.seek(0)
                    buffer.truncate()
                before = rows.line_num
        except UnicodeDecodeError:
            raise UserError(
                f"{file.path}: not UTF-8 after line {before + file.skipped}; name the file's `encoding` in the card"
            ) from None
        except csv.Error as error:
            problem = "text stands between the quote that closes a value and the next separator"
            if "unexpected end" in str(error):
                problem = "a quote opens and is never closed"
            elif "field larger" in str(error):
                problem = f"a quoted value of more than {_LONGEST_VALUE >> 20} MB"
            elif rows.line_num > before + 1:
                problem += f" (in line {rows.line_num + file.skipped})"
            raise _wrong_quote(file, before + 1 + file.skipped, problem) from None
