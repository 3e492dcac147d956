"""Systems of `llmrec bench align`: our trainers and TRL's trainers, on copies of one model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from llmrec.bench._measure import wait
from llmrec.bench.trie import CODES, catalogue
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.config import BaseConfig, DpoConfig, GrpoConfig, LoraSettings, RewardConfig
from llmrec.decode.reference import prefix_table
from llmrec.hardware import choose_device
from llmrec.models import lora
from llmrec.models.base import load_base
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees
from llmrec.train.alignment.dpo_trainer import PairCollator, TreeDPOTrainer
from llmrec.train.alignment.grpo_trainer import TreeGRPOTrainer, loss_arguments
from llmrec.train.alignment.losses import sdpo
from llmrec.train.alignment.rewards import RewardContext
from llmrec.train.alignment.rollouts import RolloutTasks, TreeSampler
from llmrec.train.arguments import checkpointing_argument

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TREES, TRL, ANSWERS, CONSTRAINED = "trees", "TRL", "TRL, head at the answers", "… and the trie's constraint"
"""The systems. Without Triton, TRL's head also scores every position of the prompt; with it, only the answers."""
DEVICE = choose_device()
Normalise = Literal["vocabulary", "allowed"]


@dataclass(frozen=True)
class Subject:
    """A policy, its catalogue, and prompts.

    Attributes:
        model: the policy, a base with an adapter, on `DEVICE`.
        tokenizer: the base's tokenizer.
        catalogue: the items, on `DEVICE`.
        prompts: token-id lists of equal length.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerFast
    catalogue: Catalogue
    prompts: list[list[int]]

    @classmethod
    def make(
        cls, config: BaseConfig, vocabulary: int, length: int, items: int, prompt: int, batch: int
    ) -> Subject:
        """Build a base whose vocabulary ends with semantic-ID tokens, and an adapter with non-zero weights.

        Args:
            config: the base.
            vocabulary: least size of its vocabulary, semantic-ID tokens included.
            length: number of levels of the random semantic IDs.
            items: number of items.
            prompt: number of random tokens of a prompt.
            batch: number of prompts.
        """
        base, tokenizer = load_base(config, ["red nail polish"], 0)
        rows = max(base.config.vocab_size + length * CODES, vocabulary)
        torch.manual_seed(0)
        base.resize_token_embeddings(rows, mean_resizing=False)
        wrapped = lora.attach_lora(base, LoraSettings())
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.002)
        sids = catalogue(items, length)
        trie, names = Trie.build(sids, [CODES] * length), [str(item) for item in range(len(sids))]
        item_catalogue = Catalogue(trie, torch.arange(rows - length * CODES, rows), names, {})
        prompts = np.random.default_rng(2).integers(100, 300, (batch, prompt)).tolist()
        return cls(wrapped.to(DEVICE), tokenizer, item_catalogue.to(DEVICE), prompts)

    def first(self, prompts: int) -> Subject:
        """The same subject with its first `prompts` prompts."""
        return replace(self, prompts=self.prompts[:prompts])

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return int(self.tokenizer.pad_token_id)

    def answers(self, count: int) -> list[list[list[int]]]:
        """Tokens of `count` uniformly drawn items a prompt; such items share few tokens."""
        rng = np.random.default_rng(3)
        tokens = self.catalogue.tokens
        items = [rng.choice(len(tokens), count, replace=len(tokens) < count) for _ in self.prompts]
        return [tokens[torch.from_numpy(row)].tolist() for row in items]

    def copy(self, system: str) -> PeftModel:
        """A copy of the policy, prepared for a system."""
        model = copy.deepcopy(self.model)
        if system in (ANSWERS, CONSTRAINED):
            _score_answers_alone(model, self.catalogue.length)
        if system == CONSTRAINED:
            table = prefix_table(map(tuple, self.catalogue.tokens.tolist()))
            start = len(self.prompts[0])
            # An attribute of this copy hides the method.
            vars(model)["generate"] = partial(
                model.generate, prefix_allowed_tokens_fn=lambda _, path: table[tuple(path[start:].tolist())]
            )
        return model


def _score_answers_alone(model: PeftModel, length: int) -> None:
    """Restrict TRL's head to the answers: keep hidden states and labels of the last `length` + 1 positions only."""
    base = model.get_base_model()

    def labels(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if kwargs.get("labels") is not None:
            kwargs["labels"] = kwargs["labels"][:, -length - 1 :]
        return args, kwargs

    def states(_: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, -length - 1 :]
        return output

    base.register_forward_pre_hook(labels, with_kwargs=True)
    _decoder(model).register_forward_hook(states)


def _decoder(model: PeftModel) -> torch.nn.Module:
    """The base model without its LM head."""
    decoder = model.get_base_model().base_model
    assert isinstance(decoder, torch.nn.Module)
    return decoder


def _policy(trainer: GRPOTrainer | DPOTrainer) -> PeftModel:
    """The trainer's model."""
    assert isinstance(trainer.model, PeftModel)
    return trainer.model


def _arguments() -> dict[str, Any]:
    return {
        "output_dir": tempfile.gettempdir(),
        "report_to": "none",
        "remove_unused_columns": False,
        **checkpointing_argument(False),
        "bf16": False,
        "use_cpu": DEVICE == "cpu",
    }


class _Encoded(GRPOTrainer):
    """TRL's trainer for prompts that are already token ids."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}


def grpo(subject: Subject, system: str, generations: int, normalise: Normalise = "vocabulary") -> GRPOTrainer:
    """A GRPO trainer with the recipe's defaults; TRL's trainer has the same loss.

    Args:
        subject: policy, catalogue and prompts.
        system: one of the systems.
        generations: number of rollouts a prompt.
        normalise: whether log-probabilities are normalised over the vocabulary or over the allowed tokens; trees
            only.
    """
    settings = GrpoConfig(generations=generations, normalise=normalise, rewards=[RewardConfig(name="levels")])
    prompts = range(len(subject.prompts))
    args = GRPOConfig(
        **_arguments(),
        **loss_arguments(settings),
        beta=settings.beta,
        per_device_train_batch_size=len(prompts) * generations,
        num_generations=generations,
        max_completion_length=subject.catalogue.length,
    )
    tokenizer = subject.tokenizer
    shared: dict[str, Any] = {"model": subject.copy(system), "args": args, "processing_class": tokenizer}
    none: list[list[Any]] = [[]] * len(prompts)
    trainer: GRPOTrainer
    if system == TREES:
        trainer = TreeGRPOTrainer(
            settings=settings,
            tasks=RolloutTasks(subject.prompts, none, np.arange(len(none)), none, np.zeros(len(none), int)),
            sampler=TreeSampler(subject.catalogue, subject.pad_id, settings.rollouts),
            scorer=CompletionScorer(normalise, subject.catalogue),
            context=RewardContext(subject.catalogue),
            train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
            **shared,
        )
    else:
        data = Dataset.from_dict({"prompt": subject.prompts})
        trainer = _Encoded(reward_funcs=[_halves], train_dataset=data, **shared)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _halves(completions: Sequence[Any], **_: Any) -> list[float | None]:
    """A reward without cost: 0 and 1 in turn."""
    return [float(place % 2) for place in range(len(completions))]


@dataclass(frozen=True)
class Pass:
    """Forward and backward pass of a policy.

    Attributes:
        model: the policy.
        loss: computes the loss.
    """

    model: PeftModel
    loss: Callable[[], torch.Tensor]

    def __call__(self) -> None:
        """Run the pass, and delete the gradient."""
        self.loss().backward()
        self.model.zero_grad()
        wait()

    def gradient(self) -> tuple[torch.Tensor, int]:
        """Gradient of all trained weights, float64, and number of tokens that pass through the model."""
        token_counts: list[int] = []
        hook = _decoder(self.model).register_forward_pre_hook(
            lambda _, args, kwargs: token_counts.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        self.loss().backward()
        hook.remove()
        parts = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        self.model.zero_grad()
        return torch.cat(parts).double(), sum(token_counts)


def grpo_pass(subject: Subject, system: str, generations: int, normalise: Normalise = "vocabulary") -> Pass:
    """GRPO's pass over uniformly drawn items; `normalise` as for `grpo`."""
    trainer = grpo(subject, system, generations, normalise)
    batch = {name: value.to(DEVICE) for name, value in _rollouts(subject, generations).items()}
    policy = _policy(trainer)
    policy.train()
    # The trainer changes its batch, so it gets a copy.
    return Pass(policy, lambda: trainer.compute_loss(policy, dict(batch)))


def grpo_step(subject: Subject, system: str, generations: int) -> Callable[[], None]:
    """A complete step with learning rate 0; on trees, log-probabilities are those of the policy that is sampled."""
    trainer = grpo(subject, system, generations, "allowed")
    prompts = range(len(subject.prompts)) if system == TREES else subject.prompts
    rows = [{"prompt": prompt} for prompt in prompts for _ in range(generations)]
    policy = _policy(trainer)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.0)

    def step() -> None:
        trainer.training_step(policy, rows, None)
        optimizer.step()
        optimizer.zero_grad()
        wait()

    return step


