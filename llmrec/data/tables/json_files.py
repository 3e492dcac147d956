"""Opens files of JSON: one object a line, as an array, pretty-printed, or as Python dicts."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

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
        return _written(table, path, scratch, rows, wanted)
    if encoding == "utf-8":
        readable = write_copy(path, scratch) if path.suffix == ".gz" else path
        return write_copy(path, scratch, _repaired(path, readable)) if _has_no_numbers(readable) else readable
    return write_copy(path, scratch, _repaired_lines(path, decoded_lines(path, encoding)))


def open_texts(table: Table, path: Path, frame: pl.LazyFrame, scratch: Path, wanted: Collection[str]) -> Path:
    """Return a file with one JSON object a line for a table in which objects are written as text.

    Args:
        table: the card's description of the file.
        path: the file, of any format.
        frame: its columns under their own names.
        scratch: folder for copies.
        wanted: names of the columns that will be read; `items.id` is the field `id` of the objects that the column
            `items` holds as text, in JSON or as Python writes them.

    Raises:
        UserError: a text that is no object and no list of objects; the message names the row.
    """
    names = frame.collect_schema().names()
    needed = {name if name in names else name.partition(".")[0] for name in wanted}
    lines = write_copy(path, scratch, [])
    frame.select(sorted(needed)).sink_ndjson(lines)
    return _written(table, path, scratch, partial(_line_rows, lines, "utf-8"), wanted)


def _written(
    table: Table, path: Path, scratch: Path, rows: Callable[[], Iterator[Row]], wanted: Collection[str]
) -> Path:
    return write_copy(path, scratch, map(_line, nested_rows(path, rows, wanted, table.columns_in_rows())))


def _is_lines(text: str, wanted: Collection[str]) -> bool:
    """Whether a file that starts with this text has its first object on one line."""
    line = text.partition("\n")[0]
    if not text.startswith("{"):
        return not text.startswith("[")
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or text[len(line) :].strip():
            return isinstance(row, dict)
        return not _is_mapping(row) and not _is_split(row) and _wrapped(row, wanted) is None
    except (ValueError, RecursionError):
        # A broken line among good ones is named when the lines are read.
        following = text[len(line) :].lstrip()
        return len(line) > 1 and following.startswith("{")


def _is_mapping(row: Row) -> bool:
    """Whether all values of an object, that of a whole file, are objects."""
    return bool(row) and all(isinstance(value, dict) for value in row.values())


def _is_split(row: Row) -> bool:
    """Whether an object, that of a whole file, is a table as pandas splits it: names of columns, rows of values."""
    names, rows = row.get("columns"), row.get("data")
    return isinstance(names, list) and isinstance(rows, list) and all(isinstance(each, list) for each in rows)


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

    A single object that wraps a list is read as the list, a single object of objects as its values. If one wanted
    column is in none of them, that is the keys.
    """
    rows = _objects(path, encoding)
    first, second = next(rows, None), next(rows, None)
    if first is None:
        raise UserError(f"{path}: no JSON object in it")
    if second is None and (name := _wrapped(first, wanted)) is not None:
        tell(path.name, f"read as one object with the rows in its list {name!r}")
        yield from first[name]
        return
    if second is None and _is_split(first):
        yield from _split_rows(path, first, wanted)
        return
    if second is None and _is_mapping(first):
        yield from _entries(path, first, wanted)
        return
    tell(path.name, "read as objects over several lines, not one a line")
    yield first
    if second is not None:
        yield second
    yield from rows


def _split_rows(path: Path, table: Row, wanted: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a table that pandas has split into names, index and values."""
    names = [str(name) for name in table["columns"]]
    if any(len(values) != len(names) for values in table["data"]):
        raise UserError(f"{path}: {len(names)} columns, and a row with another number of values")
    rows = [dict(zip(names, values, strict=True)) for values in table["data"]]
    index = table.get("index", [])
    tell(path.name, f"read as one object with names of columns and {len(rows):,} rows of values")
    if len(index) != len(rows) or index == list(range(len(rows))):
        yield from rows
    else:
        yield from _with_keys(path, index, rows, wanted)


def _entries(path: Path, mapping: Row, wanted: Collection[str]) -> Iterator[Row]:
    """Yield the values of an object of objects, or the rows of a table of which these are the columns."""
    keys, rows = list(mapping), list(mapping.values())
    if _are_columns(mapping, wanted):
        keys = list(rows[0])
        rows = [{name: values[key] for name, values in mapping.items()} for key in keys]
        tell(path.name, f"read as one object with the columns of {len(rows):,} rows")
        if _are_counted(keys):
            yield from rows
            return
    else:
        tell(path.name, f"read as one object of {len(rows):,} entries")
    yield from _with_keys(path, keys, rows, wanted)


def _with_keys(path: Path, keys: list[Any], rows: list[Row], wanted: Collection[str]) -> Iterator[Row]:
    """Yield rows, each with its key as the wanted column that all of them lack, if there is one."""
    lacking = sorted(set(wanted).difference(*rows))
    if len(lacking) > 1:
        raise UserError(
            f"{path}: one JSON object of {len(rows):,} entries, where one object a line is needed; "
            "map one column of the card to a new name, and the keys are read as that column"
        )
    for name in lacking:
        tell(path.name, f"the keys of its entries are the column {name!r}")
    yield from (dict.fromkeys(lacking, key) | row for key, row in zip(keys, rows, strict=True))


def _are_columns(mapping: Row, wanted: Collection[str]) -> bool:
    """Whether the objects of an object are the columns of a table, and their keys its rows, as pandas writes it.

    The keys count the rows, or the wanted columns are outside. If neither tells, the values of a column are of one
    type, and a table has more rows than columns.
    """
    columns = list(mapping.values())
    keys = list(columns[0])
    if not keys or any(list(column) != keys for column in columns):
        return False
    outside, inside = (len(set(wanted) & set(names)) for names in (mapping, keys))
    if _are_counted(keys) or outside != inside:
        return _are_counted(keys) or outside > inside
    are_alike, others_are = (
        all(len({type(value) for value in values if value is not None}) < 2 for values in table)
        for table in (
            (column.values() for column in columns),
            zip(*(c.values() for c in columns), strict=True),
        )
    )
    return len(keys) > len(columns) if are_alike == others_are else are_alike


def _are_counted(keys: list[str]) -> bool:
    return keys == [str(number) for number in range(len(keys))]


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
                    number = line + text.count("\n", 0, position)
                    is_list = text[position] == "["
                    way = ": a list has no names of columns; pandas writes them with orient='records'"
                    raise UserError(f"{path}: line {number} is not a JSON object{way if is_list else ''}")
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
