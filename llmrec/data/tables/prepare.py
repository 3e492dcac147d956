"""Copies text files into a form that Polars can stream: without gzip, in UTF-8, rows on lines."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmrec.errors import UserError
from llmrec.files import cause_of
from llmrec.progress.bar import Progress

_BLOCK = 1 << 20
_MEGABYTE = 10**6


def write_copy(path: Path, scratch: Path, lines: Iterable[str] | None = None, skip: int = 0) -> Path:
    """Write a copy of a file under `scratch`: the given lines in UTF-8, or else its decompressed bytes.

    Args:
        path: the file.
        scratch: folder of the copy.
        lines: the lines; None for the file's bytes.
        skip: number of the file's first lines that the copy of its bytes lacks.

    Raises:
        UserError: the file is not gzip, or truncated.
    """
    target = scratch / f"{len(list(scratch.iterdir())):04d}-{path.name.removesuffix('.gz')}"
    try:
        with target.open("wb") as out:
            if lines is None:
                out.writelines(_without_lines(_blocks(path), skip))
            else:
                # A text of JSON may hold halves of surrogate pairs, which UTF-8 has no bytes for.
                out.writelines(line.encode("utf-8", "replace") for line in lines)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file: {cause_of(error)}") from None
    return target


def _without_lines(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for block in blocks:
        found = block.count(b"\n") if count else 0
        rest = block.split(b"\n", count)[-1] if found >= count else b""
        count -= min(found, count)
        yield rest


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, decompressed if it is gzip, with a progress bar over its bytes on disk."""
    megabytes = Progress(f"reading {path.name}", path.stat().st_size // _MEGABYTE, "MB")
    with path.open("rb") as file, megabytes:
        source = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        while block := source.read(_BLOCK):
            megabytes.update(file.tell() // _MEGABYTE - megabytes.done)
            yield block


def decoded(path: Path, encoding: str) -> Iterator[str]:
    """Yield the text of a file in pieces.

    Raises:
        UserError: the file is not in this encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    try:
        for block in _blocks(path):
            text = decoder.decode(block)
            line += text.count("\n")
            yield text
        yield decoder.decode(b"", final=True)
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError):
            line += error.object[: error.start].count(b"\n")
        raise UserError(
            f"{path}: line {line}: not {encoding}; name the file's `encoding` in the card, such as cp1252"
        ) from None


def decoded_lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the decoded lines of a file, each with its line end.

    Raises:
        UserError: the file is not in this encoding.
    """
    rest = ""
    for text in decoded(path, encoding):
        *whole, rest = (rest + text).split("\n")
        yield from (f"{line}\n" for line in whole)
    if rest:
        yield rest
