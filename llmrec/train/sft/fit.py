"""A training from its first step, or its last checkpoint, to its end: TRL's trainer, set up by a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_utils import align_special_tokens
from trl import SFTConfig

from llmrec.artifacts import StageContext, Workers
from llmrec.collaborative.system import Baseline
from llmrec.collaborative.systems import counts, load_baseline
from llmrec.config import Recipe
from llmrec.data.examples import training_histories
from llmrec.errors import UserError
from llmrec.models import modes
from llmrec.models.layers import dropout
from llmrec.progress.bar import follow
from llmrec.text.mix import print_notice
from llmrec.train import sharding
from llmrec.train.arguments import default_interval, on_one_gpu, training_arguments
from llmrec.train.launch import is_main_process, run_in_every_process
from llmrec.train.memory import explain_out_of_memory, sft_memory_remedies
from llmrec.train.metrics_file import MetricsFile, last_checkpoint, use_own_callbacks
from llmrec.train.sft.batches import TreeCollator
from llmrec.train.sft.epochs import Epochs, files_of, write_epoch
from llmrec.train.sft.first_loss import start_at_chance
from llmrec.train.sft.losses.children import ChildrenLoss
from llmrec.train.sft.losses.parallel import ParallelLoss, one_label_an_item
from llmrec.train.sft.losses.vocabulary import VocabularyLoss
from llmrec.train.sft.prepare import prepare, start_run_folder
from llmrec.train.sft.samples import TrainingTrees, owner_of, validation_trees
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.teacher.drawn_items import Branching, SyntheticContinuations
from llmrec.train.sft.teacher.temperature import find_temperature
from llmrec.train.sft.trainer import TreeTrainer
from llmrec.train.validation import ValidationLists

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.config import SftConfig
    from llmrec.train.sft.losses import Loss
    from llmrec.train.sft.prepare import Prepared

BEST = {"loss": "loss", "ndcg": "ndcg@10"}
"""What `sft.keep` goes by, as the trainer names it."""
MIN_INTERVAL = 25
"""Fewest steps between two saves or validations, unless the recipe names their number."""
FITTED_TOKENS = 2048
"""Most tokens of the training trees that new tokens' rows are fitted to."""


@dataclass(frozen=True)
class Fitted:
    """What a training leaves.

    Attributes:
        model: the trained model; None in any but the first of several processes.
        epochs: the trees that it was trained on.
        notes: choices that were left to the machine or to the data, for the manifest.
    """

    model: PreTrainedModel | PeftModel | None
    epochs: Epochs
    notes: dict[str, float | bool]


def fit(ctx: StageContext, prepared: Prepared) -> Fitted:
    """Train a prepared base as the recipe's `sft` says; `scratch` holds what a killed training goes on from.

    Raises:
        UserError: a prompt that does not fit the context, a loss that is no number, or no memory left.
    """
    recipe, sft = ctx.recipe, ctx.recipe.sft
    teacher = _teacher(ctx, prepared)
    epochs = _epochs(ctx, prepared, teacher)
    valid = validation_trees(prepared.encoder, prepared.template, ctx.run, sft.valid_users, recipe.seed)
    if sft.parallel_codes:
        valid = list(one_label_an_item(valid))
    if len(prepared.new_tokens):
        _start_at_chance(prepared, epochs, recipe.seed)
    set_seed(recipe.seed)
    model = modes.wrap(prepared.model, sft, prepared.catalogue.vocabulary, ctx.scratch)
    if sft.start is not None:
        modes.load_adapter_weights(model, sft, start_run_folder(sft.start) / "sft")
    dropout.attach_dropout(model, sft.dropout)
    checkpoints = ctx.scratch / "checkpoints"
    metrics = MetricsFile(ctx.scratch / "metrics.jsonl", sft.epochs)
    trainer = TreeTrainer(
        model=model,
        args=sft_arguments(recipe, checkpoints, epochs.tree_count, bool(valid), ctx.workers),
        epochs=epochs,
        validation=valid,
        data_collator=TreeCollator(
            prepared.tokenizer.pad_token_id, prepared.catalogue if sft.softmax == "children" else None
        ),
        processing_class=prepared.tokenizer,
        validation_lists=_validation_lists(ctx, prepared) if valid else None,
        loss=_loss(sft, prepared.catalogue, teacher),
        rows_lr=sft.rows_lr,
        compiled=sft.compile,
        callbacks=[metrics] + ([EarlyStoppingCallback(sft.patience)] if sft.patience and valid else []),
    )
    use_own_callbacks(trainer)
    resume = last_checkpoint(checkpoints)
    sharding.check_same_sharding(resume, ctx.workers.sharded)
    if trainer.is_world_process_zero():
        metrics.rewind(resume)
    with explain_out_of_memory("sft", sft_memory_remedies(sft, recipe.data.history, ctx.workers)):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        notes: dict[str, float | bool] = {"bf16": trainer.args.bf16}
        if teacher is not None:
            notes["teacher_temperature"] = teacher.temperature
        return Fitted(_trained(ctx, trainer), epochs, notes)


