"""`llmrec preview RECIPE`: show training samples as the model reads them."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmrec import artifacts, pipeline
from llmrec.commands.stages.resolve import resolve, split_run_name
from llmrec.commands.stages.run import run_stages
from llmrec.config import Recipe


def run(name: str, overrides: list[str]) -> None:
    """Print decoded training samples of a recipe, with ids, loss mask and the leak check.

    It reads the data, and trains nothing: if the run has no semantic IDs yet, examples take their place. Only a run
    that is named (`run=NAME`) gets files, which its training then finds.
    """
    recipe, folder = resolve(name, overrides)
    from llmrec.ids.tokenizer import TextTokenizer

    # Textual IDs are made from item texts without training.
    is_textual = isinstance(recipe.ids.quantizer, TextTokenizer)
    has_ids = is_textual or "ids" not in pipeline.pending(recipe, folder, "ids")
    until = "ids" if has_ids else "data"
    is_named = split_run_name(overrides)[0] is not None
    with contextlib.nullcontext(folder) if is_named else _unnamed(recipe, folder, until) as place:
        _show(run_stages(recipe, place, until, records=False), place, has_ids)


@contextlib.contextmanager
def _unnamed(recipe: Recipe, run: Path, until: str) -> Iterator[Path]:
    """Yield the recipe's run if it has the stages up to `until`, else a folder that is removed afterwards."""
    stages = pipeline.stages_of(recipe, until)
    if not pipeline.pending(recipe, run, until) and all(artifacts.read_manifest(run, s.name) for s in stages):
        yield run
        return
    print("llmrec: preview keeps no files; run=NAME keeps the data for the run of that name", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="llmrec-preview-") as folder:
        yield Path(folder) / recipe.name


def _show(recipe: Recipe, run: Path, has_ids: bool) -> None:
    """Print the samples of a run with finished data, and with example IDs if it has none."""
    from llmrec.train.sft.example_ids import write_example_run
    from llmrec.train.sft.preview import render

    if has_ids:
        print(render(recipe, run))
        return
    print(
        "llmrec: the stage ids has not run, so the semantic IDs are examples; preview trains nothing",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as examples:
        write_example_run(recipe, run, Path(examples))
        # Rows of tokens are not shown, and examples have no codebooks to start them from.
        base = recipe.base.model_copy(update={"init": "mean"})
        print(render(recipe.model_copy(update={"base": base}), Path(examples)))
