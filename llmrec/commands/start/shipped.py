"""`llmrec ls`, `cat` and `cp`: the recipes, prompts, cards and suites that are shipped with llmrec."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path

from llmrec import assets
from llmrec.errors import UserError
from llmrec.files import atomic_write
from llmrec.yaml_files import read_yaml

NAME_COLUMNS = 25
"""Columns before a description."""
KINDS = {"recipes": "recipes", "prompts": "prompts", "cards": "data_prep", "suites": "eval/suites"}


def ls(kind: str | None) -> None:
    """Print the shipped names of one kind, or of every kind, with their descriptions.

    In a terminal a description is wrapped to its width; elsewhere an entry is one line.

    Raises:
        UserError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"ls: no kind named {kind!r}; kinds: {', '.join(KINDS)}")
    for label in [kind] if kind else KINDS:
        print(f"{label}:")
        for name in assets.names(KINDS[label]):
            print(_entry(name, _about(assets.find(KINDS[label], name))))


def _entry(name: str, about: str) -> str:
    """Return a name and its description, wrapped to the terminal's width if there is a terminal."""
    is_shown = sys.stdout.isatty() or "COLUMNS" in os.environ
    head, width = f"  {name}".ljust(NAME_COLUMNS), shutil.get_terminal_size().columns if is_shown else 0
    lines = textwrap.wrap(about, max(width - NAME_COLUMNS, NAME_COLUMNS)) if width else [about]
    return f"\n{' ' * NAME_COLUMNS}".join([head + lines[0], *lines[1:]]).rstrip() if lines else head.rstrip()


def _about(path: Path) -> str:
    """Return a file's `description`; without one, the comment on its first line."""
    comment = path.read_text("utf-8").partition("\n")[0].removeprefix("#").strip()
    return str(read_yaml(path).get("description") or comment)


def find(name: str) -> Path:
    """Return the path of a shipped file by `NAME`, or by `KIND/NAME` if several kinds have the name.

    Raises:
        UserError: no file or several files have the name.
    """
    label, _, rest = name.partition("/")
    if label in KINDS and rest:
        return assets.find(KINDS[label], rest.removesuffix(".yaml"))
    labels = [label for label, kind in KINDS.items() if name in assets.names(kind)]
    if len(labels) > 1:
        raise UserError(f"{name!r} is ambiguous: write {' or '.join(f'{label}/{name}' for label in labels)}")
    if not labels:
        raise UserError(f"no shipped file named {name!r}; `llmrec ls` lists them")
    return assets.find(KINDS[labels[0]], name)


def cat(name: str) -> None:
    """Print a shipped file."""
    print(find(name).read_text("utf-8"), end="")


def cp(name: str, dest: Path, force: bool) -> None:
    """Copy a shipped file to a file or into a folder.

    Raises:
        UserError: the file exists and `force` is not given.
    """
    source = find(name)
    target = dest / source.name if dest.is_dir() else dest
    if target.exists() and not force:
        raise UserError(f"{target}: exists already; --force overwrites it")
    with atomic_write(target) as partial:
        partial.write_bytes(source.read_bytes())
    print(target)
