"""Opens files of JSON: one object a line, as an array, pretty-printed, or as Python dicts."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from llmrec.data.tables import sniff
from llmrec.data.tables.described import Table
from llmrec.data.tables.lists import nested_rows
from llmrec.data.tables.notes import tell
from llmrec.data.tables.prepare import decoded, decoded_lines, write_copy
from llmrec.errors import UserError

_LONGEST_OBJECT = 1 << 28
_SPACE = re.compile(r"[\s,]*")
# A number that JSON does not have, at the place of a value. Inside a text it is parsed again for nothing.
_NO_NUMBER = re.compile(rb"[:\[,]\s*-?(?:NaN|Infinity)\b")
_NO_LITERAL = re.compile(r"(?<=[:\[,])\s*-?(?:nan|inf)\b(?=\s*[,\]}])")
Row = dict[str, Any]


def open_json(table: Table, path: Path, scratch: Path, wanted: Collection[str]) -> Path:
    """Return a file with one JSON object a line: `path` itself, or a copy under `scratch`.

    Args:
        table: the card's description of the file.
        path: the file, possibly gzip.
        scratch: folder for copies.
        wanted: names of the columns that will be read; `items.id` is the field `id` of the objects in a list `items`.

    Raises:
        UserError: an empty or unreadable file, the wrong encoding, or something that is not an object; the message
            names the line.
    """
    start = sniff.head(path)
    encoding = sniff.encoding(table, start)
    text = start.decode(encoding, "replace").removeprefix("\ufeff").lstrip()
    rows: Callable[[], Iterator[Row]] | None = None
    if table.format_of(path) == "loose_jsonl":
        rows = partial(_loose_rows, path, encoding)
    elif not _is_lines(text, wanted):
        rows = partial(_values, path, encoding, wanted)
    elif _has_nested(text, wanted):
        rows = partial(_line_rows, path, encoding)
    if rows is not None:
        return write_copy(path, scratch, map(_line, nested_rows(path, rows, wanted)))
    if encoding == "utf-8":
        readable = write_copy(path, scratch) if path.suffix == ".gz" else path
        return write_copy(path, scratch, _repaired(path, readable)) if _has_no_numbers(readable) else readable
    return write_copy(path, scratch, _repaired_lines(path, decoded_lines(path, encoding)))


def _is_lines(text: str, wanted: Collection[str]) -> bool:
    """Whether a file that starts with this text has its first object on one line."""
    line = text.partition("\n")[0]
    if not text.startswith("{"):
        return not text.startswith("[")
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or text[len(line) :].strip():
            return isinstance(row, dict)
        return not _is_mapping(row) and _wrapped(row, wanted) is None
    except (ValueError, RecursionError):
        # A broken line among good ones is named when the lines are read.
        following = text[len(line) :].lstrip()
        return len(line) > 1 and following.startswith("{")


def _is_mapping(row: Row) -> bool:
    """Whether all values of an object, that of a whole file, are objects."""
    return bool(row) and all(isinstance(value, dict) for value in row.values())


def _wrapped(row: Row, wanted: Collection[str]) -> str | None:
    """Return the name of the one list of objects in the object of a whole file, if no wanted column is beside it."""
    if any(name in row or name.partition(".")[0] in row for name in wanted):
        return None
    lists = [
        name
        for name, value in row.items()
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
    ]
    return lists[0] if len(lists) == 1 else None


def _has_nested(text: str, wanted: Collection[str]) -> bool:
    """Whether a wanted column is a field of objects in a list, judged by the first line."""
    first = json.loads(text.partition("\n")[0]) if text.startswith("{") and _is_object(text) else {}
    return any("." in name and name not in first for name in wanted)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text.partition("\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def _has_no_numbers(path: Path) -> bool:
    """Whether a file holds NaN or Infinity at the place of a value."""
    with path.open("rb") as file:
        rest = b""
        while block := file.read(1 << 20):
            block = rest + block
            if (b"NaN" in block or b"Infinity" in block) and _NO_NUMBER.search(block):
                return True
            rest = block[-32:]
    return False


def _repaired(path: Path, readable: Path) -> Iterator[str]:
    return _repaired_lines(path, decoded_lines(readable, "utf-8"))


def _repaired_lines(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Yield lines of JSON with null in place of NaN and Infinity."""
    for number, line in enumerate(lines, start=1):
        if ("NaN" in line or "Infinity" in line) and _NO_NUMBER.search(line.encode("utf-8", "replace")):
            yield _line(_object(path, number, line))
        else:
            yield line


