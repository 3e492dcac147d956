"""The tiger stage: an encoder-decoder that is trained on the run's semantic IDs, as a baseline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import data, ids

if TYPE_CHECKING:
    from llmrec.config import Recipe


def id_files(recipe: Recipe) -> list[str]:
    """Return the files of the stage ids that are read: the IDs, and how many codes a level has."""
    return [layout.SIDS, layout.IDS_REPORT]


def run(context: StageContext) -> None:
    """Train TIGER until validation no longer improves; write `tiger/model.safetensors` and `tiger/report.json`.

    The manifest notes the processor seconds.

    Raises:
        UserError: the IDs are textual, so they have no codes.
    """
    from llmrec.data.examples import evaluation_examples, training_histories, with_masked
    from llmrec.files import write_json
    from llmrec.ids.load import load_sids, load_sizes
    from llmrec.tiger.baseline import Tiger

    settings, seed = context.recipe.tiger, context.recipe.seed
    items, sids = load_sids(context.run)
    valid = with_masked(
        evaluation_examples(context.run, "valid", settings.valid_users, seed), context.recipe.data.mask_seen
    )
    histories = training_histories(context.run)
    start = time.process_time()
    model, log = Tiger.fit(histories, items, sids, load_sizes(context.run), settings, seed, valid)
    context.notes["cpu_seconds"] = {STAGE.name: round(time.process_time() - start, 1)}
    model.save(context.work / layout.TIGER)
    write_json(
        context.work / layout.TIGER_REPORT,
        {"valid_users": len(valid), "parameters": model.parameters} | log,
    )


STAGE = Stage(
    name="tiger",
    help="Train TIGER as a baseline, on the run's semantic IDs.",
    version=1,
    recipe_keys=("data.mask_seen", "tiger"),
    reads=(data.STAGE, Input(ids.STAGE, id_files)),
    owns=("tiger",),
    run=run,
    start_seconds=5,
)
