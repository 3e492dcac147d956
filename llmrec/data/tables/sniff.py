"""Guesses how a text file is written: its encoding from its first bytes, its separator from its first line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from llmrec.data.tables.described import Table
from llmrec.errors import UserError
from llmrec.files import cause_of

UNIT_SEPARATOR = "\x1f"
_HEAD = 1 << 16
# UTF-32 begins like UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = (",", ";", "\t", "|", "::", " ")
_UNPACK, _EXPORT = "unpack it", "export it as CSV"
# First bytes of files that are no text, whatever their names say.
_NO_TEXT = {
    b"\x1f\x8b": ("a gzip file", "let its name end in .gz"),
    b"PK\x03\x04": ("a zip archive, or a spreadsheet", "unpack it, or export the sheet as CSV"),
    b"BZh": ("a bzip2 file", _UNPACK),
    b"\xfd7zXZ": ("an xz file", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd file", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a rar archive", _UNPACK),
    b"\xd0\xcf\x11\xe0": ("a spreadsheet", _EXPORT),
    b"SQLite format 3\0": ("a database", "export its tables as CSV"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
    b"Obj\x01": ("an Avro file", "write it as Parquet"),
    b"ORC": ("an ORC file", "write it as Parquet"),
    b"PAR1": ("a Parquet file", "let its name end in .parquet, or write `format: parquet` into the card"),
}


def head(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed if it is gzip.

    Raises:
        UserError: the file is empty, or not gzip, or no text by its first bytes.
    """
    try:
        with path.open("rb") as file:
            start = gzip.GzipFile(fileobj=file).read(_HEAD) if path.suffix == ".gz" else file.read(_HEAD)
    except (OSError, EOFError, zlib.error) as error:
        if path.suffix == ".gz":
            raise UserError(f"{path}: not a whole gzip file: {cause_of(error)}") from None
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None
    if not start:
        raise UserError(f"{path}: the file is empty")
    for mark, (what, way) in _NO_TEXT.items():
        # Text may begin with the letters, but holds no zero bytes in UTF-8.
        if start.startswith(mark) and (not mark.isascii() or b"\0" in start):
            raise UserError(f"{path}: {what}: {way}")
    return start


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def encoding(table: Table, start: bytes) -> str:
    """Return the encoding of a file: that of its byte order mark, else the card's, else UTF-8.

    UTF-16 without a mark shows by its zero bytes, which text in UTF-8 has none of.
    """
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if marked == "utf-8-sig" or (marked is not None and (table.encoding or "utf-8") == "utf-8"):
        return marked
    if table.encoding is None and b"\0" in start:
        first, second = (start[place::2].count(0) for place in (0, 1))
        if max(first, second) > 0.4 * len(start) / 2 and not min(first, second):
            return "utf-16-le" if second else "utf-16-be"
    return table.encoding or "utf-8"


def is_utf8(name: str) -> bool:
    """Whether an encoding is UTF-8, with or without a byte order mark."""
    return name in ("utf-8", "utf-8-sig")


def is_mostly_utf8(block: bytes) -> bool:
    """Whether bytes that are not UTF-8 hold more characters of UTF-8 beyond ASCII than wrong bytes."""
    text = block.decode("utf-8", "surrogateescape")
    wrong = sum(1 for character in text if "\udc80" <= character <= "\udcff")
    return sum(1 for character in text if not character.isascii()) > 2 * wrong


def separator(table: Table, path: Path, start: str, wanted: Collection[str]) -> str:
    """Return the separator of a CSV file: the card's, or the one with which its first line fits the card.

    A comma (a tab for `.tsv`) is tried first. If no separator fits, it is the one that gives the most columns.

    Args:
        table: the card's description of the file.
        path: the file.
        start: its first characters.
        wanted: names of the columns that the card maps.
    """
    if table.separator is not None:
        return table.separator
    usual = "\t" if ".tsv" in path.suffixes else ","
    candidates = list(dict.fromkeys((usual, *_SEPARATORS)))
    rows = {candidate: first_row(start, candidate, table.quote, table.escape) for candidate in candidates}
    for candidate, row in rows.items():
        if isinstance(table.header, list):
            fits = len(row) == len(table.header)
        else:
            known = {*row, *(name for name in wanted if name.partition(".")[0] in row)}
            fits = set(wanted) <= known and (candidate != " " or len(row) > 1)
        if fits:
            return candidate
    return max(candidates[:-1], key=lambda candidate: len(rows[candidate]))


def first_row(start: str, separator: str, quote: str | None, escape: str | None) -> list[str]:
    """Return the values of the first line that is not empty; none if there is none."""
    if len(separator) > 1:
        start, separator = start.replace(separator, UNIT_SEPARATOR), UNIT_SEPARATOR
    rows = reader(io.StringIO(start, newline=""), separator, quote, escape, strict=False)
    try:
        return next((row for row in rows if row), [])
    except csv.Error:
        return []


def reader(lines: Iterable[str], separator: str, quote: str | None, escape: str | None, strict: bool) -> Any:
    """Return Python's reader of CSV: quotes open and close values, two of them are one; or are plain text."""
    if quote is None:
        return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, escapechar=escape)
    return csv.reader(lines, delimiter=separator, quotechar=quote, escapechar=escape, strict=strict)
