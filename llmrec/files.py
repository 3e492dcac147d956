"""Writes files completely or not at all, and recognises errors of a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrec.errors import UserError

DISK_FULL = "the disk is full; free space, then run the same command again"
_FULL_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_MESSAGES = re.compile(
    r"No space left on device|File too large|Disk quota exceeded|requested and \d+ written|inline_container"
)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an exception, or one of its causes, means that a file could not grow.

    Polars, safetensors, NumPy and torch hide the system's error number, so their messages are matched.
    """
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL_NUMBERS) or _FULL_MESSAGES.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def let_others_read(*files: Path) -> None:
    """Give files the permissions of any new file. safetensors lets only their owner read what it has written."""
    mask = os.umask(0)
    os.umask(mask)
    for file in files:
        with contextlib.suppress(PermissionError):  # a link to a file of somebody else, who decides about it
            file.chmod(0o666 & ~mask)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. If the block succeeds, the file is synced and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        let_others_read(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. Keys keep their order, and NaN is an error."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None


def read_json_lines(path: Path) -> list[Any]:
    """Read a file with one line of JSON an entry, such as the log of a training; empty lines are skipped.

    Raises:
        ValueError: a line is not JSON.
    """
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def cause_of(error: BaseException) -> str:
    """Why a file or an address cannot be read, in our words; what a library says of it helps no user."""
    cause = getattr(error, "reason", None)  # urllib's errors wrap the system's
    if isinstance(cause, OSError):
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(getattr(error, "code", None), int):  # urllib's of an answer that is an error
        return f"HTTP {error.code}"  # type: ignore[attr-defined]
    if isinstance(error, UnicodeDecodeError):
        return f"not {error.encoding.upper()} at byte {error.start + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at line {error.lineno}, column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "ends too early" if isinstance(error, EOFError) else "damaged, or of another kind"


def link_or_copy(source: Path, target: Path) -> None:
    """Link or copy a file to a second path; it is a hard link if the file system allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


@contextlib.contextmanager
def atomic_folder(dest: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `dest`. It replaces `dest` if the block succeeds, and is deleted otherwise."""
    partial = dest.absolute().with_name(f".{dest.absolute().name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        let_others_read(*(path for path in partial.rglob("*") if path.is_file()))
        if force:
            shutil.rmtree(dest, ignore_errors=True)
        partial.rename(dest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
