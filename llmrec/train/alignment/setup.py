"""What DPO and GRPO share: the policy they start from, the order of its prompts, the watch over it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from llmrec.artifacts import StageContext
from llmrec.config import AlignmentConfig
from llmrec.decode.batches import resolve_device
from llmrec.files import read_json, write_json
from llmrec.models import modes
from llmrec.models.lora import load_adapter_weights, save_adapter
from llmrec.recommend.trained_run import TrainedRun
from llmrec.train.alignment.completions import CompletionScorer
from llmrec.train.arguments import default_interval, training_arguments
from llmrec.train.batch_order import group_by_length
from llmrec.train.memory import explain_out_of_memory, memory_remedies
from llmrec.train.metrics_file import MetricsFile, ProgressBar, last_checkpoint
from llmrec.train.validation import NDCG_CUTOFF, ValidationLists

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

MIN_INTERVAL = 5
"""Between two saves or looks at validation lists."""
LISTS = 50
"""Length of the lists that are watched: a policy that has lost diversity loses HR at this depth first."""
SAME = 1e-5
"""How far policy and reference may be apart before the first step, in nats a token."""


@dataclass(frozen=True)
class InitialPolicy:
    """A run's SFT model, about to be aligned.

    Attributes:
        model: adapter `default` is trained.
        run: the catalogue (where the model goes), tokenizer, encoder and template.
        seed: of the training.
    """

    model: PeftModel
    run: TrainedRun
    seed: int

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return int(self.run.tokenizer.pad_token_id)

    def scorer(self, settings: AlignmentConfig) -> CompletionScorer:
        """How its log-probabilities are normalised."""
        return CompletionScorer(settings.normalise, self.run.catalogue)


def load_initial_policy(ctx: StageContext, settings: AlignmentConfig) -> InitialPolicy:
    """Load what an alignment starts from; seeds torch's generators.

    Raises:
        UserError: files of `base/` or `sft/` that are missing, broken or of different bases.
    """
    seed = ctx.recipe.seed if settings.seed is None else settings.seed
    set_seed(seed)
    run = TrainedRun.load(ctx.run, as_trained=True)
    run = replace(run, catalogue=run.catalogue.to(resolve_device("auto")))
    model = run.load_model().model
    policy = modes.load_policy(model, ctx.recipe.sft, ctx.run / "sft", settings.lora, ctx.scratch)
    return InitialPolicy(policy, run, seed)


def order_prompts(lengths: Sequence[int], settings: AlignmentConfig, seed: int) -> npt.NDArray[np.int64]:
    """Rows in the order of a whole training: epoch after epoch, in batches of like length.

    Args:
        lengths: tokens of each row's prompt.
        settings: batch, epochs, `max_steps`.
        seed: of the order.

    Returns:
        int64 [steps · batch · accumulate]; a last batch that is not full is left out.
    """
    step = settings.batch * settings.accumulate
    steps = settings.max_steps or max(1, int(settings.epochs * len(lengths)) // step)
    sizes = np.asarray(lengths)
    epochs = range(math.ceil(steps * step / len(sizes)))
    order = np.concatenate([group_by_length(sizes, settings.batch, (seed, epoch)) for epoch in epochs])
    return order[: steps * step]


def alignment_arguments(
    ctx: StageContext, settings: AlignmentConfig, steps: int, seed: int, scratch: Path
) -> dict[str, Any]:
    """What TRL's settings of both trainers have in common."""
    return training_arguments(settings, scratch / "checkpoints", steps, seed, ctx.recipe.track.report_to) | {
        "beta": settings.beta,
        "eval_strategy": "no",
        "save_steps": settings.save_steps or default_interval(steps, MIN_INTERVAL),
    }


