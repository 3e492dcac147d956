"""Finds tables in a folder: which files are tables, how they are written, and which are parts of one table."""

from __future__ import annotations

import glob
import gzip
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.data.guess.layout import ways
from llmrec.data.tables import read, sniff
from llmrec.data.tables.described import Table
from llmrec.data.tables.notes import listed, quiet, short
from llmrec.data.times.wording import MONTHS
from llmrec.errors import UserError
from llmrec.files import cause_of

ROWS = 5_000
"""Rows of a file by which its columns are judged."""
KEYS_OF_OBJECT = "key"
"""Column of the keys, if a file is one JSON object of objects."""
_HEAD = 16 << 20
_MOST_FILES = 200
_TEXTS = {"readme", "license", "licence", "copying", "changelog", "notice"}
_DOCUMENTS = ".md .rst .yaml .yml .toml .ini .py .ipynb .r .sh .html .htm .pdf .log"
_PICTURES_AND_WEIGHTS = ".png .jpg .jpeg .gif .webp .svg .npy .npz .pt .safetensors .pkl .pickle"
_NEVER = {*_DOCUMENTS.split(), *_PICTURES_AND_WEIGHTS.split()}
_TABLES = {".csv", ".tsv", ".dat", ".data"}
_TO_UNPACK = {".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"}
_TO_EXPORT = {".xlsx", ".xls", ".ods", ".sqlite", ".db", ".sql", ".feather", ".avro", ".orc", ".xml"}
_GIVEN_PARTS = "train training valid validation val dev test"


def _of_words(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W\d_])(?:{words.replace(' ', '|')})(?![^\W\d_])", re.IGNORECASE)


_IS_GIVEN_PART = _of_words(_GIVEN_PARTS)
_CHANGING = " ".join((_GIVEN_PARTS, *MONTHS))
_PARTS = re.compile(rf"\d+|{_of_words(_CHANGING).pattern}", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"[{}]|\$\{")


@dataclass(frozen=True)
class FoundTable:
    """Files that hold one table, and how they are written.

    Attributes:
        path: the files as a card names them, relative to the folder: a file or a glob.
        files: the files.
        written: keys of the card that say how the files are written (`format`, `separator`, `header`, …).
        rows: their first rows, columns as in the files; text, except for typed columns of Parquet.
        is_whole: whether these are all rows.
        has_header: whether the files name their columns.
        join: the table that is joined to this one, if they are a log together.
        partial: names of columns that some of the files lack; these are not read.
    """

    path: str
    files: list[Path]
    written: dict[str, Any]
    rows: pl.DataFrame
    is_whole: bool
    has_header: bool = True
    join: FoundJoin | None = None
    partial: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.rows.columns

    def table(self, columns: dict[str, str]) -> Table:
        """Return the card's description of the table with some columns, meaning → name."""
        return Table(path=self.path, columns=columns, **self.written)


@dataclass(frozen=True)
class FoundJoin:
    """A table that is joined to another.

    Attributes:
        found: the table.
        by: `join.by` of the card.
    """

    found: FoundTable
    by: str | dict[str, str]


def find_tables(folder: Path, scratch: Path) -> tuple[list[FoundTable], dict[str, str]]:
    """Open each file of a folder that may be a table, by the readers of the data stage.

    Args:
        folder: the folder; files in folders below it are found too.
        scratch: folder for copies of the files' heads.

    Returns:
        The tables, the largest file first, and for each file that is none the reason.

    Raises:
        UserError: there are no files.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))
    if not paths:
        raise UserError(f"{folder}: no files in it")
    tables, left_out = [], {}
    for path in paths[:_MOST_FILES]:
        name = str(path.relative_to(folder))
        try:
            tables.append(_found(path, name, scratch))
        except UserError as error:
            left_out[name] = str(error).removeprefix(f"{path}: ")
    unseen = {str(path.relative_to(folder)) for path in paths[_MOST_FILES:]}
    tables = _grouped(sorted(tables, key=lambda table: -table.files[0].stat().st_size), folder, unseen)
    taken = {str(path.relative_to(folder)) for table in tables for path in table.files}
    if rest := sorted(unseen - taken):
        left_out[rest[0]] = f"as {len(rest) - 1:,} more; only the first {_MOST_FILES} files are looked at"
    return tables, left_out


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def _found(path: Path, name: str, scratch: Path) -> FoundTable:
    """Open one file.

    Raises:
        UserError: it is no table, or none that can be read.
    """
    ending = path.suffix.lower()
    if ending in _TO_UNPACK:
        raise UserError("an archive: unpack it")
    if ending in _TO_EXPORT:
        raise UserError("not a format that is read: export it as CSV")
    if ending in _NEVER or path.name.partition(".")[0].lower() in _TEXTS or _PLACEHOLDER.search(name):
        raise UserError("not a table")
    if sniff.is_parquet(path):
        return _opened(path, name, path, {"format": "parquet"}, scratch, is_whole=True)
    start = sniff.head(path)
    text = start.decode(sniff.encoding(Table(path=name, columns={}), start), "replace").removeprefix("\ufeff")
    if "\0" in text:
        raise UserError("not a table")
    head, is_whole = _head(path, scratch)
    problems = []
    possible = ways(path, text)
    for written in possible:
        try:
            return _opened(path, name, head, written, scratch, is_whole)
        except UserError as error:
            problems.append(UserError(str(error).replace(str(head), str(path))))
    if possible and not is_whole:
        # A value over several lines may be cut at the end of the head, and an array is not closed there.
        return _opened(path, name, path, possible[0], scratch, is_whole=True)
    if ending in _TABLES and not problems:
        raise UserError("no table: its lines have different numbers of values, whatever the separator")
    raise problems[0] if problems else UserError("not a table")


def _head(path: Path, scratch: Path) -> tuple[Path, bool]:
    """Return a file of a text file's first lines, not compressed, and whether these are all."""
    if path.suffix != ".gz" and path.stat().st_size <= _HEAD:
        return path, True
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start, is_whole = file.read(_HEAD), not file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"not a whole gzip file: {cause_of(error)}") from None
    folder = scratch / f"head-{len(list(scratch.iterdir()))}"
    folder.mkdir()
    target = folder / path.name.removesuffix(".gz")
    target.write_bytes(start if is_whole else start[: start.rfind(b"\n") + 1])
    return target, is_whole


