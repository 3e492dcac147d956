"""TRL's DPOTrainer on token trees: all items of a pair in one pass, any number of rejected ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from torch.utils.data import SequentialSampler
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from llmrec.config import DpoConfig
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees, LogProbs
from llmrec.train.alignment.losses import rosepo, sdpo
from llmrec.train.alignment.setup import ResumesFromAdapter, check_policy_is_reference, computes_in_16_bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFERENCE = "ref"
"""The frozen copy of the adapter that TRL makes of the one it is given."""
UNUSED = "sigmoid"
"""What TRL is told where the loss is ours."""
OURS = ("sdpo", "rosepo")


class PairCollator:
    """Rows `prompt`, `completions` (the chosen one first) to trees.

    Args:
        pad_id: any valid token id.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch rows; every row has as many completions."""
        prompts = [row["prompt"] for row in rows]
        completions = [row["completions"] for row in rows]
        return CompletionTrees.build(prompts, completions, self._pad_id).as_batch()


class TreeDPOTrainer(ResumesFromAdapter, DPOTrainer):
    """DPOTrainer whose log-probabilities come from trees, and whose rows stand in the order of training.

    Args:
        settings: the recipe's section `dpo`.
        scorer: how logits become log-probabilities.
        kwargs: DPOTrainer's; its model is a PeftModel.
    """

    def __init__(self, settings: DpoConfig, scorer: CompletionScorer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings, self._scorer, self._begun = settings, scorer, False

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        return SequentialSampler(cast("Sized", dataset))

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        trees = CompletionTrees.from_batch(inputs)
        with self.accelerator.autocast():
            policy = self._scorer.log_probs(model, trees)
        reference = self._reference(trees)
        if not self._begun and self.state.global_step == 0:
            check_policy_is_reference(policy.tokens.detach(), reference.tokens, computes_in_16_bits(self))
        self._begun = True
        rows = len(trees.input_ids)
        pairs = PairLogProbs.from_rows(policy, rows), PairLogProbs.from_rows(reference, rows)
        ours = self._settings.loss in OURS
        loss = self._own_loss(*pairs) if ours else self._trl_loss(trees, *pairs)
        if self._settings.sft_weight:
            loss = loss - self._settings.sft_weight * pairs[0].chosen.mean()
        return (loss, policy) if return_outputs else loss

    def _reference(self, trees: CompletionTrees) -> LogProbs:
        """What the frozen SFT model says."""
        checkpointing = cast("dict[str, Any] | None", self.args.gradient_checkpointing_kwargs)
        unwrapped: PeftModel = self.accelerator.unwrap_model(self.model)
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(cast("PreTrainedModel", self.policy), checkpointing),
            use_adapter(unwrapped, adapter_name=REFERENCE),
            self.accelerator.autocast(),
        ):
            return self._scorer.log_probs(self.policy, trees)

    def _own_loss(self, policy: PairLogProbs, reference: PairLogProbs) -> torch.Tensor:
        """S-DPO or RosePO, and the figures that TRL logs with its own losses."""
        settings = self._settings
        chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
        if settings.loss == "sdpo":
            loss = sdpo(chosen, rejected, settings.beta)
        else:
            loss = rosepo(chosen, rejected, settings.beta, settings.label_smoothing)
        margins = settings.beta * (chosen.unsqueeze(1) - rejected).detach()
        figures = {
            "rewards/chosen": settings.beta * chosen.detach(),
            "rewards/rejected": settings.beta * rejected.detach(),
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
            "entropy": policy.entropy,
        }
        metrics = self._metrics["train" if self.policy.training else "eval"]
        # Read together: for each one that is read, the host waits for the device.
        means = torch.stack([self.accelerator.gather_for_metrics(value).mean() for value in figures.values()])
        for name, mean in zip(figures, means.tolist(), strict=True):
            metrics[name].append(mean)
        return loss.mean()

    def _trl_loss(
        self, trees: CompletionTrees, policy: PairLogProbs, reference: PairLogProbs
    ) -> torch.Tensor:
        """TRL's loss of every chosen item with each of its rejected ones.

        TRL computes its losses from what a forward with its fused head returns, the chosen halves of a batch first;
        it is handed that here in place of the model.
        """
        answers = policy.paired()
        there = torch.nn.functional.pad(answers.is_token, (1, 0))
        of_chosen, of_rejected = reference.paired().total.chunk(2)
        inputs = {
            "input_ids": torch.zeros_like(there, dtype=torch.long),
            "attention_mask": trees.attention_mask.any(-1),
            "completion_mask": there.long(),
            "ref_chosen_logps": of_chosen,
            "ref_rejected_logps": of_rejected,
        }
        outputs = SimpleNamespace(
            log_probs=answers.tokens,
            entropy=answers.entropy,
            mean_logits=torch.zeros_like(answers.tokens),
            is_top1=answers.is_greedy,
        )
        self.precompute_ref_logps = True
        return super()._compute_loss(  # type: ignore[no-untyped-call]  # TRL does not type it
            lambda **_: outputs, inputs, return_outputs=False
        )


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probabilities of B chosen items and n rejected ones each; `completions` has the shape [B, 1 + n, L]."""

    completions: LogProbs

    @classmethod
    def from_rows(cls, log_probs: LogProbs, rows: int) -> PairLogProbs:
        """Rows of completions, the chosen one of each pair first."""
        return cls(log_probs.map(lambda value: value.view(rows, -1, value.shape[1])))

    @property
    def chosen(self) -> torch.Tensor:
        """Log-probabilities of the chosen items, float [B]."""
        return self.completions.total[:, 0]

    @property
    def rejected(self) -> torch.Tensor:
        """Log-probabilities of the rejected items, float [B, n]."""
        return self.completions.total[:, 1:]

    @property
    def entropy(self) -> torch.Tensor:
        """Mean entropy of the tokens' distributions."""
        return self.completions.entropy.sum() / self.completions.is_token.sum().clamp(min=1)

    def paired(self) -> LogProbs:
        """Every chosen item with each of its rejected ones: [2 B n, L], the chosen ones first."""

        def rows(value: torch.Tensor) -> torch.Tensor:
            chosen, rejected = value[:, :1], value[:, 1:]
            halves = chosen.expand_as(rejected), rejected
            return torch.cat([half.reshape(-1, value.shape[-1]) for half in halves])

        return self.completions.map(rows)
