"""The collaborative stage: train the collaborative models that other stages read."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import Stage, StageContext
from llmrec.stages import data

if TYPE_CHECKING:
    from llmrec.config import Recipe


def sections(recipe: Recipe, requested: Collection[str]) -> tuple[str, ...]:
    """Return the recipe sections of the requested systems only."""
    from llmrec.collaborative.systems import systems_in

    return tuple(f"collaborative.{name}" for name in systems_in(requested))


def run(context: StageContext) -> None:
    """Train each requested system. A system that was finished before a kill is not trained again.

    Writes `collaborative/<system>.safetensors` and `collaborative/report.json`.

    Raises:
        UserError: the data stage has not run.
    """
    from llmrec.collaborative.systems import systems_in
    from llmrec.files import read_json, write_json

    report = {}
    for name in systems_in(context.requested):
        finished = context.scratch / f"{name}.json"
        if not finished.is_file():
            _train(context, name, finished)
        report[name] = read_json(finished)
        shutil.copyfile(finished.with_suffix(".safetensors"), context.work / layout.trained_system(name))
    write_json(context.work / layout.COLLABORATIVE_REPORT, {"systems": report})


def _train(context: StageContext, name: str, finished: Path) -> None:
    """Train one system. Its log is written last, so a log proves that the weights beside it are complete."""
    import polars as pl

    from llmrec.collaborative.sasrec import Sasrec
    from llmrec.collaborative.systems import LOSSES
    from llmrec.data.examples import evaluation_examples, load_items, training_histories
    from llmrec.files import atomic_write, write_json

    recipe, run = context.recipe, context.run
    config = getattr(recipe.collaborative, name)
    valid = evaluation_examples(run, "valid", users=config.valid_users, seed=recipe.seed)
    items = load_items(run)["item_id"].cast(pl.String).to_list()
    model, log = Sasrec.fit(
        training_histories(run), items, LOSSES[name], config, seed=recipe.seed, valid=valid
    )
    with atomic_write(finished.with_suffix(".safetensors")) as partial:
        model.save(partial)
    write_json(finished, {"valid_users": len(valid)} | log)


STAGE = Stage(
    name="collaborative",
    help="Train the sequential models that serve as baselines, teachers and item vectors.",
    version=1,
    sections=sections,
    reads=(data.STAGE,),
    owns=("collaborative",),
    run=run,
    start_seconds=3,
)
