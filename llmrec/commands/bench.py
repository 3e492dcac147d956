"""`llmrec bench NAME`: benchmarks are the modules of `llmrec.bench`, each with a `run(…, out)`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from llmrec import bench
from llmrec.errors import UserError
from llmrec.yaml_files import apply_overrides


def names() -> list[str]:
    """Benchmarks there are."""
    return sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))


def run(name: str | None, options: list[str]) -> None:
    """Run a benchmark, its options given as `key=value` (`out=FILE` writes JSON), or list the benchmarks.

    Raises:
        UserError: no benchmark or no option of that name.
    """
    if name is None:
        print("\n".join(names()))
        return
    if name not in names():
        raise UserError(f"bench: none named {name!r}; there are: {', '.join(names())}")
    function = importlib.import_module(f"llmrec.bench.{name}").run
    given, known = apply_overrides({}, options), inspect.signature(function).parameters
    for key in given:
        if key not in known:
            raise UserError(f"bench {name}: no option {key!r} ({', '.join(known)})")
    if given.get("out"):
        given["out"] = Path(str(given["out"]))
    function(**given)
