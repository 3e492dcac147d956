"""`llmrec bench NAME`: run a benchmark. Each module of `llmrec.bench` is one, with a function `run(…, out)`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from llmrec import bench
from llmrec.errors import UserError
from llmrec.yaml_files import apply_overrides


def names() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))


def run(name: str | None, options: list[str]) -> None:
    """Run a benchmark with options `key=value` (`out=FILE` writes JSON), or list the benchmarks.

    Raises:
        UserError: an unknown benchmark or option.
    """
    if name is None:
        print("\n".join(names()))
        return
    if name not in names():
        raise UserError(f"bench: no benchmark named {name!r}; benchmarks: {', '.join(names())}")
    function = importlib.import_module(f"llmrec.bench.{name}").run
    arguments = apply_overrides({}, options)
    parameters = inspect.signature(function).parameters
    for key in arguments:
        if key not in parameters:
            raise UserError(f"bench {name}: no option {key!r} ({', '.join(parameters)})")
    if arguments.get("out"):
        arguments["out"] = Path(str(arguments["out"]))
    function(**arguments)