def _rollouts(subject: Subject, generations: int) -> dict[str, torch.Tensor]:
    """A batch of GRPO in TRL's layout, with one row a completion, prompt included; slightly off-policy."""
    groups = subject.answers(generations)
    trees = CompletionTrees.build(subject.prompts, groups, subject.pad_id).to(DEVICE)
    with torch.no_grad():
        log_probs = (
            CompletionScorer("vocabulary", subject.catalogue).log_probs(subject.model, trees).tokens.cpu()
        )
    answers = torch.tensor(groups).flatten(0, 1)
    prompts = torch.tensor(subject.prompts).repeat_interleave(generations, 0)
    torch.manual_seed(1)
    noisy = log_probs + torch.randn(2, *log_probs.shape) * 0.1
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": answers,
        "completion_mask": torch.ones_like(answers),
        "advantages": torch.linspace(-1, 1, len(answers)),
        "num_items_in_batch": torch.tensor(answers.numel()),
        "old_per_token_logps": noisy[0],
        "ref_per_token_logps": noisy[1],
        "task": torch.arange(len(subject.prompts)).repeat_interleave(generations),
        "injected": torch.zeros(len(answers), dtype=torch.bool),
    }


class _TreeSDPO(TreeDPOTrainer):
    """Our trainer with `precomputed` log-probabilities of the reference."""

    precomputed: Any

    def _reference(self, trees: CompletionTrees) -> Any:
        return self.precomputed

    def reference(self, inputs: dict[str, Any]) -> Any:
        """Compute the reference's log-probabilities of a batch."""
        return super()._reference(CompletionTrees.from_batch(inputs))


