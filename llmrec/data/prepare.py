"""Rewrites files that Polars cannot stream directly: gzip, other encodings, long separators, Python-dict lines."""

from __future__ import annotations

import ast
import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llmrec.data.card import Table
from llmrec.errors import UserError

UNIT_SEPARATOR = "\x1f"
_BLOCK = 1 << 20


def make_readable(table: Table, path: Path, scratch: Path) -> Path:
    """Return a UTF-8 file with one-character separators: `path` itself, or a rewritten copy under `scratch`.

    Raises:
        UserError: the file is empty, not gzip, truncated, not in the stated encoding, or does not hold Python dicts.
    """
    kind = table.format_of(path)
    recode = kind == "loose_jsonl" or table.encoding != "utf-8" or _has_long_separator(table, path)
    target = path
    if kind != "parquet" and (recode or path.suffix == ".gz"):
        target = scratch / f"{len(list(scratch.iterdir())):04d}-{path.name.removesuffix('.gz')}"
        try:
            with target.open("wb") as out:
                if recode:
                    out.writelines(line.encode() for line in _recoded(table, path))
                else:
                    out.writelines(_blocks(path))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not a whole gzip file: {error}") from None
    if target.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    return target


def _has_long_separator(table: Table, path: Path) -> bool:
    return table.format_of(path) == "csv" and len(table.separator_of(path)) > 1


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, decompressed if it is gzip, with a progress bar over its bytes on disk."""
    size = path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=f"reading {path.name}", delay=2, leave=False)
    with path.open("rb") as file, bar:
        source = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        while block := source.read(_BLOCK):
            bar.update(file.tell() - bar.n)
            yield block


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the decoded lines of a file, each with its line end."""
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    for block in _blocks(path):
        *whole, rest = (rest + decoder.decode(block)).split("\n")
        yield from (f"{line}\n" for line in whole)
    yield rest + decoder.decode(b"", final=True)


def _recoded(table: Table, path: Path) -> Iterator[str]:
    """Yield the lines of a file with standard encoding, separator and dict syntax."""
    is_loose = table.format_of(path) == "loose_jsonl"
    has_long_separator = _has_long_separator(table, path)
    row = 0
    try:
        for line in _lines(path, table.encoding):
            row += 1
            if has_long_separator:
                yield line.replace(table.separator_of(path), UNIT_SEPARATOR)
            elif is_loose and line.strip():
                yield json.dumps(_literal(line)) + "\n"
            elif not is_loose:
                yield line
    except UnicodeError:
        raise UserError(
            f"{path}: not {table.encoding} after line {row}; correct `encoding` in the card"
        ) from None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{path}: line {row} is not a Python dict") from None


def _literal(line: str) -> dict[str, Any]:
    value = ast.literal_eval(line.strip())
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__}, not a dict")
    return value
