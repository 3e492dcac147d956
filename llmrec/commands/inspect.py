"""Commands that show something and train nothing: `preview`, `recommend`, `compare`."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

from llmrec import pipeline
from llmrec.artifacts import find_run
from llmrec.commands.stages import resolve, run_stages
from llmrec.errors import UserError
from llmrec.files import write_json

TITLE_WIDTH = 60


def preview(name: str, overrides: list[str]) -> None:
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


def recommend(
    run: str,
    user: str | None,
    history: str | None,
    k: int,
    model: str | None = None,
    mask_seen: bool | None = None,
) -> None:
    """Print rank, title and score of the top `k` items for a user of the run, or for a history.

    Args:
        run: a run's name, or its folder.
        user: a user of the run's data.
        history: item ids separated by commas, oldest first.
        k: number of items.
        model: `base`, the name of an adapter, or the key of a baseline of the run; None for its best model.
        mask_seen: whether items of the history are left out; None as the run's own lists do.

    Raises:
        UserError: neither or both of `user` and `history`, or an unknown run, user, item or model.
    """
    if (user is None) == (history is None):
        raise UserError("recommend: give either --user ID or --history ITEM,ITEM")
    folder = find_run(run)
    from llmrec.recommend.opponents import is_opponent, recommend_with
    from llmrec.recommend.recommender import Recommender

    opponent = model if model is not None and is_opponent(model) else None
    items = [part.strip() for part in (history or "").split(",") if part.strip()]
    recommender = Recommender.load(folder, None if opponent else model)
    if user is not None:
        items = recommender.history(user)
    masked = recommender.run.masks_seen if mask_seen is None else mask_seen
    if opponent is None:
        rows = recommender.recommend(items, k, masked)
    else:
        rows = recommend_with(recommender.run, opponent, items, k, masked)
    width = min(TITLE_WIDTH, max(len(row.title) for row in rows)) if rows else 0
    print(f"rank  {'title':<{width}}  {'score':>8}  item")
    for rank, row in enumerate(rows, 1):
        title = row.title if len(row.title) <= width else row.title[: width - 1] + "…"
        print(f"{rank:>4}  {title:<{width}}  {row.score:>8.3f}  {row.item_id}")
    if len(rows) < k:
        print(
            f"{len(rows)} of {k}: the catalogue has no more items{' outside the history' if masked else ''}"
        )


def compare(
    runs: list[str], split: str | None, against: str | None, metrics: str | None, out: Path | None
) -> None:
    """Print HR and NDCG of runs side by side, with paired intervals; write the figures if `out` is given.

    Args:
        runs: names of runs, or their folders.
        split: `valid` or `test`; None for test, or the first split if there is no test.
        against: system of the same run to which the others are compared; None compares with the same system of the
            first run.
        metrics: names such as `ndcg@10`, with commas between them; None for HR and NDCG.
        out: JSON file for the figures.

    Raises:
        UserError: a run does not exist, is not evaluated on this split or lacks a metric, or one run is given alone.
    """
    if len(runs) == 1 and against is None:
        raise UserError("compare: only one run given; name a second, or --against SYSTEM of the same run")
    folders = [find_run(run) for run in runs]
    from llmrec.evaluate import compare as comparison
    from llmrec.report.screen import show

    names = [name.strip() for name in (metrics or "").split(",") if name.strip()]
    result = comparison.compare(folders, split, names or None, against)
    show(comparison.comparison_table(result))
    if out is not None:
        given = {"--split": split, "--against": against, "--metrics": metrics}
        options = [word for option, value in given.items() if value for word in (option, value)]
        command = shlex.join(["llmrec", "compare", *runs, *options])
        write_json(out, {"command": command} | result.as_json())