def _line_rows(path: Path, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(decoded_lines(path, encoding), start=1):
        if line.strip():
            yield _object(path, number, line)


def _object(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line, parse_constant=_null)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{path}: line {number} is not a JSON object")
    return row


def _null(_: str) -> None:
    """Stand for NaN and Infinity."""


def _line(row: Row) -> str:
    try:
        return json.dumps(row, allow_nan=False) + "\n"
    except ValueError:  # 1e999 is an infinity, too
        return json.dumps(json.loads(json.dumps(row), parse_constant=_null)) + "\n"


def _loose_rows(path: Path, encoding: str) -> Iterator[Row]:
    """Yield the Python dicts of a file with one a line. Nothing is evaluated but literals."""
    for number, line in enumerate(decoded_lines(path, encoding), start=1):
        text = line.strip().removeprefix("\ufeff")
        if not text:
            continue
        try:
            row = _literal(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not a Python dict")
        yield row


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return ast.literal_eval(_NO_LITERAL.sub(" None", text))


def _values(path: Path, encoding: str, wanted: Collection[str]) -> Iterator[Row]:
    """Yield the objects of an array, or those that are written over several lines.

    A single object that wraps a list is read as the list, a single object of objects as its values, if one wanted
    column is in none of them: that is the keys.
    """
    rows = _objects(path, encoding)
    first, second = next(rows, None), next(rows, None)
    if first is None:
        raise UserError(f"{path}: no JSON object in it")
    if second is None and (name := _wrapped(first, wanted)) is not None:
        tell(path.name, f"read as one object with the rows in its list {name!r}")
        yield from first[name]
        return
    if second is None and _is_mapping(first):
        yield from _entries(path, first, wanted)
        return
    tell(path.name, "read as objects over several lines, not one a line")
    yield first
    if second is not None:
        yield second
    yield from rows


def _entries(path: Path, mapping: Row, wanted: Collection[str]) -> Iterator[Row]:
    """Yield the values of an object of objects, each with its key as the column that they lack.

    If the inner keys count rows, as pandas writes a table, the outer ones are the columns.
    """
    rows = list(next(iter(mapping.values())))
    if rows == [str(number) for number in range(len(rows))] and all(
        list(value) == rows for value in mapping.values()
    ):
        tell(path.name, f"read as one object with the columns of {len(rows):,} rows")
        yield from ({name: value[row] for name, value in mapping.items()} for row in rows)
        return
    known = {name for value in mapping.values() for name in value}
    lacking = sorted(set(wanted) - known)
    if len(lacking) != 1:
        raise UserError(
            f"{path}: one JSON object of {len(mapping):,} entries, where one object a line is needed; "
            "map one column of the card to a new name, and the keys are read as that column"
        )
    tell(
        path.name, f"read as one object of {len(mapping):,} entries; their keys are the column {lacking[0]!r}"
    )
    for key, value in mapping.items():
        yield {lacking[0]: key} | value


def _objects(path: Path, encoding: str) -> Iterator[Row]:
    """Yield objects that stand in an array, or behind each other, in memory for one of them and a block."""
    decoder = json.JSONDecoder(parse_constant=_null)
    text, line = "", 1
    least = (
        0  # characters from which an object is tried again: its size could double its time with each block
    )
    pieces = decoded(path, encoding)
    is_last, is_start = False, True
    while not is_last:
        piece = next(pieces, None)
        is_last = piece is None
        text += (piece or "").removeprefix("\ufeff") if is_start else piece or ""
        if len(text) < least and not is_last:
            continue
        position, least = 0, 0
        if is_start:
            position = len(text) - len(text.lstrip())
            position += text.startswith("[", position)
            is_start = False
        while True:
            position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
            if position == len(text) or (text[position] == "]" and not text[position + 1 :].strip()):
                break
            try:
                if text[position] != "{":
                    raise UserError(
                        f"{path}: line {line + text.count(chr(10), 0, position)} is not a JSON object"
                    )
                row, end = decoder.raw_decode(text, position)
            except (ValueError, RecursionError):
                if is_last or len(text) - position > _LONGEST_OBJECT:
                    number = line + text.count("\n", 0, position)
                    raise UserError(
                        f"{path}: the JSON object that starts in line {number} is broken or too long"
                    ) from None
                least = 2 * (len(text) - position)
                break
            yield row
            position = end
        line += text.count("\n", 0, position)
        text = text[position:]
