"""Exit codes of the command line, and the line on stderr that goes with them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from typer.exceptions import TyperException

from llmrec.assets import home
from llmrec.commands.changed_files import changed_file
from llmrec.errors import UnknownItemError, UserError
from llmrec.files import DISK_FULL, disk_is_full
from llmrec.layout import runs_root
from llmrec.plugins import place_in_own_code

INTERRUPTED = 130
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of errors that say that a file or folder may not be read or written."""


def explain_error(error: Exception) -> tuple[int, str]:
    """Return the exit code (2 a mistake of the user, 1 of llmrec) and the one-line message for an exception."""
    if isinstance(error, TyperException):
        return error.exit_code, f"{_usage(error)} (llmrec --help)"
    if isinstance(error, UnknownItemError):
        return 2, f"{error}; search by title: llmrec items {error.run or 'RUN'} --find WORDS"
    if isinstance(error, UserError):
        return 2, str(error)
    if disk_is_full(error):
        return 2, DISK_FULL
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in FORBIDDEN):
        return 2, _forbidden(error)
    if (place := place_in_own_code(error)) is not None:
        return 2, f"{place}: {type(error).__name__}: {error} (your own code; traceback: llmrec --debug …)"
    if (fault := changed_file()) is not None:
        return 2, fault
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}; give another path"
    return 1, f"internal error: {type(error).__name__}: {error} (traceback: llmrec --debug …)"


def _forbidden(error: OSError) -> str:
    """Say what may not be read or written; a folder that llmrec chose is moved by a variable."""
    if not isinstance(error.filename, str | bytes):  # unknown, or the number of an open file
        return f"{error.strerror or error} (where: llmrec --debug …)"
    name = os.fsdecode(error.filename)
    path = Path(name).absolute()
    folders = {"LLMREC_RUNS": runs_root().absolute(), "LLMREC_HOME": home().absolute()}
    for variable, folder in folders.items():
        # A folder that cannot be made is named by the first of its parents that is missing.
        if path.is_relative_to(folder) or folder.is_relative_to(path):
            return f"{name}: {error.strerror}; set {variable} to another folder"
    return f"{name}: {error.strerror}; give another path"


def _usage(error: TyperException) -> str:
    """Return what is wrong with the arguments; Typer quotes pydantic where a value is of the wrong kind."""
    from pydantic import ValidationError

    if isinstance(error.__cause__, ValidationError):
        from llmrec.config.section import explain

        error.message = "; ".join(explain(lambda *_: [], None, error.__cause__.errors()))
    return error.format_message()
