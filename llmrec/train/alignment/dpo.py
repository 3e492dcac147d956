"""Direct preference optimisation on pairs, through TRL's DPOTrainer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl
from datasets import Dataset
from trl import DPOConfig

from llmrec import layout
from llmrec.artifacts import StageContext
from llmrec.files import read_json_lines
from llmrec.models.lora import load_adapter_weights
from llmrec.models.vocabulary import without_pads
from llmrec.train.alignment.dpo_trainer import OURS, REFERENCE, UNUSED, PairCollator, TreeDPOTrainer
from llmrec.train.alignment.pairs import beam_searcher, make_pairs, read_pairs
from llmrec.train.alignment.setup import (
    InitialPolicy,
    alignment_arguments,
    load_initial_policy,
    order_prompts,
    train,
)
from llmrec.train.arguments import on_one_gpu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.config import Recipe
    from llmrec.recommend.trained_run import TrainedRun

METRIC_NAMES = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
    "entropy": "entropy",
}
"""TRL's names of what a pair's log-ratios say, and ours."""


def align_by_pairs(ctx: StageContext) -> None:
    """Align the SFT model with pairs, round after round; write `dpo/`, a pure LoRA adapter, and its log.

    Raises:
        UserError: pairs that are broken, a loss that is no number, or no memory left.
    """
    settings = ctx.recipe.dpo
    initial = load_initial_policy(ctx, settings)
    initial.run.catalogue.check_answers_at_once("dpo")
    pairs = read_pairs(ctx.run, initial.run.catalogue.items)
    steps = 0
    for number in range(settings.rounds):
        scratch = ctx.scratch / f"round-{number}"
        scratch.mkdir(exist_ok=True)
        if not (scratch / "done").is_file():
            if number:
                pairs = _pairs_of_round(ctx.recipe, initial, number)
            _train_round(ctx.recipe, initial, pairs, number, scratch)
            (scratch / "done").touch()
        load_adapter_weights(initial.model, scratch / "adapter")
        steps += _publish_log(scratch, ctx.work / layout.training_log("dpo"), steps, number * settings.epochs)
    shutil.copytree(scratch / "adapter", ctx.work / "dpo", dirs_exist_ok=True)
    ctx.notes.update(pairs=len(pairs), steps=steps, seed=initial.seed)


def _train_round(
    recipe: Recipe, initial: InitialPolicy, pairs: pl.DataFrame, number: int, scratch: Path
) -> None:
    settings = recipe.dpo
    rows = encode_pairs(initial.run, pairs)
    seed = initial.seed + number
    order = order_prompts([len(prompt) for prompt in rows["prompt"]], settings, seed)
    steps = len(order) // (settings.batch * settings.accumulate)
    # The reference of a round is the model that it starts from; TRL copies it.
    if REFERENCE in initial.model.peft_config:
        initial.model.delete_adapter(REFERENCE)
    ours = settings.loss in OURS
    trainer = TreeDPOTrainer(
        settings=settings,
        scorer=initial.scorer(settings),
        model=initial.model,
        args=on_one_gpu(
            DPOConfig(
                **alignment_arguments(settings, steps, seed, scratch, recipe.track.report_to),
                per_device_train_batch_size=settings.batch,
                loss_type=[UNUSED if ours else settings.loss],
                label_smoothing=0.0 if ours else settings.label_smoothing,
                max_length=None,
            )
        ),
        train_dataset=Dataset.from_dict(rows).select(order),
        data_collator=PairCollator(initial.pad_id),
        processing_class=initial.run.tokenizer,
    )
    lists = initial.validation_lists(settings.valid_lists, recipe.seed, recipe.data.mask_seen)
    train("dpo", settings, trainer, lists, METRIC_NAMES, scratch)


def encode_pairs(run: TrainedRun, pairs: pl.DataFrame) -> dict[str, list[list[int]] | list[list[list[int]]]]:
    """Pairs as rows of `PairCollator`.

    Args:
        run: whose encoder and catalogue.
        pairs: `history, chosen, rejected` of item ids.
    """
    spelt = without_pads(run.catalogue.tokens.tolist())
    index = run.catalogue.index
    items = [[chosen, *rejected] for chosen, rejected in pairs.select("chosen", "rejected").iter_rows()]
    return {
        "prompt": [run.encoder.prompt(run.template, history) for history in pairs["history"].to_list()],
        "completions": [[spelt[index[item]] for item in row] for row in items],
    }


def _pairs_of_round(recipe: Recipe, initial: InitialPolicy, number: int) -> pl.DataFrame:
    """Pairs made with the model as the rounds before have left it."""
    run = initial.run
    # A PeftModel hands all that it lacks on to the model that it wraps.
    beams = beam_searcher(run, cast("PreTrainedModel", initial.model), initial.pad_id)
    seed = recipe.seed + number
    return make_pairs(recipe.pairs, run.folder, run.catalogue, seed, recipe.data.history, beams)[0]


def _publish_log(scratch: Path, log: Path, steps: int, epochs: float) -> int:
    """Append a round's log, steps and epochs counted on from the rounds before; return the round's steps."""
    lines = read_json_lines(scratch / "metrics.jsonl")
    with log.open("a", encoding="utf-8") as file:
        for line in lines:
            shifted = line | {"step": line["step"] + steps, "epoch": round(line["epoch"] + epochs, 4)}
            file.write(json.dumps(shifted) + "\n")
    return max(line["step"] for line in lines)
