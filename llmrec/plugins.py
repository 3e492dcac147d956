"""Code by import path: parts that llmrec ships under a short name, and a user's own as `module:name`.

A user's module is run when it is loaded. It is looked for among installed packages and in the working directory.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.errors import UserError, did_you_mean

PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""What an import path looks like."""
_OWN_FILES: set[str] = set()
"""Source files of the user's modules that this process has loaded."""


def is_import_path(name: str) -> bool:
    """Whether a name is a user's own `module:name`, and not one that llmrec ships."""
    return ":" in name


def suggest_name(name: str, names: list[str]) -> str:
    """What to write in place of an unknown name: `module:name` for a dotted one, else the nearest of `names`."""
    module, _, attribute = name.rpartition(".")
    return f"write {module}:{attribute}" if module else did_you_mean(name, names)


@dataclass(frozen=True)
class Registry:
    """Parts of one kind: the shipped ones by name, and any other by import path.

    Attributes:
        noun: what a part is called in messages.
        base: import path of the class that a part derives from, or is an instance of.
        method: the function that a part must have.
        parameters: what `method` is called with, `self` left out.
        shipped: name → import path. A part is imported when it is loaded, so a name costs nothing.
    """

    noun: str
    base: str
    method: str
    parameters: tuple[str, ...]
    shipped: Mapping[str, str]

    def load(self, name: str) -> Any:
        """The part of a name or of an import path.

        Raises:
            UserError: no such part, a module that cannot be imported, or something that is no such part.
        """
        if name in self.shipped:
            return load_object(self.shipped[name])
        if not is_import_path(name):
            raise UserError(f"no {name!r} ({suggest_name(name, list(self.shipped))})")
        base = load_object(self.base)

        def fits(value: Any) -> bool:
            return issubclass(value, base) if isinstance(value, type) else isinstance(value, base)

        part = load_object(name, self.noun, fits)
        if not fits(part):
            raise UserError(
                f"{name} is no {self.noun}: it must come from {self.base.replace(':', '.')}, "
                f"not be a {type(part).__name__}"
            )
        if inspect.isabstract(part):
            raise UserError(f"{name} lacks {', '.join(sorted(part.__abstractmethods__))}")
        function = getattr(part, self.method, None)
        if not callable(function):
            raise UserError(f"{name} has no function {self.method}")
        own = ("self", *self.parameters) if isinstance(part, type) else self.parameters
        check_parameters(function, own, f"{name}: {self.method}")
        return part


def load_object(path: str, noun: str = "object", fits: Callable[[Any], bool] = callable) -> Any:
    """What an import path `module:name` names.

    Args:
        path: of the user's code, or of our own.
        noun: what is looked for, in messages.
        fits: tells which names of the module a message may propose.

    Raises:
        UserError: a malformed path, a module that is not there or fails to load, or one without that name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise UserError(f"{path!r} is no import path; write module:name")
    module = _import_module(module_name, path)
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if not key.startswith("_") and fits(value)]
        public = [key for key in public if not _is_imported(vars(module)[key], module_name)] or public
        raise UserError(f"{path}: no {noun} {name!r} there ({did_you_mean(name, public)})")
    return getattr(module, name)


def _is_imported(value: Any, module: str) -> bool:
    """Whether a class or function of a module comes from another module."""
    return (isinstance(value, type) or inspect.isfunction(value)) and value.__module__ != module


def check_parameters(function: Callable[..., Any], parameters: Iterable[str], what: str) -> None:
    """Raise a UserError unless a function can be called with so many positional arguments.

    Args:
        function: the user's.
        parameters: names of the arguments, for the message.
        what: names the function in the message.
    """
    names = list(parameters)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # compiled code need not tell
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise UserError(
            f"{what}{signature} has the wrong signature; it is called as ({', '.join(names)})"
        ) from None


def source_files(names: Iterable[str]) -> list[Path]:
    """Source files of the import paths among some names; they are part of the key of the stage that runs them."""
    _see_working_directory()
    files = []
    for name in names:
        module = name.partition(":")[0]
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(module) if is_import_path(name) else None
            if spec is not None and spec.origin is not None:
                files.append(Path(spec.origin))
    return sorted(set(files))


def _import_module(module: str, path: str) -> Any:
    _see_working_directory()
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"{path}: no module {error.name!r}; it is looked for in the working directory "
                "and among installed packages"
            ) from None
        problem = " ".join(str(error).split())
        raise UserError(
            f"{path}: module {module!r} cannot be imported: {type(error).__name__}: {problem}"
        ) from error

    if module.partition(".")[0] != "llmrec" and imported.__file__ is not None:
        _OWN_FILES.add(imported.__file__)
    return imported


def place_in_own_code(error: BaseException) -> str | None:
    """Where an exception was raised in a user's own code, as `file.py, line N`; None if it was raised elsewhere."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _OWN_FILES]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else None


def _see_working_directory() -> None:
    """Make the working directory importable, behind all else that is."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
