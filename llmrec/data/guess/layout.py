"""How a text file may be written, by its first lines: separator, header line, lines above it."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from llmrec.data.guess import names
from llmrec.data.tables import sniff

_LINES = 200
_MOST_ABOVE = 30
"""Most lines above a table that are sought."""
_SEPARATORS = ("\t", "::", ";", ",", "|", " ")


@dataclass(frozen=True)
class _Rows:
    """The first rows of a text, read with a separator.

    Attributes:
        separator: the separator.
        cells: the rows from the header line on, or from the first.
        width: number of values that most rows have.
        skip: number of lines above them.
        header: names of the columns, if the header line has a name less than the rows have values.
    """

    separator: str
    cells: list[list[str]]
    width: int
    skip: int = 0
    header: list[str] | None = None

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """How likely the separator is: a header line in the first line counts more than many columns."""
        is_whole = not self.skip and self.header is None
        return is_whole and _names_columns(self.cells[0]), self.width, is_whole


def ways(path: Path, text: str) -> list[dict[str, Any]]:
    """Return how a text file may be written, as keys of a card, the likeliest first; none if it is no table.

    Args:
        path: the file.
        text: its first characters.
    """
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if text.lstrip()[:1] in ("{", "[") and ending not in (".csv", ".tsv"):
        return [{"format": "jsonl"}, {"format": "loose_jsonl"}]
    if (header := _header_of_blocks(text)) is not None:
        return [{"format": "blocks", "header": header}]
    layout = _layout(text)
    if layout is not None:
        found = [layout, layout | {"escape": "\\"}, layout | {"quote": None}]
        if "\ufffd" in text:
            # The reader tries cp1252 itself, but not for separators of several characters.
            found += [layout | {"encoding": "cp1252"}, layout | {"encoding": "cp1252", "quote": None}]
        if _ends_in_text(text, layout["separator"]):
            whole = layout | {"quote": None, "rest": True}
            found += [whole, whole | {"encoding": "cp1252"}]
        return found
    return [{"format": "sequences"}] if _are_sequences(text) else []


def _layout(text: str) -> dict[str, Any] | None:
    """Return separator and header of CSV by its first lines; None if no separator makes columns of them."""
    text = text if len(text) < 1 << 14 else text[: text.rfind("\n") + 1]
    found = [rows for separator in _SEPARATORS if (rows := _rows(text, separator)) is not None]
    if len(found) > 1:
        # Titles of equally many words look like columns.
        found = [each for each in found if each.separator != " "]
    if not found:
        return None
    best = max(found, key=lambda each: each.rank)
    if best.separator == " " and not any(any(map(str.isdigit, row[0])) for row in best.cells[1:]):
        return None  # prose
    layout: dict[str, Any] = {"format": "csv", "separator": best.separator}
    if best.skip:
        layout["skip"] = best.skip
    if best.header is not None:
        layout["header"] = best.header
    elif not _has_header(best.cells):
        layout["header"] = [f"column_{number}" for number in range(1, len(best.cells[0]) + 1)]
    return layout


def is_made_up(name: str) -> bool:
    """Whether a column's name only counts it, as no line of its file names it."""
    return bool(re.fullmatch(r"column_\d+", name))


def _header_of_blocks(text: str) -> list[str] | None:
    """Return names of columns for lines `item:`, each above lines `user,…` of the item; None for other text."""
    lines = [line.strip() for line in text.splitlines()[:_LINES] if line.strip()]
    rows = [line for line in lines if not re.fullmatch(r"[\w.-]+:", line)]
    widths = {line.count(",") for line in rows[:-1]}  # the last line may be cut
    if not rows or lines[0] in rows or len(widths) > 1:
        return None
    return ["item", "user", *(f"column_{number}" for number in range(3, rows[0].count(",") + 3))]


