"""`llmrec validate`: check a recipe and what it names, and show what is understood of the data."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError

from llmrec import assets, config
from llmrec.commands.stages.named_files import missing_files
from llmrec.commands.stages.resolve import split_run_name
from llmrec.config import DataConfig, EvalConfig, EvalTask, Recipe, TaskConfig
from llmrec.errors import InvalidValuesError, UserError
from llmrec.models.supported import check_local
from llmrec.models.tokenizer import check_local_tokenizer
from llmrec.pipeline import NAMES
from llmrec.train.alignment.rewards import load_reward

if TYPE_CHECKING:
    from llmrec.data.card import Card
    from llmrec.data.source import Dataset
    from llmrec.text.prompts import Fields


def run(name: str, overrides: list[str]) -> None:
    """Check a recipe and the suite, card and prompts that it names; print each problem in one line.

    The card's files are read if they are here, and what is understood of them is printed.

    Raises:
        UserError: the recipe cannot be read.
        typer.Exit: with code 2 after the problems are printed.
    """
    keys = split_run_name(overrides)[1]
    path, tree = config.recipe_tree(name, keys)
    problems: list[str] = []
    with _collect_errors(problems):
        tree = config.with_defaults(tree)
    with _collect_errors(problems):
        recipe = config.validate_overridden(Recipe, tree, str(path), keys)
        problems += missing_files(recipe, NAMES)
        check_local(recipe.base)
        check_local_tokenizer(recipe.base)
        for reward in recipe.grpo.rewards:
            load_reward(reward.name)
    card = _check_data(tree, problems)
    if card is not None:
        _look_at_data(card, tree["data"], problems)
    for problem in problems:
        print(f"llmrec: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(2)
    print(f"{path}: valid")


def _look_at_data(card: Card, section: dict[str, Any], problems: list[str]) -> None:
    """Print what is understood of a card's files, and collect what is wrong with them.

    Args:
        card: the card.
        section: the recipe's section `data`; its errors are reported by the recipe's schema.
        problems: the list that errors are added to.
    """
    from llmrec.data.guess.reading import is_small, read_dataset
    from llmrec.data.source import locate_here
    from llmrec.report.dataset import print_counts, print_rows, print_tables

    try:
        data = DataConfig.model_validate(
            {key: section.get(key) for key in ("card", "root", "filters", "split")}
        )
    except ValidationError:
        return
    with _collect_errors(problems), tempfile.TemporaryDirectory(prefix="llmrec-look-") as scratch:
        try:
            dataset = locate_here(card, data.root)
        except UserError as error:
            if data.card.endswith(assets.YAML):
                raise
            print(f"{card.name}: {error}")  # a shipped card is no mistake of the user's
            return
        if dataset is None:
            print(f"{card.name}: its files are not here yet; the stage data fetches them")
            return
        if not is_small(dataset):
            print_tables(dataset, None)
            print("the files are large: the stage data reads their rows")
        elif _has_columns(dataset, Path(scratch), problems):
            print_tables(dataset, Path(scratch))
            filters, split = data.filters or card.filters, data.split or card.split
            understood = read_dataset(dataset, filters, split, Path(scratch), rows=3)
            print_rows(understood)
            print_counts(understood)


def _has_columns(dataset: Dataset, scratch: Path, problems: list[str]) -> bool:
    """Whether all tables have the columns that the card names; what is missing in each is collected."""
    from llmrec.data.tables import read

    before = len(problems)
    for located in (dataset.interactions, dataset.items, dataset.users):
        if located is not None:
            joined = dataset.joined if located is dataset.interactions else ()
            with _collect_errors(problems):
                read.check_columns(*located, scratch, joined)
    return len(problems) == before


def _check_data(tree: dict[str, Any], problems: list[str]) -> Card | None:
    """Check the card, and the prompts and tasks against the card's fields, if the recipe names them; return it."""
    from llmrec.data.card import load_card
    from llmrec.estimate import card_fields

    data, fields, card = tree.get("data"), None, None
    if isinstance(data, dict) and isinstance(data.get("card"), str):
        with _collect_errors(problems):
            card = load_card(data["card"])
            fields = card_fields(card)
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
    return card


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
