"""Catalogues by name, for processes that hold no model: vLLM's plugin, and the drivers of its rounds.

The registry is an environment variable, set before vLLM starts and inherited by its processes. So a request
names a catalogue, and never a path.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

from llmrec.catalogue.catalogue import Catalogue
from llmrec.errors import UserError

VARIABLE = "LLMREC_CATALOGUES"
"""Environment variable: a JSON object, name → `base/` folder."""


def register_catalogue(base: Path) -> str:
    """Name a `base/` folder in this process's environment, which vLLM's processes inherit.

    Returns:
        The name: its run's (a merged checkpoint's own), with a number where another folder has that one.
    """
    folder = base.resolve()
    folders = _registry()
    stem = (folder.parent.name if folder.name == "base" else folder.name) or "catalogue"
    name, number = stem, 1
    while folders.get(name, str(folder)) != str(folder):
        number += 1
        name = f"{stem}-{number}"
    os.environ[VARIABLE] = json.dumps(folders | {name: str(folder)})
    return name


def find_catalogue(name: str) -> Catalogue:
    """A registered catalogue, loaded once a process.

    Raises:
        UserError: no catalogue of that name, or one that cannot be read.
    """
    folders = _registry()
    if name not in folders:
        names = ", ".join(sorted(folders)) or "none"
        raise UserError(f"no catalogue named {name[:60]!r} is registered (there are: {names})")
    return _load(folders[name])


def reload_catalogue(name: str) -> Catalogue:
    """A registered catalogue, read again, so that it shows what has changed since this process first found it."""
    _load.cache_clear()
    return find_catalogue(name)


@lru_cache(maxsize=16)
def _load(folder: str) -> Catalogue:
    return Catalogue.load(Path(folder))


def _registry() -> dict[str, str]:
    text = os.environ.get(VARIABLE) or "{}"
    try:
        folders = json.loads(text)
    except ValueError:
        folders = None
    if not isinstance(folders, dict) or not all(isinstance(folder, str) for folder in folders.values()):
        raise UserError(f"{VARIABLE}: expected a JSON object of name → folder, found {text[:80]!r}")
    return folders
