"""The collaborative stage: train the collaborative models that other stages read."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec import layout
from llmrec.artifacts import Stage, StageContext
from llmrec.stages import data

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llmrec.collaborative.system import System
    from llmrec.config import Recipe


def systems(recipe: Recipe, requested: Collection[str]) -> list[str]:
    """Systems to train, parts before what is made of them."""
    from llmrec.collaborative.systems import systems_in, with_parts

    return with_parts(recipe.collaborative, systems_in(requested))


def recipe_keys(recipe: Recipe, requested: Collection[str]) -> tuple[str, ...]:
    """Return the recipe keys of the requested systems only."""
    from llmrec.plugins import is_import_path

    keys: dict[str, None] = {}
    for name in systems(recipe, requested):
        settings = recipe.collaborative.of(name)
        if is_import_path(name) or name in type(recipe.collaborative).model_fields:
            keys[f"collaborative.{name}"] = None
        keys |= dict.fromkeys(settings.reads)
    return ("data.mask_seen", *keys) if keys else ()


def own_code(requested: Collection[str]) -> list[Path]:
    """Source files of the user's own systems that are to be trained."""
    from llmrec.collaborative.systems import systems_in
    from llmrec.plugins import source_files

    return source_files(systems_in(requested))


def run(context: StageContext) -> None:
    """Train each requested system. A system that was finished before a kill is not trained again.

    Writes `collaborative/<system><ending>`, for SASRec `.safetensors`, and `collaborative/report.json`. The manifest
    notes the processor seconds of each system.

    Raises:
        UserError: the data stage has not run, or what a system lacks, such as the extra `baselines`.
    """
    from llmrec.collaborative.systems import check_libraries, endings
    from llmrec.files import read_json, write_json

    names = systems(context.recipe, context.requested)
    check_libraries(context.recipe.collaborative, names)
    report = {}
    for name in names:
        kept = endings(context.recipe.collaborative, name)
        if not kept:  # a part that is fitted when needed
            continue
        finished = context.scratch / f".{name}.done"
        if not finished.is_file():
            _train(context, name, finished)
        done = read_json(finished)
        report[name] = done["report"]
        context.notes.setdefault("cpu_seconds", {})[name] = done["cpu_seconds"]
        for ending in kept:
            shutil.copyfile(
                context.scratch / f"{name}{ending}", context.work / layout.system_file(name, ending)
            )
    write_json(context.work / layout.COLLABORATIVE_REPORT, {"systems": report})


def _train(context: StageContext, name: str, finished: Path) -> None:
    """Train one system. The file `finished` is written last, so it proves that the files beside it are complete."""
    import polars as pl

    from llmrec.collaborative.system import System, TrainingData
    from llmrec.collaborative.systems import RECORD, load_baseline, train_system
    from llmrec.data.examples import load_items
    from llmrec.files import write_json
    from llmrec.plugins import is_import_path

    recipe, run, scratch = context.recipe, context.run, context.scratch
    items = load_items(run)["item_id"].cast(pl.String).to_list()
    system = recipe.collaborative.of(name)
    assert isinstance(system, System)
    data = TrainingData(
        run,
        name,
        items,
        scratch,
        load=lambda other: load_baseline(run, other, items, folder=scratch),
        seed=recipe.seed,
        mask_seen=recipe.data.mask_seen,
        encode_texts=lambda: _text_vectors(context),
    )
    if is_import_path(name):
        write_json(data.file(RECORD), _record(system, name))
    start = time.process_time()
    report = train_system(data, system)
    write_json(finished, {"report": report, "cpu_seconds": round(time.process_time() - start, 1)})


def _record(system: System, name: str) -> dict[str, Any]:
    """Settings of a user's own system, and the sha256 of its code."""
    from llmrec.assets import file_sha256
    from llmrec.plugins import source_files

    code = {path.name: file_sha256(path) for path in source_files([name])}
    return {"settings": system.model_dump(mode="json"), "code": code}


def _text_vectors(context: StageContext) -> npt.NDArray[np.float32]:
    """Vectors of the items' texts, float32 `[items, dim]`, by the recipe's encoder."""
    import polars as pl

    from llmrec.data.examples import load_items
    from llmrec.ids.inputs.text import item_texts
    from llmrec.ids.inputs.vectors import encode

    encoder = context.recipe.ids.encoder
    items = load_items(context.run).with_columns(pl.col("item_id").cast(pl.String))
    return encode(item_texts(items, encoder.fields), encoder)


STAGE = Stage(
    name="collaborative",
    help="Train the collaborative models that other stages read.",
    version=2,
    recipe_keys=recipe_keys,
    reads=(data.STAGE,),
    owns=("collaborative",),
    run=run,
    own_code=own_code,
    start_seconds=3,
)
