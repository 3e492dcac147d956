"""What the baselines of finished runs reach, and what was chosen for them: one file of evidence.

    llmrec collaborative quickstart run=ml 'eval.baselines=[popularity, item_knn, recent_knn, …, mixture]'
    python eval/opponents.py out.json movielens-100k=runs/ml …

Settings are chosen on validation by the stage collaborative; the split given here is looked at with what was chosen.
Lists, ranks and intervals are those of `llmrec eval`; `paired` is NDCG@10 less that of the baseline named.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open

from llmrec import layout
from llmrec.artifacts import read_manifest
from llmrec.config import load_run_recipe
from llmrec.data.examples import evaluation_examples, load_items
from llmrec.evaluate.lists import baseline_lists, load_system
from llmrec.evaluate.summary import bootstrap_of, summarise
from llmrec.files import read_json
from llmrec.metrics.ranking import score_ranks, target_ranks
from llmrec.recommend.model_names import TIGER
from llmrec.report.figures import describe_measurement

METRICS = ["hr@10", "ndcg@10"]
AGAINST = "sasrec_ce"


def measure(run: Path, split: str, names: list[str] | None) -> dict[str, Any]:
    """Metrics of a run's baselines over all users of a split, and what the run has chosen for them."""
    recipe = load_run_recipe(run)
    items = load_items(run)["item_id"].cast(pl.String).to_list()
    examples = evaluation_examples(run, split, times=True)
    users, seconds = {}, {}
    for name in names or recipe.eval.baselines:
        start = time.perf_counter()
        model = load_system(run, name, items)
        lists = baseline_lists(model, examples, recipe.data.history, 10, recipe.data.mask_seen)
        users[name] = score_ranks(target_ranks(lists, examples, 10), [10])
        seconds[name] = round(time.perf_counter() - start, 1)
    cpu_seconds: dict[str, float] = {}
    for stage in ("collaborative", TIGER):
        cpu_seconds |= ((read_manifest(run, stage) or {}).get("notes") or {}).get("cpu_seconds", {})
    found = summarise(users, METRICS, bootstrap_of(recipe))
    for name, row in found.items():
        row |= {"fit_and_lists_seconds": seconds[name]}
        if name != AGAINST and AGAINST in users:
            row["paired"] = {AGAINST: paired(users[name], users[AGAINST], recipe.eval.bootstrap, recipe.seed)}
        row["cpu_seconds"] = cpu_seconds.get(name)
        row["parameters"] = parameters(run, name)
        chosen = validation(run, name)
        if chosen is not None:
            row["validation"] = chosen
    manifest = read_manifest(run, "collaborative") or {}
    return {"seed": recipe.seed, "history": recipe.data.history, "items": len(items), "systems": found} | {
        "collaborative_seconds": manifest.get("seconds")
    }


def validation(run: Path, name: str) -> dict[str, Any] | None:
    """Return what validation chose for a system, or the log of its training; None if nothing was chosen."""
    if name == TIGER:
        report: dict[str, Any] = read_json(run / layout.TIGER_REPORT)
        return report
    path = run / layout.COLLABORATIVE_REPORT
    chosen: dict[str, Any] | None = read_json(path)["systems"].get(name) if path.is_file() else None
    return chosen


def parameters(run: Path, name: str) -> int | None:
    """Return how many numbers a system has learned; None for systems that count, and for mixtures."""
    path = run / (layout.TIGER if name == TIGER else layout.system_file(name, ".safetensors"))
    if name == "text_knn" or not path.is_file():  # vectors of texts are not learned here
        return None
    with safe_open(path, framework="numpy") as file:
        slices = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118
        # Whole numbers are places in a sparse matrix.
        return sum(int(np.prod(part.get_shape())) for part in slices if "F" in part.get_dtype())


def paired(one: pl.DataFrame, other: pl.DataFrame, resamples: int, seed: int) -> list[float]:
    """Mean difference in NDCG@10, and its 95 % percentile interval over users."""
    gains = (one["ndcg@10"] - other["ndcg@10"]).to_numpy()
    rng = np.random.default_rng(seed)
    means = [gains[rng.integers(0, len(gains), len(gains))].mean() for _ in range(resamples)]
    return [round(float(x), 4) for x in (gains.mean(), *np.percentile(means, [2.5, 97.5]))]


def main() -> None:
    """Measure the runs that the command line names, and write one file."""
    out, *given = sys.argv[1:]
    split = os.environ.get("SPLIT", "test")
    names = ("torch", "numpy", "scipy", "polars", "sentence-transformers")
    command = "python eval/opponents.py " + " ".join([Path(out).name, *given])
    seed = "each run's own, with its figures"
    found = describe_measurement(command, *names, seed=seed) | {"split": split, "datasets": {}}
    for text in given:
        name, _, run = text.partition("=")
        run, _, only = run.partition(":")
        found["datasets"][name] = measure(Path(run), split, only.split(",") if only else None)
        for system, row in found["datasets"][name]["systems"].items():
            print(f"{name:24} {system:12} HR@10 {row['hr@10']:.4f} NDCG@10 {row['ndcg@10']:.4f}", flush=True)
    Path(out).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
