"""`llmrec recommend RUN`: the top items for a user or a history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import base_folder, find_run
from llmrec.commands.arguments import comma_separated
from llmrec.config import load_run_recipe
from llmrec.errors import UnknownModelError, UserError, shortened

if TYPE_CHECKING:
    from llmrec.recommend.requests import Recommendation

TITLE_WIDTH = 60


def run(
    name: str,
    user: str | None,
    history: str | None,
    k: int,
    model: str | None = None,
    mask_seen: bool | None = None,
) -> None:
    """Print rank, title and score of the top `k` items for a user of the run, or for a history.

    Args:
        name: a run's name, or its folder.
        user: a user of the run's data.
        history: item ids separated by commas, oldest first.
        k: number of items.
        model: `base`, the name of an adapter, or the key of a baseline of the run; None for its best model.
        mask_seen: whether items of the history are left out; None as the run's own lists do.

    Raises:
        UserError: neither or both of `user` and `history`, an unknown run, user, item or model, or a stage that the
            model needs is not finished: sft; for a baseline, collaborative.
    """
    if (user is None) == (history is None):
        raise UserError("recommend: give either --user ID or --history ITEM,ITEM")
    folder = find_run(name)
    from llmrec.recommend.model_names import makes_lists

    items = comma_separated(history)
    if model is not None and makes_lists(model):
        rows, masked = _of_opponent(folder, model, user, items, k, mask_seen)
    else:
        rows, masked = _of_model(folder, model, user, items, k, mask_seen)
    width = min(TITLE_WIDTH, max(len(row.title) for row in rows)) if rows else 0
    print(f"rank  {'title':<{width}}  {'score':>8}  item")
    for rank, row in enumerate(rows, 1):
        print(f"{rank:>4}  {shortened(row.title, width):<{width}}  {row.score:>8.3f}  {row.item_id}")
    if len(rows) < k:
        print(
            f"{len(rows)} of {k}: the catalogue has no more items{' outside the history' if masked else ''}"
        )


def _of_model(
    folder: Path, model: str | None, user: str | None, items: list[str], k: int, mask_seen: bool | None
) -> tuple[list[Recommendation], bool]:
    """Return the list of a language model, and whether items of the history are left out of it."""
    base_folder(folder)  # tells before anything heavy is imported that SFT is not done
    from llmrec.recommend.model_names import makes_lists
    from llmrec.recommend.recommender import Recommender

    try:
        recommender = Recommender.load(folder, model)
    except UnknownModelError as error:
        if not (folder / layout.INTERACTIONS).is_file():  # an export, or a merged checkpoint
            raise
        names = [name for name in load_run_recipe(folder).eval.baselines if makes_lists(name)]
        raise UserError(f"{error}; and opponents: {', '.join(names)}") from None
    history = items if user is None else recommender.history(user)
    masked = recommender.run.masks_seen if mask_seen is None else mask_seen
    return recommender.recommend(history, k, masked), masked


def _of_opponent(
    folder: Path, system: str, user: str | None, items: list[str], k: int, mask_seen: bool | None
) -> tuple[list[Recommendation], bool]:
    """Return the list of a baseline, and whether items of the history are left out of it; needs no language model."""
    from llmrec.recommend.histories import UserHistories
    from llmrec.recommend.opponents import Opponent

    opponent = Opponent.load(folder, system)
    history = items if user is None else UserHistories.load(folder).of(user)
    masked = opponent.masks_seen if mask_seen is None else mask_seen
    return opponent.recommend(history, k, masked), masked