def _opened(
    path: Path, name: str, head: Path, written: dict[str, Any], scratch: Path, is_whole: bool
) -> FoundTable:
    """Read the first rows of a file that is written in one way, and check the rest of its head."""
    copies = scratch / f"open-{len(list(scratch.iterdir()))}"
    copies.mkdir()
    try:
        with quiet():
            table = Table(path=name, columns={}, **written)
            kind, header = written["format"], written.get("header", True)
            if kind == "sequences":
                columns = ["user", "item"]
            elif isinstance(header, list):
                columns = header
            else:
                columns = read.column_names(table, head, copies, {KEYS_OF_OBJECT})
            columns = [column for column in columns if column and not _PLACEHOLDER.search(column)]
            table = Table(path=name, columns={column: column for column in columns}, **written)
            (part,) = read.scan(table, [head], copies)
            (rows,) = read.collect([part], table, part.frame.head(ROWS + 1))
    finally:
        shutil.rmtree(copies, ignore_errors=True)
    if rows.is_empty() or not rows.width:
        raise UserError("no rows in it")
    is_whole = is_whole and len(rows) <= ROWS
    # Below lines that are left out stands, or stood, a header line.
    has_header = "skip" in written or kind == "blocks" or not isinstance(header, list)
    return FoundTable(name, [path], written, rows.head(ROWS), is_whole, has_header)


def _grouped(tables: list[FoundTable], folder: Path, unseen: set[str]) -> list[FoundTable]:
    """Join files of one table: names that differ in digits, months, or train, valid and test, and like columns.

    Files that were not looked at belong to a table if its names are like theirs.
    """
    groups: list[list[FoundTable]] = []
    for table in tables:
        members = next((group for group in groups if _are_parts(group[0], table)), None)
        if members is None:
            groups.append([table])
        else:
            members.append(table)
    return [table for members in groups for table in _joined(members, folder, unseen)]


def _are_parts(one: FoundTable, other: FoundTable) -> bool:
    """Whether two files can be parts of one table. A later month may have a column more, a test set may not."""
    if one.written != other.written or _PARTS.sub("*", one.path) != _PARTS.sub("*", other.path):
        return False
    first, second = dict(one.rows.schema), dict(other.rows.schema)
    if _IS_GIVEN_PART.search(one.path):
        return first == second
    common = first.keys() & second.keys()
    is_like = 3 * len(common) >= 2 * max(len(first), len(second))
    return (
        is_like
        and len(common) == min(len(first), len(second))
        and all(first[name] == second[name] for name in common)
    )


def _joined(members: list[FoundTable], folder: Path, unseen: set[str]) -> list[FoundTable]:
    """Return files as one table, by a glob that matches them alone; as they are if there is none."""
    pattern = re.sub(r"\*[\W_]*(?:\*[\W_]*)*\*", "*", _PARTS.sub("*", members[0].path))
    for path in (pattern, re.sub(r"\d+", "[0-9]*", members[0].path)):
        matches = {str(Path(name)) for name in glob.glob(path, root_dir=folder)}  # noqa: PTH207
        if len(members) > 1 and matches - unseen == {member.path for member in members}:
            columns = [name for name in members[0].columns if all(name in m.columns for m in members)]
            partial = list(dict.fromkeys(name for m in members for name in m.columns if name not in columns))
            rows = pl.concat([member.rows.select(columns) for member in members]).head(ROWS)
            whole = all(m.is_whole for m in members) and sum(len(m.rows) for m in members) <= ROWS
            whole = whole and not matches & unseen
            files = sorted(folder / name for name in matches)
            joined = replace(members[0], path=path, files=files, rows=rows, is_whole=whole, partial=partial)
            return [joined]
    return members


def describe(table: FoundTable) -> str:
    """Return how a table's files are written, for the user: `csv, separator ';', no header`."""
    parts = [str(table.written["format"])]
    if table.written.get("separator") is not None:
        parts.append(f"separator {table.written['separator']!r}")
    parts += [f"{key} {table.written[key]!r}" for key in ("encoding", "escape") if table.written.get(key)]
    if not table.has_header:
        parts.append("no header line")
    if len(table.files) > 1:
        parts.append(f"{len(table.files)} files")
    return ", ".join(parts)


def listed_columns(table: FoundTable) -> str:
    """Return the names of a table's columns in one short line, without control characters."""
    return short(listed(repr(name)[1:-1] for name in table.columns))
