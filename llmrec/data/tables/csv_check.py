"""Checks every row of a CSV file, whether its columns are read or not, at the speed of reading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from llmrec.errors import UserError

_BLOCK = 1 << 20
LONGEST_LINE = 1 << 26
_NEWLINE, _RETURN = 10, 13
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Finding:
    """The first place of a file that is not plain CSV.

    Attributes:
        kind: `fields`: a row with a wrong number of fields; `quotes`: a quote that neither opens nor closes a value;
            `blank`: an empty line, or a carriage return alone; `open`: the last quote is not closed; `utf8`: bytes
            that are not UTF-8.
        offset: byte where it starts; for `fields` and `open` the start of the row.
        fields: number of fields of the row.
    """

    kind: Literal["fields", "quotes", "blank", "open", "utf8"]
    offset: int
    fields: int = 0


@dataclass
class RowsInQuotes:
    """Lines inside quoted values that have as many fields as a row: a quote too many may have swallowed rows.

    Attributes:
        count: number of such lines.
        offset: byte where the first of them starts.
    """

    count: int = 0
    offset: int = 0


class Check:
    """A pass over the bytes of a UTF-8 file, block by block, each ending at a line's end.

    A file without findings is read alike by every CSV reader: each quote opens a value at its start, closes it at its
    end, or is one of two inside of it (RFC 4180); each row has the same number of fields; no line is empty.
    """

    def __init__(self, separator: str, quote: str | None, width: int) -> None:
        """Prepare a check of rows with `width` fields.

        Args:
            separator: one ASCII character.
            quote: one ASCII character, or None if quotes are plain text.
            width: number of fields of each row.
        """
        self.separator = ord(separator)
        self.quote = None if quote is None else quote.encode()
        self.width = width
        self.rows_in_quotes = RowsInQuotes()
        self._inside = False  # whether the next block starts inside a quoted value
        self._fields = 0  # separators that the unfinished row has so far
        self._row_start = 0  # byte where the unfinished row starts

    def run(self, path: Path) -> Finding | None:
        """Return the first finding of a file; None if it is plain."""
        offset = 0
        for block in _whole_lines(path):
            finding = self._check(block, offset)
            if finding is not None:
                return finding
            offset += len(block)
        return Finding("open", self._row_start) if self._inside else None

    def _check(self, block: bytes, offset: int) -> Finding | None:
        if not block.isascii():
            try:
                block.decode()
            except UnicodeDecodeError as error:
                return Finding("utf8", offset + error.start)
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return Finding("blank", offset)
        data = np.frombuffer(block, np.uint8)
        is_mark = (data == self.separator) | (data == _NEWLINE)
        if self.quote is not None and (self._inside or self.quote in block):
            finding = self._check_quotes(block, data, is_mark, offset)
            if finding is not None:
                return finding
        return self._check_fields(data, np.flatnonzero(is_mark), offset)

    def _check_quotes(
        self, block: bytes, data: Bytes, is_mark: npt.NDArray[np.bool_], offset: int
    ) -> Finding | None:
        """Check that quotes open and close values, and clear the marks that lie inside values."""
        is_quote = data == ord(self.quote or "")
        # On bytes this is twice as fast as on booleans.
        is_inside = np.bitwise_xor.accumulate(is_quote.view(np.uint8)).view(np.bool_) ^ self._inside
        is_end = is_mark | is_quote
        # After an opening quote a byte is inside, after a closing one it is not. A block ends in a newline.
        is_wrong = is_quote & is_inside
        is_wrong[1:] &= ~is_end[:-1]
        is_wrong[0] = False
        if b"\r" in block:
            is_end |= data == _RETURN
        is_wrong[:-1] |= is_quote[:-1] & ~is_inside[:-1] & ~is_end[1:]
        if is_wrong.any():
            return Finding("quotes", offset + int(np.argmax(is_wrong)))
        if (is_inside & (data == _NEWLINE)).any():
            self._count_rows_in_quotes(data, is_mark, is_inside, offset)
        is_mark &= ~is_inside
        self._inside = bool(is_inside[-1])
        return None

    def _count_rows_in_quotes(
        self, data: Bytes, is_mark: npt.NDArray[np.bool_], is_inside: npt.NDArray[np.bool_], offset: int
    ) -> None:
        """Count lines that begin and end inside a quoted value and have as many fields as a row."""
        marks = np.flatnonzero(is_mark)
        ends = np.flatnonzero(data[marks] == _NEWLINE)
        inner = is_inside[marks[ends]]
        if self.width < 2 or not inner.any():
            return
        starts_inside = np.append(self._inside, inner[:-1])
        is_row = inner & starts_inside & (np.diff(ends, prepend=-1) == self.width)
        if is_row.any():
            line = int(np.argmax(is_row))
            if not self.rows_in_quotes.count:
                self.rows_in_quotes.offset = offset + (int(marks[ends[line - 1]]) + 1 if line else 0)
            self.rows_in_quotes.count += int(is_row.sum())

    def _check_fields(self, data: Bytes, marks: npt.NDArray[np.intp], offset: int) -> Finding | None:
        ends = np.flatnonzero(data[marks] == _NEWLINE)
        if not len(ends):
            self._fields += len(marks)
            return None
        fields = np.diff(ends, prepend=-1 - self._fields)
        row_ends = marks[ends]
        is_wrong = fields != self.width
        if self.width == 1:
            starts = np.append(self._row_start - offset, row_ends[:-1] + 1)
            is_wrong |= (row_ends == starts) | ((row_ends == starts + 1) & (data[row_ends - 1] == _RETURN))
        if is_wrong.any():
            row = int(np.argmax(is_wrong))
            start = self._row_start if row == 0 else offset + int(row_ends[row - 1]) + 1
            length = offset + int(row_ends[row]) - start
            is_blank = length == 0 or (length == 1 and data[row_ends[row] - 1] == _RETURN)
            return Finding("blank" if is_blank else "fields", start, int(fields[row]))
        self._fields = len(marks) - 1 - int(ends[-1])
        self._row_start = offset + int(row_ends[-1]) + 1
        return None


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines, without its byte order mark; the last line gets its end.

    A file whose lines end in carriage returns alone is yielded as far as it was read: its first finding is there.
    """
    with path.open("rb") as file:
        rest = file.read(3)
        if rest == b"\xef\xbb\xbf":
            rest = b""
        while block := file.read(_BLOCK):
            cut = block.rfind(b"\n") + 1
            if not cut:
                rest += block
                if b"\r" in block:
                    break
                if len(rest) > LONGEST_LINE:
                    raise UserError(f"{path}: a line of more than {LONGEST_LINE >> 20} MB")
                continue
            yield rest + block[:cut]
            rest = block[cut:]
        if rest:
            yield rest if rest.endswith(b"\n") else rest + b"\n"


def line_at(path: Path, offset: int) -> int:
    """Return the number of the line, from 1, that holds a byte of a file; the byte order mark is not counted."""
    number = 1
    for block in _whole_lines(path):
        if offset < len(block):
            return number + block[:offset].count(b"\n")
        number += block.count(b"\n")
        offset -= len(block)
    return number
