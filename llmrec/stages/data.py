"""The data stage: clean, filter and split the interactions that a dataset card names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.artifacts import Stage, StageContext

if TYPE_CHECKING:
    from llmrec.config import Recipe


def external(recipe: Recipe) -> list[Path]:
    """Return the files outside the run that the stage reads: the card and the dataset, fetched if necessary.

    Raises:
        UserError: the card or a file does not exist, or no source can be reached.
    """
    from llmrec.data.card import load_card
    from llmrec.data.source import locate

    card = load_card(recipe.data.card)
    return [card.path, *locate(card, recipe.data.root).files()]


def run(context: StageContext) -> None:
    """Write `interactions.parquet`, `items.parquet`, `users.parquet` (if any) and `report.json` in `data/`.

    Raises:
        UserError: invalid data or an invalid key; the message names the file and row, or the key.
    """
    from llmrec.data.build import build

    build(context)


STAGE = Stage(
    name="data",
    help="Clean, filter and split the interactions.",
    version=2,
    recipe_keys=("data.card", "data.root", "data.filters", "data.split", "data.ties"),
    reads=(),
    owns=("data",),
    run=run,
    external=external,
    start_seconds=1,
)
