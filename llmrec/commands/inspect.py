"""Commands that show something and train nothing: `validate`, `preview`, `recommend`, `compare`."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError

from llmrec import assets, config, pipeline
from llmrec.artifacts import find_run
from llmrec.commands.stages import resolve, run_stages
from llmrec.config import EvalConfig, EvalTask, Recipe, TaskConfig
from llmrec.errors import InvalidValuesError, UserError
from llmrec.files import write_json
from llmrec.models.supported import check_local
from llmrec.models.tokenizer import check_local_tokenizer
from llmrec.train.alignment.rewards import load_reward

if TYPE_CHECKING:
    from llmrec.text.prompts import Fields

TITLE_WIDTH = 60


def validate(name: str, overrides: list[str]) -> None:
    """Check a recipe and the suite, card and prompts that it names; print each problem in one line.

    Raises:
        UserError: the recipe cannot be read.
        typer.Exit: with code 2 after the problems are printed.
    """
    path, tree = config.recipe_tree(name, [text for text in overrides if not text.startswith("run=")])
    problems: list[str] = []
    with _collect_errors(problems):
        tree = config.with_defaults(tree)
    with _collect_errors(problems):
        recipe = config.validate(Recipe, tree, str(path))
        check_local(recipe.base)
        check_local_tokenizer(recipe.base)
        for reward in recipe.grpo.rewards:
            load_reward(reward.name)
    _check_data(tree, problems)
    for problem in problems:
        print(f"llmrec: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(2)
    print(f"{path}: valid")


def _check_data(tree: dict[str, Any], problems: list[str]) -> None:
    """Check the card, and the prompts and tasks against the card's fields, if the recipe names them."""
    from llmrec.data.card import load_card
    from llmrec.estimate import card_fields

    data, fields = tree.get("data"), None
    if isinstance(data, dict) and isinstance(data.get("card"), str):
        with _collect_errors(problems):
            fields = card_fields(load_card(data["card"]))
    prompts = tree.get("prompts", [{"task": "sequential"}])
    entries = [entry for entry in prompts if isinstance(entry, dict)] if isinstance(prompts, list) else []
    for position, entry in enumerate(entries):
        with _collect_errors(problems):
            if fields is None and isinstance(entry.get("task"), str):
                assets.find("prompts", entry["task"])
            elif fields is not None:
                _check_task(entry, fields, is_first=position == 0)
    for eval_task in _eval_tasks(tree):
        with _collect_errors(problems):
            if fields is None:
                assets.find("prompts", eval_task.task)
            else:
                _check_eval_task(eval_task, fields)


def _eval_tasks(tree: dict[str, Any]) -> list[EvalTask]:
    """Return the entries of `eval.tasks`. Errors in an entry are reported by the recipe's schema."""
    section = tree.get("eval")
    try:
        return EvalConfig.model_validate(section if isinstance(section, dict) else {}).tasks
    except ValidationError:
        return []


def _check_eval_task(entry: EvalTask, fields: Fields) -> None:
    from llmrec.evaluate.tasks.questions import resolve_eval_task

    resolve_eval_task(entry, fields)


def _check_task(entry: dict[str, Any], fields: Fields, is_first: bool) -> None:
    """Check one entry of `prompts`. Errors in the entry itself are reported by the recipe's schema."""
    from llmrec.text.mix import load_training_mix, select_task

    try:
        config = TaskConfig.model_validate(entry)
    except ValidationError:
        return
    if is_first:
        load_training_mix([config], fields)
    else:
        select_task(config, fields)


@contextlib.contextmanager
def _collect_errors(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except InvalidValuesError as error:
        problems += error.problems
    except UserError as error:
        problems.append(str(error))


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


def recommend(run: str, user: str | None, history: str | None, k: int, model: str | None = None) -> None:
    """Print rank, title and score of the top `k` items for a user of the run, or for a history.

    Args:
        run: a run's name, or its folder.
        user: a user of the run's data.
        history: item ids separated by commas, oldest first.
        k: number of items.
        model: `base`, or the name of an adapter; None for the run's best model.

    Raises:
        UserError: neither or both of `user` and `history`, or an unknown run, user, item or model.
    """
    if (user is None) == (history is None):
        raise UserError("recommend: give either --user ID or --history ITEM,ITEM")
    folder = find_run(run)
    from llmrec.recommend.recommender import Recommender

    items = [part.strip() for part in (history or "").split(",") if part.strip()]
    recommender = Recommender.load(folder, model)
    if user is not None:
        items = recommender.history(user)
    rows = recommender.recommend(items, k)
    width = min(TITLE_WIDTH, max(len(row.title) for row in rows)) if rows else 0
    print(f"rank  {'title':<{width}}  {'score':>8}  item")
    for rank, row in enumerate(rows, 1):
        title = row.title if len(row.title) <= width else row.title[: width - 1] + "…"
        print(f"{rank:>4}  {title:<{width}}  {row.score:>8.3f}  {row.item_id}")
    if len(rows) < k:
        print(f"{len(rows)} of {k}: the catalogue has no more items outside the history")


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
