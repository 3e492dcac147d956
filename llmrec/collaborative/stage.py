"""The collaborative stage: trains the sequential models that a recipe needs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Literal

from llmrec.artifacts import StageContext, atomic_write, read_json, write_json
from llmrec.config import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOSSES: dict[str, Literal["bce", "ce"]] = {"sasrec_bce": "bce", "sasrec_ce": "ce"}


def files_for_ids(recipe: Recipe) -> list[str]:
    """What the stage ids reads of this one: the model whose item vectors it uses."""
    ids = recipe.ids
    return _files(["sasrec_ce"] if ids.quantizer.kind == "letter" or "collaborative" in ids.inputs else [])


def files_for_sft(recipe: Recipe) -> list[str]:
    """What the stage sft reads of this one: the teacher."""
    return _files([recipe.sft.distil.teacher] if recipe.sft.distil is not None else [])


def files_for_pairs(recipe: Recipe) -> list[str]:
    """What the stage pairs reads of this one: the judge of its items."""
    return _files([recipe.pairs.judge] if "judge" in recipe.pairs.sources else [])


def files_for_grpo(recipe: Recipe) -> list[str]:
    """What the stage grpo reads of this one: the model that a reward asks."""
    return _files([recipe.grpo.judge] if recipe.grpo.judged else [])


def files_for_decode(recipe: Recipe) -> list[str]:
    """What the stage decode reads of this one: the prior's model."""
    return _files([recipe.decode.prior.system] if recipe.decode.prior is not None else [])


def files_for_eval(recipe: Recipe) -> list[str]:
    """What the stage eval reads of this one: the baselines' models."""
    return _files(recipe.eval.baselines)


def needed(recipe: Recipe) -> list[str]:
    """The systems that a recipe needs trained."""
    readers = (
        files_for_ids,
        files_for_sft,
        files_for_pairs,
        files_for_grpo,
        files_for_decode,
        files_for_eval,
    )
    files = {file for read in readers for file in read(recipe)}
    return [name for name in LOSSES if trained_file(name) in files]


def _files(systems: Sequence[str]) -> list[str]:
    return [trained_file(name) for name in systems if name in LOSSES]


def trained_file(name: str) -> str:
    """Where a trained system lies in a run folder."""
    return f"collaborative/{name}.safetensors"


def run(context: StageContext) -> None:
    """Train what the recipe needs; a system that was finished before a kill is not trained again.

    Writes `collaborative/<system>.safetensors` and `collaborative/report.json`.

    Raises:
        UserError: the data stage has not run.
    """
    report = {}
    for name in needed(context.recipe):
        done = context.scratch / f"{name}.json"
        if not done.is_file():
            _train(context, name, done)
        report[name] = read_json(done)
        shutil.copyfile(done.with_suffix(".safetensors"), context.work / trained_file(name))
    write_json(context.work / "collaborative/report.json", {"systems": report})


def _train(context: StageContext, name: str, done: Path) -> None:
    """Train one system; its log, written last, says that the weights beside it are whole."""
    import polars as pl

    from llmrec.collaborative.sasrec import Sasrec
    from llmrec.data.examples import evaluation_examples, load_items, training_histories

    recipe, data = context.recipe, context.run
    config = getattr(recipe.collaborative, name)
    valid = evaluation_examples(data, "valid", users=config.valid_users, seed=recipe.seed)
    catalogue = load_items(data)["item_id"].cast(pl.String).to_list()
    model, log = Sasrec.fit(
        training_histories(data), catalogue, LOSSES[name], config, seed=recipe.seed, valid=valid
    )
    with atomic_write(done.with_suffix(".safetensors")) as partial:
        model.save(partial)
    write_json(done, {"valid_users": len(valid)} | log)