def _loss(sft: SftConfig, catalogue: Catalogue, teacher: Teacher | None) -> Loss:
    """The loss that the recipe asks for."""
    if sft.parallel_codes:
        return ParallelLoss(catalogue, teacher)
    return ChildrenLoss(catalogue, teacher) if sft.softmax == "children" else VocabularyLoss(teacher)


def _start_at_chance(prepared: Prepared, epochs: Epochs, seed: int) -> None:
    """Move the rows of the tokens that the base lacked, and say so if they were moved."""
    tokens = prepared.new_tokens
    losses = start_at_chance(prepared.model, tokens, epochs.sample(tokens, FITTED_TOKENS, seed))
    if losses is not None and losses[0] != losses[1] and is_main_process():
        print_notice(
            f"sft: the new tokens' rows were moved to start at chance: "
            f"a loss of {losses[1]:.1f} instead of {losses[0]:.1f}"
        )


def _trained(ctx: StageContext, trainer: TreeTrainer) -> PreTrainedModel | PeftModel | None:
    """What a training leaves, in the first process."""
    if not ctx.workers.sharded:
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        return trained.eval() if trainer.is_world_process_zero() else None
    weights = sharding.gather_weights(trainer)
    if weights is None:
        return None
    anew = prepare(ctx.recipe, ctx.run)
    align_special_tokens(anew.model, anew.tokenizer)  # as the trainer has done with its own
    model = modes.wrap(anew.model, ctx.recipe.sft, anew.catalogue.vocabulary, ctx.scratch)
    sharding.load_gathered_weights(model, weights)
    whole: Any = model
    return whole.eval()


def sft_arguments(
    recipe: Recipe, checkpoints: Path, trees: int, validate: bool, workers: Workers
) -> SFTConfig:
    """TRL's settings for a recipe; one of its epochs is the whole training.

    Where the best weights are kept, they are saved at every validation: Trainer keeps those alone that it has saved.
    """
    sft = recipe.sft
    steps = sft.max_steps or math.ceil(trees / (sft.batch * sft.accumulate))
    often = default_interval(steps, MIN_INTERVAL)
    keeps_best = validate and sft.keep != "last"
    eval_steps = sft.eval_steps or (sft.save_steps if keeps_best else None) or often
    save_steps = eval_steps if keeps_best else sft.save_steps or often
    arguments = SFTConfig(
        **training_arguments(sft, checkpoints, steps, recipe.seed, recipe.track.report_to),
        per_device_train_batch_size=sft.batch // workers.count,
        per_device_eval_batch_size=sft.batch // workers.count,
        **(sharding.ARGUMENTS if workers.sharded else {"torch_compile": sft.compile}),
        ddp_find_unused_parameters=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        save_steps=save_steps,
        restore_callback_states_from_checkpoint=True,  # how often `patience` has been tried
        eval_strategy="steps" if validate else "no",
        eval_steps=eval_steps,
        load_best_model_at_end=keeps_best,
        metric_for_best_model=BEST.get(sft.keep),
        greater_is_better=sft.keep == "ndcg",
    )
    return on_one_gpu(arguments)


