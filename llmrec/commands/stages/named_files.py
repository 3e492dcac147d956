"""Files and folders that a recipe names: looked for before the first stage runs, since the last may read them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from llmrec.assets import expand_home
from llmrec.config import Recipe


def missing_files(recipe: Recipe, stages: Collection[str]) -> list[str]:
    """Return a message for each file or folder that is not there.

    Args:
        recipe: a whole recipe; its own paths are absolute.
        stages: names of the stages that are to run.
    """
    return [
        f"{key}: no such file or folder: {name}"
        for stage, key, name in _named(recipe)
        if stage in stages and not expand_home(name).exists()
    ]


def _named(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Yield stage, recipe key and path of what is read from outside the run; a model's id on a hub is no path."""
    ids = recipe.ids
    for name in ("vectors", "images"):
        if name in ids.inputs:
            yield "ids", f"ids.{name}", str(getattr(ids, name))
    if ids.quantizer.kind == "index":
        yield from (("ids", "ids.quantizer", str(path)) for path in ids.quantizer.external_files())
    if ids.quantizer.reads_vectors and "text" in ids.inputs and _is_path(ids.encoder.model):
        yield "ids", "ids.encoder.model", ids.encoder.model
    if recipe.sft.start is None and _is_path(recipe.base.model):
        yield "sft", "base.model", recipe.base.model
    if _is_path(recipe.base.model):
        yield "zero_shot", "base.model", recipe.base.model
    for name, path in recipe.eval.lists.items():
        yield "eval", f"eval.lists.{name}", path


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~"))