class _UnrolledSDPO(DPOTrainer):
    """S-DPO with TRL's forward pass: one row an item with its prompt; `precomputed` holds float [rows]."""

    precomputed: torch.Tensor

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        )
        difference = outputs.log_probs.sum(1) - self.precomputed
        chosen, *rejected = difference.view(-1, inputs["items"]).unbind(1)
        return sdpo(chosen, torch.stack(rejected, 1), self.beta).mean()

    def reference(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Compute the reference's log-probabilities of a batch's rows, float [rows]."""
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "completion_mask")}
        # TRL returns two halves, chosen and rejected.
        return torch.cat(DPOTrainer.compute_ref_log_probs(self, self.model, batch))


def _unroll(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch with one row a completion, from rows as `PairCollator` takes them; the prompts have equal length."""
    ids = torch.tensor([row["prompt"] + completion for row in rows for completion in row["completions"]])
    start, items = len(rows[0]["prompt"]), len(rows[0]["completions"])
    is_completion = (torch.arange(ids.shape[1]) >= start).long().expand_as(ids)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": is_completion,
        "items": items,
    }


def sdpo_pass(subject: Subject, system: str, rejected: int) -> tuple[Pass, Callable[[], None]]:
    """S-DPO's pass and its reference's pass, with one chosen and `rejected` rejected items a prompt."""
    settings = DpoConfig()
    pairs = Dataset.from_dict({"prompt": subject.prompts, "completions": subject.answers(1 + rejected)})
    shared: dict[str, Any] = {
        "model": subject.copy(system),
        "args": DPOConfig(**_arguments(), beta=settings.beta, max_length=None),
        "train_dataset": pairs,
        "processing_class": subject.tokenizer,
    }
    trainer: _TreeSDPO | _UnrolledSDPO
    if system == TREES:
        scorer = CompletionScorer("vocabulary", subject.catalogue)
        collator = PairCollator(subject.pad_id)
        trainer = _TreeSDPO(settings=settings, scorer=scorer, data_collator=collator, **shared)
    else:
        trainer = _UnrolledSDPO(data_collator=_unroll, **shared)
    policy = _policy(trainer)
    policy.train()
    rows = list(pairs)

    def batch() -> dict[str, Any]:
        inputs: dict[str, Any] = trainer._prepare_inputs(trainer.data_collator(rows))
        return inputs

    def loss() -> torch.Tensor:
        dpo: DPOTrainer = trainer
        value: torch.Tensor = dpo.compute_loss(policy, batch())
        return value

    def reference() -> None:
        trainer.reference(batch())
        wait()

    trainer.precomputed = trainer.reference(batch())
    return Pass(policy, loss), reference
