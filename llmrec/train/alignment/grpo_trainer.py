"""TRL's GRPOTrainer with rollouts under the trie, and each group in one token tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from trl import GRPOTrainer

from llmrec.config import GrpoConfig
from llmrec.models.device import to_device
from llmrec.models.vocabulary import without_pads
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees, LogProbs
from llmrec.train.alignment.losses import ecpo_old_log_probs, gbpo_old_log_probs
from llmrec.train.alignment.rewards import RewardContext
from llmrec.train.alignment.rollouts import RolloutSampler, RolloutTasks, ScoredGroups, sample_rollouts
from llmrec.train.alignment.setup import ResumesFromAdapter, check_policy_is_reference, computes_in_16_bits

UNBOUNDED = 1e6
"""A clip range that clips nothing."""


class TreeGRPOTrainer(ResumesFromAdapter, GRPOTrainer):
    """GRPOTrainer that learns on what the trie allows; a row of its dataset is the number of a task.

    TRL makes advantages of the rewards and a loss of the log-probabilities; where both come from is ours.

    Args:
        settings: the recipe's section `grpo`.
        tasks: what it learns on.
        sampler: where rollouts come from.
        scorer: how logits become log-probabilities: what is optimised.
        context: what rewards may know of the catalogue.
        kwargs: GRPOTrainer's; its model is a PeftModel.
    """

    def __init__(
        self,
        settings: GrpoConfig,
        tasks: RolloutTasks,
        sampler: RolloutSampler,
        scorer: CompletionScorer,
        context: RewardContext,
        **kwargs: Any,
    ) -> None:
        self._settings, self._tasks, self._sampler = settings, tasks, sampler
        self._scorer, self._reward_context = scorer, context
        self._drawn: ScoredGroups | None = None
        self._rows: list[int] = []
        self._inputs: dict[str, Any] | None = None
        rewards: list[Any] = [self._reads(reward.name) for reward in settings.rewards]
        super().__init__(reward_funcs=rewards, **kwargs)
        self._spelt = without_pads(scorer.catalogue.tokens.tolist())

    def _reads(self, name: str) -> Callable[..., list[float | None]]:
        """A reward function of TRL's kind: the rewards were computed group by group, as they were drawn."""

        def read(**_: Any) -> list[float | None]:
            assert self._drawn is not None
            return list(self._drawn.terms[name].reshape(-1).tolist())

        read.__name__ = name
        return read

    def _generate(self, prompts: list[int]) -> tuple[Any, ...]:
        """Draw a group for each task; TRL repeats a task's number as often as its group has rollouts."""
        size = self._settings.generations
        rows = prompts[::size]
        if prompts != np.repeat(rows, size).tolist():
            raise AssertionError("a group was torn apart before its rollouts were drawn")
        model = self.accelerator.unwrap_model(self.model)
        drawn = sample_rollouts(
            self._sampler, model, self._tasks.take(rows), self._reward_context, self._settings
        )
        self._drawn, self._rows = drawn, list(prompts)
        self._note(drawn)
        items = drawn.groups.items.reshape(-1).tolist()
        texts = drawn.groups.texts or [[] for _ in items]
        completions = [[*text, *self._spelt[item]] for text, item in zip(texts, items, strict=True)]
        names = [self._reward_context.items[item] for item in items]
        return [self._tasks.prompts[row] for row in prompts], completions, None, names, None, {}, None, []

    def _note(self, drawn: ScoredGroups) -> None:
        """Log the health of the rollouts."""
        hits, items = drawn.groups.hits & ~drawn.injected, drawn.groups.items
        figures = {
            "hits": hits.any(1).mean(),
            "zero_variance_drawn": drawn.zero_variance.mean(),
            "legal": ((items >= 0) & (items < len(self._reward_context.items))).mean(),
            "distinct": np.mean([len(np.unique(row)) for row in items]) / items.shape[1],
        }
        metrics = self._metrics["train" if self.policy.training else "eval"]
        for name, value in figures.items():
            metrics[name].append(float(value))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._inputs = None
        output = super()._generate_and_score_completions(inputs)
        assert self._drawn is not None
        device = output["completion_ids"].device
        output["task"] = to_device(torch.tensor(self._rows), device)
        output["injected"] = to_device(torch.from_numpy(self._drawn.injected.reshape(-1)), device)
        output["place"] = torch.arange(len(self._rows), device=device)
        return output

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, with groups put together again that its shuffling has scattered over micro-batches."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or not self.model.training:
            return inputs
        parts = self._buffered_inputs
        order = torch.cat([part["place"] for part in parts]).argsort()
        whole = {
            name: torch.cat([part[name] for part in parts])[order] if value.ndim else value
            for name, value in parts[0].items()
        }
        size = len(order) // len(parts)
        self._buffered_inputs = [
            {
                name: value[at * size : (at + 1) * size] if value.ndim else value
                for name, value in whole.items()
            }
            for at in range(len(parts))
        ]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        # A copy: TRL hands out the same batch again on the next pass, with what was drawn from it then.
        inputs = dict(inputs)
        self._inputs, self._rows = inputs, inputs["task"].tolist()
        loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]  # TRL's has no types
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Log-probabilities and entropies of completions, float [N, logits_to_keep] each, a tree a group."""
        places: dict[int, list[int]] = {}
        for place, row in enumerate(self._rows):
            places.setdefault(row, []).append(place)
        ids = input_ids[:, -logits_to_keep:].tolist()
        lengths = attention_mask[:, -logits_to_keep:].sum(1).tolist()
        spelt = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        rows, size = list(places), self._settings.batch
        parts = [
            self._log_probs(
                model, {row: [spelt[place] for place in places[row]] for row in rows[at : at + size]}
            )
            for at in range(0, len(rows), size)
        ]
        order = torch.tensor([place for row in rows for place in places[row]])
        back = to_device(order.argsort(), input_ids.device)
        tokens, entropy = (
            torch.cat([pad(value, (0, logits_to_keep - value.shape[1])) for value in values])[back]
            for values in zip(*((part.tokens, part.entropy) for part in parts), strict=True)
        )
        if self._inputs is not None:
            self._set_old(self._inputs, tokens.detach())
        return tokens, entropy, None

    def _log_probs(self, model: torch.nn.Module, completions: dict[int, list[list[int]]]) -> LogProbs:
        """What a model says of completions, given by their task."""
        tasks = self._tasks.take(list(completions))
        trees = CompletionTrees.build(tasks.prompts, list(completions.values()), self._tokenizer.pad_token_id)
        mask = tasks.mask(self._scorer.catalogue) if self._scorer.normalise == "allowed" else None
        with self.accelerator.autocast():
            return self._scorer.log_probs(model, trees.to(self.accelerator.device), mask)

    def _set_old(self, inputs: dict[str, Any], tokens: torch.Tensor) -> None:
        """Set the log-probabilities that the ratio is taken to, as the loss has them."""
        old_log_probs = inputs.get("old_per_token_logps")
        if "ref_per_token_logps" in inputs and old_log_probs is None and self.state.global_step == 0:
            check_policy_is_reference(tokens, inputs["ref_per_token_logps"], computes_in_16_bits(self))
        old = tokens if old_log_probs is None else old_log_probs
        advantages = inputs["advantages"].unsqueeze(1)
        settings = self._settings
        if settings.loss == "ecpo":
            old = ecpo_old_log_probs(tokens, old, advantages, settings.epsilon, settings.delta)
        elif settings.loss == "gbpo":
            old = gbpo_old_log_probs(tokens, old, advantages)
        if settings.inject.corrected and bool(inputs["injected"].any()):
            # An injected target was certain to be there: its ratio is the policy's own probability.
            old = old.masked_fill(inputs["injected"].unsqueeze(1), 0.0)
        self._inputs = None
        if old is not tokens:
            inputs["old_per_token_logps"] = old


def loss_arguments(settings: GrpoConfig) -> dict[str, Any]:
    """TRL's settings for a loss of ours."""
    high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    clip = {"epsilon": settings.epsilon, "epsilon_high": high}
    if settings.loss == "gbpo":
        clip = {"epsilon": UNBOUNDED, "epsilon_high": UNBOUNDED}
    kind = settings.loss if settings.loss in ("grpo", "dr_grpo", "dapo", "bnpo") else "grpo"
    scaled = settings.scale_rewards and settings.loss != "dr_grpo"
    return clip | {
        "loss_type": kind,
        "importance_sampling_level": "sequence" if settings.loss == "gspo" else "token",
        "scale_rewards": "group" if scaled else "none",
    }
