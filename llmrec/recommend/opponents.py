"""Recommends with one of a run's baselines in place of its language model."""

from __future__ import annotations

from collections.abc import Sequence

from llmrec import layout
from llmrec.collaborative import systems
from llmrec.collaborative.system import checked_lists
from llmrec.data.examples import load_items
from llmrec.errors import UserError
from llmrec.recommend.recommender import Recommendation
from llmrec.recommend.trained_run import TrainedRun


def recommend_with(
    run: TrainedRun, system: str, history: Sequence[str], k: int, mask_seen: bool
) -> list[Recommendation]:
    """Return the list of a baseline, as the evaluation makes it: from the last items that the language model reads.

    Items that were added to the catalogue since training are unknown to a baseline; retired ones never come out.

    Args:
        run: a run with its data.
        system: the baseline's key.
        history: item ids, oldest first.
        k: largest number of items.
        mask_seen: whether items of the history are left out.

    Raises:
        UserError: the run has no data (an export), the baseline was not trained in it, or an item is unknown.
    """
    if not (run.folder / layout.INTERACTIONS).is_file():
        raise UserError(f"{run.folder}: holds no interactions, of which {system} is made; use the run itself")
    run.encode_prompts([history])  # refuses an empty history, and unknown items
    items = load_items(run.folder)["item_id"].cast(str).to_list()
    model = systems.load_baseline(run.folder, system, items)
    known = set(items)
    read = [item for item in history[-run.encoder.history :] if item in known]
    out = [*run.catalogue.retired, *(history if mask_seen else ())]
    lists = model.recommend([read], k, [[item for item in out if item in known]])
    names, scores = checked_lists(lists, 1, k, system)
    return [
        Recommendation(item, run.title_of(item), score)
        for item, score in zip(names[0], scores[0], strict=True)
    ]
