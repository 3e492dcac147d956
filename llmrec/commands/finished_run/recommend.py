"""`llmrec recommend RUN`: the top items for a user or a history."""

from __future__ import annotations

from llmrec import layout
from llmrec.artifacts import find_trained_run
from llmrec.commands.arguments import comma_separated
from llmrec.config import load_run_recipe
from llmrec.errors import UnknownModelError, UserError, shortened

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
        UserError: neither or both of `user` and `history`, or an unknown run, user, item or model.
    """
    if (user is None) == (history is None):
        raise UserError("recommend: give either --user ID or --history ITEM,ITEM")
    folder = find_trained_run(name)
    from llmrec.recommend.model_names import makes_lists
    from llmrec.recommend.opponents import recommend_with
    from llmrec.recommend.recommender import Recommender

    opponent = model if model is not None and makes_lists(model) else None
    items = comma_separated(history)
    try:
        recommender = Recommender.load(folder, None if opponent else model)
    except UnknownModelError as error:
        if not (folder / layout.INTERACTIONS).is_file():  # an export, or a merged checkpoint
            raise
        names = [name for name in load_run_recipe(folder).eval.baselines if makes_lists(name)]
        raise UserError(f"{error}; and opponents: {', '.join(names)}") from None
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
        print(f"{rank:>4}  {shortened(row.title, width):<{width}}  {row.score:>8.3f}  {row.item_id}")
    if len(rows) < k:
        print(
            f"{len(rows)} of {k}: the catalogue has no more items{' outside the history' if masked else ''}"
        )
