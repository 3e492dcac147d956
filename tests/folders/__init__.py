"""Folders as people bring them: each function of `dumps` and `exports` returns file name → bytes."""

from folders import dumps, exports


def files_of(name):
    """Return the files of a folder, by the name of its function."""
    return (getattr(dumps, name, None) or getattr(exports, name))()