def _ends_in_text(text: str, separator: str) -> bool:
    """Whether only the last column can hold the separator, as in `17,1999,Up, up`: others are numbers or codes."""
    lines = [line for line in text.splitlines()[:_LINES] if line.strip()]
    lines = lines[: max(1, len(lines) - 1)]  # the last one may be cut
    width = min(line.count(separator) for line in lines)
    cells = [line.split(separator, width) for line in lines]
    return width > 0 and all(re.fullmatch(r"[\w.:-]*", cell) for row in cells for cell in row[:-1])


def _rows(text: str, separator: str) -> _Rows | None:
    """Return the first rows of a text, without the lines above them; None if the separator makes no columns."""
    numbered = _parsed(text, separator)
    if not numbered:
        return None
    width, _ = Counter(len(row) for _, row in numbered).most_common(1)[0]
    above = _rows_above([row for _, row in numbered])
    if not _names_columns(numbered[above][1]):
        above = 0  # first rows with few values, not lines above a header
    skip, cells = numbered[above][0], [row for _, row in numbered[above:]]
    if width < 2 or sum(len(row) == width for row in cells) < 0.9 * len(cells):
        return None
    if len(cells[0]) == width:
        return _Rows(separator, cells, width, skip if above else 0)
    if len(cells[0]) != width - 1 or not all(cells[0]) or not _names_columns(cells[0]):
        return None
    # Lines end in a separator, or begin with a row's name that the header line lacks.
    is_open = all(not row[-1].strip() for row in cells[1:] if len(row) == width)
    header = [*cells[0], f"column_{width}"] if is_open else ["row", *cells[0]]
    return _Rows(separator, cells[1:], width, skip + 1, header)


def _rows_above(rows: list[list[str]]) -> int:
    """Return how many rows stand above a table: a title, comments, empty ones. They fill at most half its columns."""
    filled = [sum(bool(cell.strip()) for cell in row) for row in rows]
    usual = median(filled)
    above = 0
    while above < min(_MOST_ABOVE, len(rows) - 1) and 2 * filled[above] <= usual:
        above += 1
    return above if usual > 1 else 0


def _parsed(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the first rows of a text, read with a separator, each with the number of lines before it."""
    if len(separator) > 1:
        text, separator = text.replace(separator, sniff.UNIT_SEPARATOR), sniff.UNIT_SEPARATOR
    rows: list[tuple[int, list[str]]] = []
    reader = sniff.reader(io.StringIO(text, newline=""), separator, '"', None, strict=False)
    before = 0
    try:
        for row in reader:
            rows += [(before, row)] if row else []
            before = reader.line_num
            if len(rows) == _LINES:
                break
    except csv.Error:
        pass
    return rows


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: by known names, else because it looks unlike the rows below."""
    if _names_columns(rows[0]):
        return True
    first = [cell.strip() for cell in rows[0]]
    if _numbers(first) or sum(not cell for cell in first) > 1 or len(set(first)) < len(first):
        return False
    below = [{row[place] for row in rows[1:] if place < len(row)} for place in range(len(first))]
    return not any(cell in values for cell, values in zip(first, below, strict=True))


def _names_columns(row: list[str]) -> bool:
    """Whether a row has names that columns are known to have; `user_17` is an id, and no name."""
    known = sum(names.is_known(cell) and not re.search(r"\d", cell) for cell in row)
    return known > 1 or (known == 1 and not _numbers(row))


def _numbers(row: list[str]) -> int:
    return sum(bool(re.fullmatch(r"[-+]?[\d.,:/ -]+", cell.strip())) for cell in row)


def _are_sequences(text: str) -> bool:
    """Whether lines are `user item item …`: ids only, not equally many in each line."""
    lines = [line.split() for line in text.splitlines()[:_LINES] if line.strip()]
    ids = [part for line in lines for part in line]
    if len(lines) < 2 or not all(len(line) > 1 for line in lines):
        return False
    digits = sum(any(character.isdigit() for character in part) for part in ids)
    return digits > 0.8 * len(ids) and all(re.fullmatch(r"[\w.-]+", part) for part in ids)
