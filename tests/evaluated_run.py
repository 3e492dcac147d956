"""A run folder with data and lists that a test makes, and its stages eval and report without a pipeline."""

import shutil

import numpy as np
import polars as pl
import yaml

from llmrec.artifacts import StageContext
from llmrec.config import Recipe
from llmrec.data.examples import evaluation_examples
from llmrec.evaluate.lists import SCHEMA
from llmrec.files import write_json
from llmrec.stages import eval as eval_stage

HOSTILE = '<script>alert("title")</script> & <a_12>'
ITEMS = [f"i{n}" for n in range(25)]


def make_recipe(name="tiny", **keys):
    tree = {
        "name": name,
        "data": {"card": "own.yaml"},
        "eval": {"k": [1, 5], "bootstrap": 50, "baselines": ["popularity", "item_knn"]},
        "decode": {"splits": ["valid", "test"]},
    }
    return Recipe.model_validate(tree | keys)


def make_run(folder, recipe, shift=0):
    """A run with 40 users; the model's list holds the target at rank 1 + shift for every second user."""
    generator = np.random.default_rng(7)
    rows = []
    for user in range(40):
        chosen = generator.choice(ITEMS, size=6 + user % 5, replace=False)
        splits = ["train"] * (len(chosen) - 2) + ["valid", "test"]
        rows += [
            (f"u{user}", item, time, split)
            for time, (item, split) in enumerate(zip(chosen, splits, strict=True))
        ]
    (folder / "data").mkdir(parents=True)
    (folder / "decode").mkdir()
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time", "split"], orient="row")
    frame.cast({"user_id": pl.Categorical, "item_id": pl.Categorical, "split": pl.Categorical}).write_parquet(
        folder / "data/interactions.parquet"
    )
    titles = [HOSTILE] * len(ITEMS)
    pl.DataFrame({"item_id": ITEMS, "title": titles}).write_parquet(folder / "data/items.parquet")
    counts = {"users": 40, "items": 25, "interactions": len(rows)}
    write_json(
        folder / "data/report.json", {"dataset": "own", "split": {"kind": "leave_one_out"}, "counts": counts}
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    for split in recipe.decode.splits:
        lists = []
        for row, (user, history, target) in enumerate(evaluation_examples(folder, split).iter_rows()):
            others = [item for item in ITEMS if item not in history and item != target]
            ranking = [*others[:shift], target, *others[shift:]] if row % 2 == 0 else others
            lists += [(user, rank, item, -float(rank)) for rank, item in enumerate(ranking[:5], 1)]
        frame = pl.DataFrame(lists, schema=SCHEMA, orient="row")
        frame.write_parquet(folder / f"decode/sft-{split}.parquet")
    return folder


def run_stage_function(module, recipe, run, stages=()):
    """Run a stage's function and move what it wrote into the run, as a commit does."""
    work = run / ".work"
    work.mkdir()
    module.run(StageContext(recipe, run, work, run / ".scratch", stages=stages))
    shutil.copytree(work, run, dirs_exist_ok=True)
    shutil.rmtree(work)


def make_evaluated_run(folder):
    """A run whose stage eval has run."""
    recipe = make_recipe()
    run = make_run(folder, recipe)
    run_stage_function(eval_stage, recipe, run)
    return run
