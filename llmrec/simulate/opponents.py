"""What collaborative systems choose from the slates that the simulated user is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmrec import layout
from llmrec.collaborative.blocks import user_blocks
from llmrec.collaborative.system import Baseline
from llmrec.config import OWN_STAGES, Recipe
from llmrec.evaluate.summary import JUDGED_SPLIT, shown_cutoff
from llmrec.files import read_json
from llmrec.simulate.answers import share_of_best
from llmrec.simulate.slates import Slate

POPULARITY = "popularity"


def best_system(run: Path, recipe: Recipe) -> str | None:
    """Return the run's collaborative baseline with the highest NDCG, on validation users if they were evaluated.

    None if the run is not evaluated, or has no baseline but popularity, TIGER and the untuned model.
    """
    if not (run / layout.METRICS).is_file():
        return None
    metrics = read_json(run / layout.METRICS)
    splits = metrics["protocol"]["splits"]
    evaluated = metrics[JUDGED_SPLIT if JUDGED_SPLIT in splits else splits[0]]
    name = f"ndcg@{shown_cutoff(metrics['protocol']['k'])}"
    systems = [s for s in recipe.eval.baselines if s in evaluated and s not in (POPULARITY, *OWN_STAGES)]
    return max(systems, key=lambda system: float(evaluated[system][name]), default=None)


def found_by(model: Baseline, slates: Sequence[Slate], catalogue: Sequence[str], history: int) -> list[float]:
    """Whether a system's likeliest item of each slate is the held-out one: 1, 0, or 1 / m if m items are level.

    Args:
        model: the system.
        slates: slates with a held-out item.
        catalogue: all item ids.
        history: number of last items of the history that the system reads, as in the evaluation.
    """
    position = {item: row for row, item in enumerate(catalogue)}
    found = []
    for block in user_blocks(len(slates), len(catalogue)):
        scores = np.asarray(model.log_probs([slate.history[-history:] for slate in slates[block]], catalogue))
        for row, slate in zip(scores, slates[block], strict=True):
            assert slate.target is not None
            found.append(share_of_best(row[[position[item] for item in slate.items]], slate.target))
    return found
