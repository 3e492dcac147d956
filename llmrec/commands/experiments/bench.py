"""`llmrec bench NAME`: run a benchmark. Each module of `llmrec.bench` is one, with a function `run(…, out)`."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import create_model

from llmrec import bench
from llmrec.config import validate
from llmrec.errors import UserError
from llmrec.yaml_files import apply_overrides


def names() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))


def _about(name: str) -> str:
    """Return the first line of a benchmark's docstring; its module, which may load torch, is not imported."""
    path = Path(bench.__path__[0]) / f"{name}.py"
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def run(name: str | None, options: list[str], dry_run: bool = False) -> None:
    """Run a benchmark with options `key=value` (`out=FILE` writes JSON), or list the benchmarks.

    What a benchmark requires, such as the file of `quality`, may stand first without its key.

    Raises:
        UserError: an unknown benchmark or option, a benchmark without a dry run, or a requirement is missing.
    """
    if name is None:
        for each in names():
            print(f"{each:<14} {_about(each)}")
        return
    if name not in names():
        raise UserError(f"bench: no benchmark named {name!r}; benchmarks: {', '.join(names())}")
    function = importlib.import_module(f"llmrec.bench.{name}").run
    parameters = inspect.signature(function).parameters
    required = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    first = list(itertools.takewhile(lambda text: "=" not in text, options[: len(required)]))
    arguments = dict(zip(required, first, strict=False)) | apply_overrides({}, options[len(first) :])
    if dry_run:
        arguments["dry_run"] = True
    for key in arguments:
        if key not in parameters:
            raise UserError(f"bench {name}: no option {key!r} ({', '.join(parameters)})")
    for key in required:
        if key not in arguments:
            raise UserError(
                f"bench {name}: {key.upper()} is missing; write llmrec bench {name} {key.upper()}"
            )
    function(**_typed(function, arguments, f"bench {name}"))


def _typed(function: Callable[..., Any], arguments: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a function's arguments as the types that it declares.

    Raises:
        UserError: a value is of another type.
    """
    types = typing.get_type_hints(function)
    fields: dict[str, Any] = {key: (types[key], ...) for key in arguments}
    options = validate(create_model("Options", **fields), arguments, where)
    return {key: getattr(options, key) for key in arguments}
