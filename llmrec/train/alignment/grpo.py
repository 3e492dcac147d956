"""Group-relative policy optimisation under the catalogue's trie, through TRL's GRPOTrainer."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset
from trl import GRPOConfig

from llmrec.artifacts import StageContext
from llmrec.collaborative.systems import load_baseline
from llmrec.config import GrpoConfig, Recipe
from llmrec.errors import UserError
from llmrec.ids.load import code_vectors
from llmrec.text.mix import print_notice
from llmrec.train.alignment.grpo_trainer import TreeGRPOTrainer, loss_arguments
from llmrec.train.alignment.rewards import Judge, RewardContext, load_reward
from llmrec.train.alignment.rollouts import (
    NO_TARGET,
    ReasoningSampler,
    RolloutSampler,
    RolloutTasks,
    TreeSampler,
    VllmSampler,
)
from llmrec.train.alignment.setup import (
    InitialPolicy,
    alignment_arguments,
    load_initial_policy,
    order_prompts,
    train,
)
from llmrec.train.alignment.targets import draw_targets
from llmrec.train.arguments import on_one_gpu

METRIC_NAMES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "hits": "hits",
    "frac_reward_zero_std": "zero_variance",
    "zero_variance_drawn": "zero_variance_drawn",
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
        load_reward(reward.name)
    initial = load_initial_policy(ctx, settings)
    if initial.run.catalogue.reasons:
        _check_reasoning(settings)
    tasks = make_rollout_tasks(ctx.recipe, initial)
    order, steps = _order_of_tasks(settings, tasks, initial.seed)
    names = METRIC_NAMES | {
        f"rewards/{reward.name}/mean": f"reward_{reward.name}" for reward in settings.rewards
    }
    lists = initial.validation_lists(settings.valid_lists, ctx.recipe.seed, ctx.recipe.data.mask_seen)
    sampler = _make_sampler(settings, initial, ctx.recipe.decode.reasoning.tokens, ctx.scratch)
    trainer = TreeGRPOTrainer(
        settings=settings,
        tasks=tasks,
        sampler=sampler,
        scorer=initial.scorer(settings),
        context=_reward_context(settings, initial),
        model=initial.model,
        args=_training_arguments(ctx, steps, initial),
        train_dataset=Dataset.from_dict({"prompt": order.tolist()}),
        processing_class=initial.run.tokenizer,
    )
    with contextlib.closing(sampler):
        train("grpo", settings, trainer, lists, names, ctx.scratch)
    shutil.copytree(ctx.scratch / "adapter", ctx.work / "grpo", dirs_exist_ok=True)
    shutil.copy(ctx.scratch / "metrics.jsonl", ctx.work / "grpo")
    ctx.notes.update(prompts=len(tasks.prompts), steps=steps, seed=initial.seed)


def _order_of_tasks(settings: GrpoConfig, tasks: RolloutTasks, seed: int) -> tuple[np.ndarray, int]:
    """Return the numbers of the tasks in the order in which they are learned, and the number of optimizer steps.

    A batch of rollouts is learned `iterations` times.
    """
    passes = settings.iterations
    batches = settings.max_steps and -(-settings.max_steps // passes)
    drawn = settings.model_copy(update={"max_steps": batches})
    order = order_prompts([len(prompt) for prompt in tasks.prompts], drawn, seed)
    return order, settings.max_steps or len(order) // (settings.batch * settings.accumulate) * passes


def _training_arguments(ctx: StageContext, steps: int, initial: InitialPolicy) -> GRPOConfig:
    """Return TRL's settings of a training."""
    settings = ctx.recipe.grpo
    common = alignment_arguments(settings, steps, initial.seed, ctx.scratch, ctx.recipe.track.report_to)
    # A training can only go on between two batches of rollouts.
    common["save_steps"] = -(-common["save_steps"] // settings.iterations) * settings.iterations
    return on_one_gpu(
        GRPOConfig(
            **common,
            **loss_arguments(settings),
            per_device_train_batch_size=settings.batch * settings.generations,
            num_generations=settings.generations,
            num_iterations=settings.iterations,
            max_completion_length=initial.run.catalogue.length
            + (ctx.recipe.decode.reasoning.tokens if initial.run.catalogue.reasons else 0),
            reward_weights=[reward.weight for reward in settings.rewards],
            shuffle_dataset=False,
            disable_dropout=True,
        )
    )


def make_rollout_tasks(recipe: Recipe, initial: InitialPolicy) -> RolloutTasks:
    """Prompts from training users, and the targets that they chose.

    Targets that the history holds already are left out where decoding masks what is seen: no rollout can hit them.

    Raises:
        UserError: no user has two training items.
    """
    run = initial.run
    settings, index = recipe.grpo, run.catalogue.index
    targets, _ = draw_targets(
        run.folder,
        recipe.data.history,
        settings.per_user,
        settings.users,
        initial.seed,
        settings.prompts == "history_end",
    )
    hides = recipe.data.mask_seen
    rows = np.flatnonzero(~targets.repeats) if hides else np.arange(len(targets))
    if len(rows) < len(targets):
        print_notice(
            f"grpo: {len(targets) - len(rows):,} targets left out: data.mask_seen hides what is in the history"
        )
    if not len(rows):
        raise UserError("grpo: there is nothing to learn from: every target is in its own history")
    targets = targets.take(rows)
    lists = {id(items): items for items in targets.items}
    places = {key: [index[item] for item in items] for key, items in lists.items()}
    return RolloutTasks(
        [run.encoder.prompt(run.template, history) for history in targets.histories],
        targets.histories,
        np.array([NO_TARGET if item is None else index[item] for item in targets.chosen], np.int64),
        [places[id(items)] for items in targets.items],
        np.array(targets.positions, np.int64) * hides,
    )


def _check_reasoning(settings: GrpoConfig) -> None:
    """Raise a UserError for what does not go with words before the semantic ID."""
    wrong = {
        "grpo.engine=vllm": settings.engine == "vllm",
        f"grpo.rollouts={settings.rollouts}": settings.rollouts != "sampled",
        "grpo.zero_variance=inject": settings.zero_variance == "inject",
        "grpo.keep=ndcg": settings.keep == "ndcg",
    }
    for setting, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(
                f"{setting}: the prompt of this run asks for words before the semantic ID; with them rollouts are "
                "sampled by the tree engine, none is injected, and the last weights are kept"
            )


def _make_sampler(settings: GrpoConfig, initial: InitialPolicy, tokens: int, scratch: Path) -> RolloutSampler:
    """What draws rollouts; `tokens` limits a text before the semantic ID."""
    if initial.run.catalogue.reasons:
        end_id = int(initial.run.tokenizer.eos_token_id)
        return ReasoningSampler(initial.run.catalogue, initial.pad_id, end_id, tokens)
    if settings.engine == "vllm":
        return VllmSampler(initial.run.base, scratch)
    return TreeSampler(initial.run.catalogue, initial.pad_id, settings.rollouts)


def _reward_context(settings: GrpoConfig, initial: InitialPolicy) -> RewardContext:
    folder, catalogue = initial.run.folder, initial.run.catalogue
    judge: Judge | None = None
    if settings.needs_judge:
        model = load_baseline(folder, settings.judge, catalogue.items)

        def judge(histories: list[list[str]]) -> np.ndarray:
            return model.log_probs(histories, catalogue.items)

    return RewardContext(catalogue, code_vectors(folder, catalogue.sids), judge)
