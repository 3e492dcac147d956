"""The sft stage: supervised fine-tuning on token trees, through TRL's SFTTrainer."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.artifacts import StageContext
from llmrec.config import Recipe
from llmrec.data.examples import load_items
from llmrec.errors import UserError
from llmrec.ids.load import load_codebooks, load_sids, load_sizes, load_texts, trie_order
from llmrec.models.base import load_base
from llmrec.models.checkpoint import save_base
from llmrec.models.vocabulary import SidVocabulary, extend, extend_by_texts, without_pads
from llmrec.text.encode import PromptEncoder, item_texts
from llmrec.text.prompts import Template
from llmrec.train import samples
from llmrec.tree import TokenTree

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LOG_POINTS = 50
SAVE_POINTS = 10
# Below this many steps a save or a validation would cost more than the training between two of them.
LEAST_STEPS = 25


def external(recipe: Recipe) -> list[Path]:
    """Files outside the run that the stage reads: prompt files, and a local base model."""
    from llmrec import assets
    from llmrec.models.base import external as base_files

    return [assets.find("prompts", entry.task) for entry in recipe.prompts] + base_files(recipe.base)


@dataclass(frozen=True)
class Prepared:
    """A base model with its items' tokens, and the encoder that speaks its vocabulary."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    vocabulary: SidVocabulary
    items: list[str]
    sids: np.ndarray
    encoder: PromptEncoder
    mix: list[tuple[Template, float]]


def prepare(recipe: Recipe, run: Path) -> Prepared:
    """Load the base, extend its vocabulary by the run's SIDs, and set up the prompts.

    Raises:
        UserError: what the base, the prompts or the recipe have wrong.
    """
    texts = item_texts(load_items(run).to_dicts())
    model, tokenizer = load_base(recipe.base, _corpus(texts), recipe.seed)
    textual = load_texts(run)
    if textual is None:
        sizes, codebooks = load_sizes(run), load_codebooks(run)
        vocabulary = extend(model, tokenizer, sizes, codebooks, recipe.base.init, recipe.seed)
        items, sids = trie_order(*load_sids(run))
    else:
        vocabulary, spelt = extend_by_texts(model, tokenizer, textual[1])
        items, sids = trie_order(textual[0], spelt)
    tokens = dict(zip(items, without_pads(vocabulary.encode_many(sids).tolist()), strict=True))
    encoder = PromptEncoder(tokenizer, texts, tokens, recipe.data.history)
    mix = samples.training_templates(recipe.prompts, encoder.fields)
    return Prepared(model, tokenizer, vocabulary, items, sids, encoder, mix)


def run(ctx: StageContext) -> None:
    """Fine-tune, then write `base/`, `sft/` (an adapter in `lora` mode) and `sft/metrics.jsonl`."""
    from llmrec.decode.catalogues import TRIE
    from llmrec.decode.trie import Trie

    recipe = ctx.recipe
    _check_trackers(recipe.track.report_to)
    prepared = prepare(recipe, ctx.run)
    template = prepared.mix[0][0]
    train = samples.training_trees(prepared.encoder, prepared.mix, ctx.run, recipe.sft.users, recipe.seed)
    valid = samples.validation_trees(prepared.encoder, template, ctx.run, recipe.sft.valid_users, recipe.seed)
    _check_length(prepared.model, [*train, *valid], recipe)
    trained = _train(ctx, prepared, train, valid)
    adapter = ctx.work / "sft"
    if recipe.sft.mode == "lora":
        from llmrec.models.lora import bake

        trained = bake(trained, prepared.vocabulary, adapter)
    prompts = {"history": recipe.data.history, "template": template.model_dump(mode="json")}
    base = ctx.work / "base"
    save_base(base, trained, prepared.tokenizer, prepared.vocabulary, prepared.items, prepared.sids, prompts)
    (base / TRIE).parent.mkdir(exist_ok=True)
    Trie.build(prepared.sids, prepared.vocabulary.codes).save(base / TRIE)
    (adapter / "metrics.jsonl").write_bytes((ctx.scratch / "metrics.jsonl").read_bytes())
    ctx.notes.update(
        parameters=sum(p.numel() for p in trained.parameters()),
        trees=len(train),
        tokens_per_epoch=sum(map(len, train)),
    )