def _teacher(ctx: StageContext, prepared: Prepared) -> Teacher | None:
    """The teacher that the recipe names.

    Raises:
        UserError: semantic IDs without tokens of their own.
    """
    distillation, catalogue = ctx.recipe.sft.distillation, prepared.catalogue
    if distillation is None:
        return None
    if catalogue.end is not None:
        raise UserError("sft.distillation: textual IDs have no tokens that a teacher could choose among")
    if not any(any(mixed.is_next_item) for mixed in prepared.mix):
        raise UserError(
            "sft.distillation: a teacher answers with a semantic ID right after the prompt, and none of `prompts` "
            "asks for that; add a task like `sequential`, or set sft.distillation=null"
        )
    items, name = catalogue.items, distillation.teacher
    trained = not counts(ctx.recipe.collaborative, name)
    teacher = Teacher(
        load_baseline(ctx.run, name, items),
        catalogue,
        distillation.weight,
        () if trained or distillation.folds == 1 else _folds(ctx.run, name, items, distillation.folds),
        mask_seen=ctx.recipe.data.mask_seen,
    )
    temperature = distillation.temperature
    if temperature == "auto":
        temperature = find_temperature(
            teacher, training_histories(ctx.run)["items"].to_list(), ctx.recipe.seed
        )
        if is_main_process():
            print_notice(f"sft: the temperature of the teacher is {temperature:g}")
    return replace(teacher, temperature=temperature)


def _folds(run: Path, name: str, items: Sequence[str], folds: int) -> list[Baseline]:
    """A system that counts, fitted without each fold of users."""
    histories = training_histories(run)
    fold = pl.Series([owner_of(user) % folds for user in histories["user_id"]], dtype=pl.Int64)
    return [load_baseline(run, name, items, histories.filter(fold != one)) for one in range(folds)]


def _epochs(ctx: StageContext, prepared: Prepared, teacher: Teacher | None) -> Epochs:
    """Write the trees of all epochs, each process a share of them, and open them."""
    sft, trees = ctx.recipe.sft, _training_trees(ctx, prepared, teacher)
    folder = ctx.scratch / "trees"
    folder.mkdir(exist_ok=True)

    def write_share(process: int, processes: int) -> int:
        mine = range(process, files_of(sft.epochs, trees.differ), processes)
        for epoch in follow(mine, "writing token trees", "epoch"):
            made = trees.of_epoch(epoch)
            write_epoch(one_label_an_item(made) if sft.parallel_codes else made, epoch, folder)
        return prepared.encoder.shortened

    shortened = prepared.encoder.shortened = sum(run_in_every_process(write_share))
    if shortened and is_main_process():
        print_notice(
            f"sft: {shortened:,} prompts lost their oldest items: with them they are longer than "
            f"the {prepared.encoder.context:,} tokens of the base"
        )
    return Epochs.open(sft.epochs, trees.differ, folder)


def _training_trees(ctx: StageContext, prepared: Prepared, teacher: Teacher | None) -> TrainingTrees:
    """The trees that the recipe asks for, with what its teacher draws."""
    recipe = ctx.recipe
    trees = TrainingTrees(
        prepared.encoder,
        prepared.mix,
        ctx.run,
        recipe.sft.users,
        recipe.seed,
        augment=recipe.sft.augment,
    )
    distillation = recipe.sft.distillation
    if teacher is None or distillation is None:
        return trees
    if distillation.synthetic_items:
        continued = SyntheticContinuations(
            teacher,
            distillation.synthetic_items,
            recipe.seed,
            prepared.encoder.history,
            keeps_chances=not recipe.sft.parallel_codes,
        )
        trees = replace(trees, continue_histories=continued)
    if distillation.branches:
        trees = replace(trees, branch=Branching(teacher, distillation.branches, recipe.seed))
    return trees


def _validation_lists(ctx: StageContext, prepared: Prepared) -> ValidationLists | None:
    """The validation users whose lists are decoded as training goes on."""
    sft = ctx.recipe.sft
    if sft.valid_lists is None:
        return None
    if prepared.catalogue.reasons:
        raise UserError(
            "sft.valid_lists: lists are decoded right after the prompt in training, but the first of `prompts` asks "
            "for words before the semantic ID; set sft.valid_lists=null and sft.keep=loss"
        )
    recipe = ctx.recipe
    return ValidationLists.draw(ctx.run, prepared, sft.valid_lists, recipe.seed, recipe.data.mask_seen)
