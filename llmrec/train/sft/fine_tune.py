"""Supervised fine-tuning from a recipe to the files of `base/` and `sft/`, in one process or several."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from llmrec import layout
from llmrec.artifacts import StageContext
from llmrec.errors import UserError
from llmrec.models import modes
from llmrec.models.checkpoint import save_checkpoint
from llmrec.train.launch import run_in_processes
from llmrec.train.sft.prepare import Prepared, prepare


def fine_tune(ctx: StageContext) -> None:
    """Fine-tune, then write `base/`, `sft/` (an adapter in the LoRA modes) and `sft/metrics.jsonl`."""
    recipe = ctx.recipe
    _check_trackers(recipe.track.report_to)
    workers = ctx.workers
    if recipe.sft.batch % workers.count:
        raise UserError(
            f"sft.batch={recipe.sft.batch} trees a step cannot be shared by {workers.count} processes; "
            "make it a multiple of --processes"
        )
    if workers.sharded and recipe.sft.mode == "qlora":
        raise UserError(
            "--shard: bitsandbytes' 4-bit weights cannot be cut up; leave it out, or use sft.mode=lora"
        )
    together = workers.count > 1
    ctx.notes.update(run_in_processes(train_in_process, ctx) if together else train_in_process(ctx))


def train_in_process(ctx: StageContext) -> dict[str, Any]:
    """What one process of the training does; the first writes the files.

    Returns:
        Notes for the manifest.
    """
    from llmrec.train.sft.fit import fit

    recipe = ctx.recipe
    prepared = prepare(recipe, ctx.run)
    fitted = fit(ctx, prepared)
    if fitted.model is None:
        return {}
    epochs = fitted.epochs
    trained = modes.split(
        fitted.model, recipe.sft, prepared.catalogue.vocabulary, ctx.work / "sft", ctx.scratch
    )
    _write(ctx, prepared, trained)
    return {
        "parameters": sum(p.numel() for p in trained.parameters()),
        "trees": epochs.bounds[0][1] - epochs.bounds[0][0],
        "tokens_per_epoch": epochs.tokens_per_epoch,
        "prompts_shortened": prepared.encoder.shortened,
        **fitted.notes,
    }


def _write(ctx: StageContext, prepared: Prepared, trained: Any) -> None:
    base = ctx.work / layout.BASE
    save_checkpoint(base, trained, prepared.tokenizer)
    prepared.catalogue.save(base)
    (ctx.work / layout.training_log("sft")).write_bytes((ctx.scratch / "metrics.jsonl").read_bytes())


def _check_trackers(names: Sequence[str]) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"track.report_to: {name} is not installed; pip install it, or leave it out")
