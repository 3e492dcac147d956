"""Group-relative policy optimisation under the catalogue's trie, through TRL's GRPOTrainer."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
from datasets import Dataset
from trl import GRPOConfig

from llmrec.artifacts import StageContext
from llmrec.collaborative.systems import load_baseline
from llmrec.errors import UserError
from llmrec.ids.load import code_vectors
from llmrec.text.mix import print_notice
from llmrec.train.alignment.grpo_trainer import TreeGRPOTrainer, loss_arguments
from llmrec.train.alignment.rewards import Judge, Known, resolve
from llmrec.train.alignment.rollouts import UNKNOWN, Drawer, Tasks, TreeDrawer, VllmDrawer
from llmrec.train.alignment.setup import Start, arrange, settings_of, start, train
from llmrec.train.alignment.targets import draw_targets

LOGGED = {
    "reward": "reward",
    "reward_std": "reward_std",
    "hits": "hits",
    "frac_reward_zero_std": "zero_variance",
    "silent": "zero_variance_drawn",
    "legal": "legal",
    "distinct": "distinct",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clipped",
}
"""TRL's names, and those of our own figures, in the log."""


def align_by_rewards(ctx: StageContext) -> None:
    """Align the SFT model with rewarded rollouts; write `grpo/`, a pure LoRA adapter, and its log.

    Raises:
        UserError: a reward that is broken, no task, a loss that is no number, or no memory left.
    """
    settings = ctx.recipe.grpo
    for reward in settings.rewards:
        resolve(reward.name)
    begin = start(ctx, settings)
    tasks = tasks_of(ctx, begin)
    passes = settings.iterations
    batches = settings.max_steps and -(-settings.max_steps // passes)
    drawn = settings.model_copy(update={"max_steps": batches})
    order = arrange([len(prompt) for prompt in tasks.prompts], drawn, begin.seed)
    steps = settings.max_steps or len(order) // (settings.batch * settings.accumulate) * passes
    common = settings_of(ctx, settings, steps, begin.seed, ctx.scratch)
    # A training can only go on between two batches of rollouts.
    common["save_steps"] = -(-common["save_steps"] // passes) * passes
    names = LOGGED | {f"rewards/{one.name}/mean": f"reward_{one.name}" for one in settings.rewards}
    draws = _drawer(ctx, begin)
    trainer = TreeGRPOTrainer(
        settings=settings,
        tasks=tasks,
        draws=draws,
        policy=begin.policy(settings),
        known=_known(ctx, begin),
        model=begin.model,
        args=GRPOConfig(
            **common,
            **loss_arguments(settings),
            per_device_train_batch_size=settings.batch * settings.generations,
            num_generations=settings.generations,
            num_iterations=settings.iterations,
            max_completion_length=begin.run.catalogue.length,
            reward_weights=[reward.weight for reward in settings.rewards],
            shuffle_dataset=False,
            disable_dropout=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": order.tolist()}),
        processing_class=begin.tokenizer,
    )
    with contextlib.closing(draws):
        train(ctx, "grpo", settings, trainer, begin, names, ctx.scratch)
    shutil.copytree(ctx.scratch / "adapter", ctx.work / "grpo", dirs_exist_ok=True)
    shutil.copy(ctx.scratch / "metrics.jsonl", ctx.work / "grpo")
    ctx.notes.update(prompts=len(tasks.prompts), steps=steps, seed=begin.seed)


def tasks_of(ctx: StageContext, begin: Start) -> Tasks:
    """Prompts from training users, and the targets that they chose.

    Targets that the history holds already are left out where decoding masks what is seen: no rollout can hit them.

    Raises:
        UserError: no user has two training items.
    """
    recipe, run = ctx.recipe, begin.run
    settings, index = recipe.grpo, run.catalogue.index
    targets, _ = draw_targets(
        ctx.run,
        recipe.data.history,
        settings.per_user,
        settings.users,
        begin.seed,
        settings.prompts == "history_end",
    )
    hides = recipe.decode.mask_seen
    pairs = zip(targets.seen, targets.chosen, strict=True)
    rows = np.flatnonzero([not (hides and chosen in seen) for seen, chosen in pairs])
    if len(rows) < len(targets):
        print_notice(
            f"grpo: {len(targets) - len(rows):,} targets left out: decode.mask_seen hides what is in the history"
        )
    if not len(rows):
        raise UserError("grpo: there is nothing to learn from: every target is in its own history")
    targets = targets.part(rows)
    return Tasks(
        [run.encoder.prompt(run.template, history) for history in targets.histories],
        targets.histories,
        np.array([UNKNOWN if item is None else index[item] for item in targets.chosen], np.int64),
        [[index[item] for item in seen] if hides else [] for seen in targets.seen],
    )


def _drawer(ctx: StageContext, begin: Start) -> Drawer:
    settings = ctx.recipe.grpo
    if settings.engine == "vllm":
        return VllmDrawer(begin.run.base, ctx.scratch)
    return TreeDrawer(begin.run.catalogue, begin.pad_id, settings.rollouts)


def _known(ctx: StageContext, begin: Start) -> Known:
    settings, catalogue = ctx.recipe.grpo, begin.run.catalogue
    judge: Judge | None = None
    if settings.judged:
        model = load_baseline(ctx.run, settings.judge, catalogue.items)

        def judge(histories: list[list[str]]) -> np.ndarray:
            return model.log_probs(histories, catalogue.items)

    return Known(catalogue.items, catalogue.sids, code_vectors(ctx.run, catalogue.sids), judge)
