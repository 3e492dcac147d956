"""`llmrec bench NAME`: benchmarks are the modules of `llmrec.bench` that have a `run`."""

from __future__ import annotations

import importlib
import pkgutil

from llmrec import bench
from llmrec.errors import UserError


def names() -> list[str]:
    """Benchmarks there are."""
    return sorted(module.name for module in pkgutil.iter_modules(bench.__path__))


def run(name: str | None, options: list[str]) -> None:
    """Run a benchmark with its own options, or list the benchmarks.

    Raises:
        UserError: no benchmark of that name.
    """
    if name is None:
        print("\n".join(names()))
        return
    if name not in names():
        raise UserError(f"bench: none named {name!r}; there are: {', '.join(names())}")
    importlib.import_module(f"llmrec.bench.{name}").run(options)
