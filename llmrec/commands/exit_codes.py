"""Exit codes of the command line, and the line on stderr that goes with them."""

from __future__ import annotations

import errno

from typer.exceptions import TyperException

from llmrec.commands.changed_files import changed_file
from llmrec.errors import UnknownItemError, UserError
from llmrec.files import DISK_FULL, disk_is_full
from llmrec.plugins import place_in_own_code

INTERRUPTED = 130
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of errors that say that a folder cannot be written."""


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
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
        return 2, f"{error.filename}: {error.strerror}; set LLMREC_RUNS or LLMREC_HOME to another folder"
    if (place := place_in_own_code(error)) is not None:
        return 2, f"{place}: {type(error).__name__}: {error} (your own code; traceback: llmrec --debug …)"
    if (fault := changed_file()) is not None:
        return 2, fault
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}; give another path"
    return 1, f"internal error: {type(error).__name__}: {error} (traceback: llmrec --debug …)"


def _usage(error: TyperException) -> str:
    """Return what is wrong with the arguments; Typer quotes pydantic where a value is of the wrong kind."""
    from pydantic import ValidationError

    if isinstance(error.__cause__, ValidationError):
        from llmrec.config.section import explain

        error.message = "; ".join(explain(lambda *_: [], None, error.__cause__.errors()))
    return error.format_message()
