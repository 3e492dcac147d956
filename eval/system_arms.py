"""Train one collaborative system, or TIGER, with several settings, and write what each reaches on validation users.

    llmrec ids quickstart run=ml
    python eval/system_arms.py runs/ml hstu out.json '{}' '{layers: 4}' '{dropout: 0.2}'
    python eval/system_arms.py runs/ml tiger out.json '{}' '{dim: 128}'

Each arm is a mapping of the system's settings. The file grows arm by arm; an arm that is there is not trained again.
No test user is looked at. TIGER reads the run's semantic IDs, the others its data alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from llmrec.collaborative.system import System, TrainingData
from llmrec.collaborative.systems import load_baseline, train_system
from llmrec.config import TigerConfig, load_run_recipe, validate
from llmrec.config.collaborative import system_class
from llmrec.data.examples import evaluation_examples, load_items, training_histories, with_masked
from llmrec.files import read_json
from llmrec.ids.load import load_sids, load_sizes
from llmrec.recommend.model_names import TIGER
from llmrec.report.figures import describe_measurement
from llmrec.tiger.baseline import Tiger


def train(run: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train a system on a run's training split, and return what it reports: validation NDCG@10 by epoch and so on."""
    items = load_items(run)["item_id"].cast(pl.String).to_list()
    recipe = load_run_recipe(run)
    seed, mask_seen = recipe.seed, recipe.data.mask_seen
    if name == TIGER:
        config = validate(TigerConfig, settings, name)
        given, sids = load_sids(run)
        valid = with_masked(evaluation_examples(run, "valid", config.valid_users, seed), mask_seen)
        histories = training_histories(run)
        return Tiger.fit(histories, given, sids, load_sizes(run), config, seed, valid)[1]
    system = validate(system_class(name), settings, name)
    assert isinstance(system, System)
    with tempfile.TemporaryDirectory() as folder:

        def load(other: str) -> Any:
            return load_baseline(run, other, items)

        data = TrainingData(run, name, items, Path(folder), load, seed=seed, mask_seen=mask_seen)
        return train_system(data, system)


def main() -> None:
    """Train the arms that the command line names, one after another."""
    run, name, out, *arms = sys.argv[1:]
    path = Path(out)
    found: dict[str, Any] = (
        read_json(path)
        if path.is_file()
        else describe_measurement(
            f"python eval/system_arms.py {run} {name} {path.name} …",
            *("torch", "numpy", "polars", "transformers"),
            seed=load_run_recipe(Path(run)).seed,
        )
        | {"split": "valid", "arms": []}
    )
    for text in arms:
        settings = yaml.safe_load(text)
        if any(arm["settings"] == settings for arm in found["arms"]):
            continue
        start = time.process_time()
        report = train(Path(run), name, settings)
        arm = {"settings": settings, "best": max(report["ndcg@10"]), "cpu_seconds": 0.0} | report
        arm["cpu_seconds"] = round(time.process_time() - start, 1)
        found["arms"].append(arm)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"{arm['best']:.4f} {arm['cpu_seconds']:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
