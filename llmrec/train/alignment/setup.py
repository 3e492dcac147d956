"""What DPO and GRPO share: the policy they start from, the order of its prompts, the watch over it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import Trainer, TrainerCallback, set_seed

from llmrec.artifacts import StageContext
from llmrec.config import AlignmentConfig
from llmrec.decode.batches import resolve_device
from llmrec.files import read_json, write_json
from llmrec.models import modes
from llmrec.models.lora import load_adapter_weights, save_adapter
from llmrec.recommend.trained_run import TrainedRun
from llmrec.text.mix import print_notice
from llmrec.train.alignment.completions import CompletionScorer
from llmrec.train.arguments import default_interval, training_arguments
from llmrec.train.batch_order import order_epochs
from llmrec.train.memory import explain_out_of_memory, memory_remedies
from llmrec.train.metrics_file import MetricsFile, last_checkpoint, use_own_callbacks
from llmrec.train.validation import NDCG_CUTOFF, ValidationLists

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerControl, TrainerState, TrainingArguments

CHECKPOINTS = "checkpoints"
"""Folder of a training's checkpoints, in its scratch folder."""
MIN_INTERVAL = 5
"""Between two saves or looks at validation lists."""
LISTS = 50
"""Length of the lists that are watched: a policy that has lost diversity loses HR at this depth first."""
SAME, SAME_ON_GPU, SAME_IN_16_BITS = 1e-5, 1e-3, 0.1
"""How far policy and reference may be apart before the first step, in nats a token. With gradients a GPU may compute
by other kernels than without."""


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

    def validation_lists(self, users: int | None, seed: int, mask_seen: bool) -> ValidationLists | None:
        """Draw validation users whose lists a training decodes.

        Args:
            users: how many are drawn; None for none.
            seed: seed of the draw.
            mask_seen: whether items of the history are left out of the lists.

        Returns:
            The users; None where none are wanted, the run has no validation users, or the model writes words before
            the semantic ID, because these lists are decoded right after the prompt.
        """
        if users is None or self.run.catalogue.reasons:
            return None
        k = min(LISTS, len(self.run.catalogue.items))
        lists = ValidationLists.draw(self.run.folder, self.run, users, seed, mask_seen, k)
        return lists if lists.prompts else None

    def scorer(self, settings: AlignmentConfig) -> CompletionScorer:
        """How its log-probabilities are normalised; words before the ID are tokens of the whole vocabulary."""
        catalogue = self.run.catalogue
        normalise = settings.normalise or catalogue.softmax
        return CompletionScorer("vocabulary" if catalogue.reasons else normalise, catalogue)


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
        int64 [steps · batch · accumulate]; what does not fill a last step is left out.
    """
    step = settings.batch * settings.accumulate
    steps = settings.max_steps or max(1, int(settings.epochs * len(lengths)) // step)
    epochs = [np.arange(len(lengths))] * math.ceil(steps * step / len(lengths))
    order = np.concatenate(list(order_epochs(epochs, np.asarray(lengths), settings.batch, seed)))
    return order[: steps * step]


def alignment_arguments(
    settings: AlignmentConfig, steps: int, seed: int, scratch: Path, report_to: Sequence[str]
) -> dict[str, Any]:
    """Return what TRL's settings of both trainers have in common.

    Args:
        settings: the recipe's section `dpo` or `grpo`.
        steps: optimizer steps of the training.
        seed: seed of the training.
        scratch: folder of the training; its checkpoints go to `checkpoints/` there.
        report_to: trackers, as transformers names them.
    """
    return training_arguments(settings, scratch / CHECKPOINTS, steps, seed, report_to) | {
        "beta": settings.beta,
        "eval_strategy": "no",
        "save_steps": settings.save_steps or default_interval(steps, MIN_INTERVAL),
    }


def train(
    name: str,
    settings: AlignmentConfig,
    trainer: ResumesFromAdapter,
    lists: ValidationLists | None,
    names: Mapping[str, str],
    scratch: Path,
) -> None:
    """Train to the end, or on from the last checkpoint, then write the adapter.

    Writes `adapter/` and `metrics.jsonl` to `scratch`.

    Args:
        name: the stage.
        settings: the recipe's section of that name.
        trainer: the trainer of DPO or GRPO.
        lists: validation users whose lists are decoded before, during and after training; None for none.
        names: values of the trainer that the log keeps, and what it calls them.
        scratch: folder of this training (one of the rounds).

    Raises:
        UserError: a loss that is no number, or no memory left.
    """
    metrics = MetricsFile(scratch / "metrics.jsonl", settings.epochs, name, names)
    trainer.add_callback(metrics)
    use_own_callbacks(trainer)
    best = scratch / "best" if lists is not None and settings.keep == "ndcg" else None
    if lists is not None:
        every = settings.eval_steps or default_interval(trainer.args.max_steps, MIN_INTERVAL)
        trainer.add_callback(ValidationCallback(lists, every, metrics, best))
    resume = last_checkpoint(scratch / CHECKPOINTS)
    metrics.rewind(resume)
    with explain_out_of_memory(name, memory_remedies(name, settings)):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if best is not None:
        (scratch / "adapter").mkdir(exist_ok=True)
        for file in best.glob("adapter_*"):
            file.replace(scratch / "adapter" / file.name)
    else:
        save_adapter(trainer.policy, scratch / "adapter")


class ResumesFromAdapter(Trainer):
    """A Trainer that resumes from a checkpoint of two adapters, the trained one and the frozen reference.

    Transformers' own would find the reference's folder there, and load that one alone.
    """

    @property
    def policy(self) -> PeftModel:
        """The model that is trained."""
        return cast("PeftModel", self.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_adapter_weights(self.policy, Path(resume_from_checkpoint))


def check_policy_is_reference(policy: torch.Tensor, reference: torch.Tensor, in_16_bits: bool) -> None:
    """Raise unless policy and reference give tokens, float [N, L], the same log-probabilities before training.

    What rounding alone may explain is a warning where it is larger than expected.

    Args:
        policy: log-probabilities of the policy.
        reference: those of the reference.
        in_16_bits: whether the model's weights or its computation have 16 bits.
    """
    apart = float((policy - reference).abs().max())
    is_exact = policy.device.type == "cpu" and not in_16_bits
    expected = SAME_IN_16_BITS if in_16_bits else SAME if is_exact else SAME_ON_GPU
    if apart <= expected:
        return
    message = f"policy and reference are {apart:.2e} nats apart before the first step"
    if is_exact or not apart <= 10 * expected:
        raise AssertionError(message)
    print_notice(f"{message}; rounding should explain no more than {expected:g}")


def computes_in_16_bits(trainer: Trainer) -> bool:
    """Whether a trainer's model has weights of 16 bits, or computes in them."""
    model: Any = trainer.model
    return trainer.args.bf16 or trainer.args.fp16 or model.dtype.itemsize < torch.float32.itemsize


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
        figures = {f"valid_{name}": total / users for name, total in self._lists.metric_sums(model).items()}
        self._metrics.write(state, figures)
        if self.best is None:
            return
        score = self.best / "score.json"
        value, step = figures[f"valid_ndcg@{NDCG_CUTOFF}"], state.global_step
        before = read_json(score) if score.is_file() else None
        # A training that resumes from a checkpoint sees some steps again.
        if before is None or before["step"] > step or value > before["value"]:
            save_adapter(model, self.best)
            write_json(score, {"step": step, "value": value})