def _check_trackers(names: Sequence[str]) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"track.report_to: {name} is not installed; pip install it, or leave it out")


def _corpus(texts: dict[str, dict[str, str]]) -> list[str]:
    return [" ".join(fields.values()) for fields in texts.values()]


def _check_length(model: PreTrainedModel, trees: Sequence[TokenTree], recipe: Recipe) -> None:
    longest = max(int(tree.depth.max()) + 1 for tree in trees)
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and longest > context:
        raise UserError(
            f"data.history={recipe.data.history}: the longest prompt has {longest} tokens, "
            f"base.model takes {context}; use a shorter history or template"
        )


def _train(
    ctx: StageContext, prepared: Prepared, train: list[TokenTree], valid: list[TokenTree]
) -> PreTrainedModel:
    """Run TRL's trainer, from its last checkpoint if the stage was killed before."""
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, set_seed

    from llmrec.train.log import MetricsFile, ProgressBar, last_checkpoint
    from llmrec.train.trainer import TreeTrainer

    sft = ctx.recipe.sft
    model = prepared.model
    if sft.mode == "lora":
        from llmrec.models.lora import attach

        set_seed(ctx.recipe.seed)
        model = attach(model, sft.lora, prepared.vocabulary)
    checkpoints = ctx.scratch / "checkpoints"
    metrics = MetricsFile(ctx.scratch / "metrics.jsonl")
    trainer = TreeTrainer(
        model=model,
        args=_arguments(ctx.recipe, checkpoints, len(train), bool(valid)),
        train_dataset=samples.as_dataset(train),
        eval_dataset=samples.as_dataset(valid) if valid else None,
        data_collator=samples.TreeCollator(prepared.tokenizer.pad_token_id),
        processing_class=prepared.tokenizer,
        callbacks=[metrics] + ([EarlyStoppingCallback(sft.patience)] if sft.patience and valid else []),
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(ProgressBar())
    resume = last_checkpoint(checkpoints)
    metrics.rewind(resume)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer.accelerator.unwrap_model(trainer.model).eval()


def _arguments(recipe: Recipe, checkpoints: Path, trees: int, validate: bool) -> Any:
    """TRL's settings for a recipe."""
    import torch
    from trl import SFTConfig

    sft = recipe.sft
    per_epoch = math.ceil(trees / (sft.batch * sft.accumulate))
    steps = sft.max_steps or math.ceil(per_epoch * sft.epochs)
    regular = max(math.ceil(steps / SAVE_POINTS), min(steps, LEAST_STEPS))
    save_steps, eval_steps = sft.save_steps or regular, sft.eval_steps or regular
    best = bool(sft.patience and validate)
    return SFTConfig(
        output_dir=str(checkpoints),
        learning_rate=sft.lr,
        num_train_epochs=sft.epochs,
        max_steps=sft.max_steps or -1,
        per_device_train_batch_size=sft.batch,
        per_device_eval_batch_size=sft.batch,
        gradient_accumulation_steps=sft.accumulate,
        warmup_steps=sft.warmup,
        lr_scheduler_type=sft.schedule,
        weight_decay=sft.weight_decay,
        gradient_checkpointing=sft.gradient_checkpointing,
        bf16=sft.bf16,
        seed=recipe.seed,
        data_seed=recipe.seed,
        train_sampling_strategy="group_by_length",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        logging_steps=max(1, steps // LOG_POINTS),
        logging_nan_inf_filter=False,
        save_steps=math.lcm(save_steps, eval_steps) if best else save_steps,
        save_total_limit=2,
        eval_strategy="steps" if validate else "no",
        eval_steps=eval_steps,
        load_best_model_at_end=best,
        metric_for_best_model="loss",
        report_to=list(recipe.track.report_to) or "none",
        disable_tqdm=False,
        use_cpu=not torch.cuda.is_available(),
    )