def train(
    ctx: StageContext,
    name: str,
    settings: AlignmentConfig,
    trainer: Trainer,
    initial: InitialPolicy,
    names: Mapping[str, str],
    scratch: Path,
) -> None:
    """Train to the end, or on from the last checkpoint, under watch; then write the adapter.

    Writes `adapter/` and `metrics.jsonl` to `scratch`.

    Args:
        ctx: the stage's context.
        name: the stage.
        settings: its settings.
        trainer: DPO's or GRPO's.
        initial: what it trains.
        names: values of the trainer that the log keeps, and what it calls them.
        scratch: of this training (one of the rounds).

    Raises:
        UserError: a loss that is no number, or no memory left.
    """
    metrics = MetricsFile(scratch / "metrics.jsonl", settings.epochs, name, names)
    trainer.add_callback(metrics)
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(ProgressBar())
    watch = _validation_callback(ctx, settings, initial, metrics, trainer.args.max_steps, scratch)
    if watch is not None:
        trainer.add_callback(watch)
    resume = last_checkpoint(scratch / "checkpoints")
    metrics.rewind(resume)
    with explain_out_of_memory(name, memory_remedies(name, settings)):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if watch is not None and watch.best is not None:
        (scratch / "adapter").mkdir(exist_ok=True)
        for file in watch.best.glob("adapter_*"):
            file.replace(scratch / "adapter" / file.name)
    else:
        save_adapter(initial.model, scratch / "adapter")


class ResumesFromAdapter:
    """A Trainer that goes on from a checkpoint of two adapters, the trained one and the frozen reference.

    Transformers' own would find the reference's folder there, and load that one alone.
    """

    model: Any
    """The policy, a PeftModel; TRL's trainers say less of it."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_adapter_weights(self.model, Path(resume_from_checkpoint))


def check_policy_is_reference(policy: torch.Tensor, reference: torch.Tensor) -> None:
    """Raise unless policy and reference give tokens, float [N, L], the same log-probabilities before training."""
    apart = float((policy - reference).abs().max())
    if not apart <= SAME:
        raise AssertionError(f"policy and reference are {apart:.2e} nats apart before the first step")


def _validation_callback(
    ctx: StageContext,
    settings: AlignmentConfig,
    initial: InitialPolicy,
    metrics: MetricsFile,
    steps: int,
    scratch: Path,
) -> ValidationCallback | None:
    if settings.valid_lists is None:
        return None
    run = initial.run
    lists = ValidationLists.draw(
        ctx.run,
        settings.valid_lists,
        ctx.recipe.seed,
        ctx.recipe.decode.mask_seen,
        encoder=run.encoder,
        template=run.template,
        catalogue=run.catalogue,
        pad_id=initial.pad_id,
        k=min(LISTS, len(run.catalogue.items)),
    )
    if not lists.prompts:
        return None
    every = settings.eval_steps or default_interval(steps, MIN_INTERVAL)
    return ValidationCallback(lists, every, metrics, scratch / "best" if settings.keep == "ndcg" else None)


class ValidationCallback(TrainerCallback):
    """Decodes validation users' lists before, during and after training.

    Args:
        lists: the users.
        every: steps between two looks.
        metrics: where the figures go.
        best: where the best adapter so far is kept; None for nowhere.
    """

    def __init__(self, lists: ValidationLists, every: int, metrics: MetricsFile, best: Path | None) -> None:
        self._lists, self._every, self._metrics, self.best = lists, every, metrics, best

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the SFT model."""
        if state.global_step == 0:
            self._look(state, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at every `every`th step, and at the last."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._look(state, kwargs["model"])

    def _look(self, state: TrainerState, model: Any) -> None:
        users = len(self._lists.prompts)
        found = {f"valid_{name}": total / users for name, total in self._lists.metric_sums(model).items()}
        self._metrics.write(state, found)
        if self.best is None:
            return
        score = self.best / "score.json"
        value, step = found[f"valid_ndcg@{NDCG_CUTOFF}"], state.global_step
        known = read_json(score) if score.is_file() else None
        # A training that goes on from a checkpoint sees some steps again.
        if known is None or known["step"] > step or value > known["value"]:
            save_adapter(model, self.best)
            write_json(score, {"step": step, "value": value})
