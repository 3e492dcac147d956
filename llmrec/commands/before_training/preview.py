"""`llmrec preview RECIPE`: show training samples as the model reads them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from llmrec import pipeline
from llmrec.commands.stages.resolve import resolve
from llmrec.commands.stages.run import run_stages


def run(name: str, overrides: list[str]) -> None:
    """Print decoded training samples of a recipe, with ids, loss mask and the leak check.

    It reads the data, and trains nothing: if the run has no semantic IDs yet, examples take their place.
    """
    recipe, folder = resolve(name, overrides)
    from llmrec.ids.tokenizer import TextTokenizer

    # Textual IDs are made from item texts without training.
    is_textual = isinstance(recipe.ids.quantizer, TextTokenizer)
    has_ids = is_textual or "ids" not in pipeline.pending(recipe, folder, "ids")
    recipe = run_stages(recipe, folder, "ids" if has_ids else "data", records=False)
    from llmrec.train.sft.preview import render

    if has_ids:
        print(render(recipe, folder))
        return
    from llmrec.train.sft.example_ids import write_example_run

    print(
        "llmrec: the stage ids has not run, so the semantic IDs are examples; preview trains nothing",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as examples:
        write_example_run(recipe, folder, Path(examples))
        # Rows of tokens are not shown, and examples have no codebooks to start them from.
        base = recipe.base.model_copy(update={"init": "mean"})
        print(render(recipe.model_copy(update={"base": base}), Path(examples)))
