"""Evaluate the baselines of a run on its own, before or without a language model.

    llmrec collaborative beauty-tiny run=sasrec 'eval.baselines=[sasrec_bce, sasrec_ce]'
    python eval/baselines.py runs/sasrec test out.json

The same lists, ranks and intervals as those of `llmrec eval`.
"""

import json
import sys
from pathlib import Path

import polars as pl

from llmrec.config import load_run_recipe
from llmrec.data.examples import evaluation_examples, load_items
from llmrec.evaluate.lists import baseline_lists, load_system
from llmrec.evaluate.summary import bootstrap_of, summarise
from llmrec.metrics.ranking import metric_names, score_ranks, target_ranks


def evaluate(run: Path, split: str) -> dict[str, object]:
    """Metrics and intervals of the baselines that a run's recipe names, over all users of a split."""
    recipe = load_run_recipe(run)
    items = load_items(run)["item_id"].cast(pl.String).to_list()
    examples = evaluation_examples(run, split, times=True)
    longest, masked = max(recipe.eval.k), recipe.data.mask_seen
    users = {}
    for name in recipe.eval.baselines:
        model = load_system(run, name, items)
        lists = baseline_lists(model, examples, recipe.data.history, longest, masked)
        users[name] = score_ranks(target_ranks(lists, examples, longest), recipe.eval.k)
    return summarise(users, metric_names(recipe.eval.k), bootstrap_of(recipe))


if __name__ == "__main__":
    found = evaluate(Path(sys.argv[1]), sys.argv[2])
    print(json.dumps(found, indent=2))
    if len(sys.argv) > 3:
        Path(sys.argv[3]).write_text(json.dumps(found, indent=2) + "\n", "utf-8")
