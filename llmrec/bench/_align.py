"""What `llmrec bench align` sets side by side: our trainers and TRL's, on copies of one model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from llmrec.bench.decode import SMOLLM2
from llmrec.bench.trie import CODES, catalogue
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.config import BaseConfig, DpoConfig, GrpoConfig, LoraSettings, RewardConfig
from llmrec.decode.reference import prefix_table
from llmrec.models import lora
from llmrec.models.base import load_base
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees
from llmrec.train.alignment.dpo_trainer import PairCollator, TreeDPOTrainer
from llmrec.train.alignment.grpo_trainer import TreeGRPOTrainer, loss_arguments
from llmrec.train.alignment.losses import sdpo
from llmrec.train.alignment.rewards import RewardContext
from llmrec.train.alignment.rollouts import RolloutTasks, TreeSampler

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerFast

TREES, TRL, ANSWERS, CONSTRAINED = "trees", "TRL", "TRL, head at the answers", "… and the trie's constraint"
"""The systems. Without Triton, TRL's head scores every position of the prompt too; with it, the answers alone."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Subject:
    """A policy, its catalogue, and prompts of one length."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerFast
    catalogue: Catalogue
    prompts: list[list[int]]

    @classmethod
    def make(
        cls, model: str, shape: Mapping[str, int], length: int, items: int, prompt: int, batch: int
    ) -> Subject:
        """A base with rows for semantic-ID tokens at the end of its vocabulary, and an adapter that does something.

        Args:
            model: `qwen3` (random weights), `smollm2`, or what a recipe's `base.model` may be.
            shape: `layers`, `hidden` and `vocabulary` of `qwen3`, semantic-ID tokens included.
            length: levels of the random semantic IDs.
            items: how many there are.
            prompt: tokens of a prompt, random.
            batch: prompts.
        """
        heads = max(1, shape["hidden"] // 64)
        tiny = dict(shape) | {"heads": heads, "kv_heads": max(1, heads // 2)}
        tiny["intermediate"] = 3 * shape["hidden"]
        known = {"qwen3": {"tiny": tiny}, "smollm2": {"model": SMOLLM2}}
        config = BaseConfig.model_validate(known.get(model, {"model": model}))
        base, tokenizer = load_base(config, ["red nail polish"], 0)
        rows = base.config.vocab_size + length * CODES
        if model == "qwen3":
            rows = max(rows, shape["vocabulary"])
        torch.manual_seed(0)
        base.resize_token_embeddings(rows, mean_resizing=False)
        wrapped = lora.attach_lora(base, LoraSettings())
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.002)
        sids = catalogue(items, length)
        trie, names = Trie.build(sids, [CODES] * length), [str(item) for item in range(len(sids))]
        stock = Catalogue(trie, torch.arange(rows - length * CODES, rows), names, {})
        prompts = np.random.default_rng(2).integers(100, 300, (batch, prompt)).tolist()
        return cls(wrapped, tokenizer, stock.to(DEVICE), prompts)

    def first(self, prompts: int) -> Subject:
        """The same with so many of its prompts."""
        return replace(self, prompts=self.prompts[:prompts])

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return int(self.tokenizer.pad_token_id)

    def answers(self, count: int) -> list[list[list[int]]]:
        """Tokens of `count` items a prompt, drawn uniformly: siblings share as little as they can."""
        rng, spelt = np.random.default_rng(3), self.catalogue.tokens
        items = [rng.choice(len(spelt), count, replace=len(spelt) < count) for _ in self.prompts]
        return [spelt[torch.from_numpy(row)].tolist() for row in items]

    def copy(self, system: str) -> PeftModel:
        """The policy once more, as a system takes it."""
        model = copy.deepcopy(self.model)
        if system in (ANSWERS, CONSTRAINED):
            _score_answers_alone(model, self.catalogue.length)
        if system == CONSTRAINED:
            table, start = prefix_table(map(tuple, self.catalogue.tokens.tolist())), len(self.prompts[0])
            model.generate = partial(
                model.generate, prefix_allowed_tokens_fn=lambda _, path: table[tuple(path[start:].tolist())]
            )
        return model


def _score_answers_alone(model: PeftModel, length: int) -> None:
    """Keep the prompts from TRL's head: hidden states and labels of the last `length` + 1 positions are left."""
    base = model.get_base_model()

    def labels(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if kwargs.get("labels") is not None:
            kwargs["labels"] = kwargs["labels"][:, -length - 1 :]
        return args, kwargs

    def states(_: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, -length - 1 :]
        return output

    base.register_forward_pre_hook(labels, with_kwargs=True)
    base.base_model.register_forward_hook(states)


def _arguments() -> dict[str, Any]:
    return {
        "output_dir": tempfile.gettempdir(),
        "report_to": "none",
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": DEVICE == "cpu",
    }


class _Encoded(GRPOTrainer):
    """TRL's trainer on prompts that are token ids already."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}


def grpo(subject: Subject, system: str, generations: int, normalise: str = "vocabulary") -> GRPOTrainer:
    """A GRPO trainer with the recipe's defaults; TRL's has the same loss.

    Args:
        subject: what it trains.
        system: one of the systems.
        generations: rollouts a prompt.
        normalise: whether log-probabilities are the model's or the constrained policy's; for trees.
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
    shared = {"model": subject.copy(system), "args": args, "processing_class": subject.tokenizer}
    if system == TREES:
        known = subject.catalogue
        trainer = TreeGRPOTrainer(
            settings=settings,
            tasks=RolloutTasks(
                subject.prompts, [[]] * len(prompts), np.arange(len(prompts)), [[]] * len(prompts)
            ),
            sampler=TreeSampler(known, subject.pad_id, settings.rollouts),
            scorer=CompletionScorer(settings.normalise, known),
            context=RewardContext(known),
            train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
            **shared,
        )
    else:
        data = Dataset.from_dict({"prompt": subject.prompts})
        trainer = _Encoded(reward_funcs=[_halves], train_dataset=data, **shared)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _halves(completions: Sequence[Any], **_: Any) -> list[float]:
    """A reward that costs nothing."""
    return [float(place % 2) for place in range(len(completions))]


@dataclass(frozen=True)
class Pass:
    """Forward and backward of a policy."""

    model: PeftModel
    loss: Callable[[], torch.Tensor]

    def __call__(self) -> None:
        """Run it."""
        self.loss().backward()
        self.model.zero_grad()
        wait()

    def gradient(self) -> tuple[torch.Tensor, int]:
        """The gradient of all that is trained, float64, and tokens that the model computes on the way to it."""
        seen = []
        body = self.model.get_base_model().base_model
        hook = body.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        self.loss().backward()
        hook.remove()
        parts = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        self.model.zero_grad()
        return torch.cat(parts).double(), sum(seen)


def wait() -> None:
    """Let a GPU finish what it was asked."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def grpo_pass(subject: Subject, system: str, generations: int, normalise: str = "vocabulary") -> Pass:
    """GRPO's pass over uniformly drawn items; `normalise` as for `grpo`."""
    trainer = grpo(subject, system, generations, normalise)
    batch = {name: value.to(DEVICE) for name, value in _rollouts(subject, generations).items()}
    trainer.model.train()
    # The trainer writes into its batch.
    return Pass(trainer.model, lambda: trainer.compute_loss(trainer.model, dict(batch)))


def grpo_step(subject: Subject, system: str, generations: int) -> Callable[[], None]:
    """A whole step, at a learning rate of zero; on trees, of the policy that it samples from."""
    trainer = grpo(subject, system, generations, "allowed")
    prompts = range(len(subject.prompts)) if system == TREES else subject.prompts
    rows = [{"prompt": prompt} for prompt in prompts for _ in range(generations)]
    optimizer = torch.optim.AdamW([p for p in trainer.model.parameters() if p.requires_grad], lr=0.0)

    def step() -> None:
        trainer.training_step(trainer.model, rows, None)
        optimizer.step()
        optimizer.zero_grad()
        wait()

    return step


def _rollouts(subject: Subject, generations: int) -> dict[str, torch.Tensor]:
    """A batch of GRPO as TRL lays it out: a row a completion, prompt and all; slightly off-policy."""
    groups = subject.answers(generations)
    trees = CompletionTrees.build(subject.prompts, groups, subject.pad_id)
    with torch.no_grad():
        now = CompletionScorer("vocabulary", subject.catalogue).log_probs(subject.model, trees).tokens
    answers = torch.tensor(groups).flatten(0, 1)
    prompts = torch.tensor(subject.prompts).repeat_interleave(generations, 0)
    torch.manual_seed(1)
    near = now + torch.randn(2, *now.shape) * 0.1
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": answers,
        "completion_mask": torch.ones_like(answers),
        "advantages": torch.linspace(-1, 1, len(answers)),
        "num_items_in_batch": torch.tensor(answers.numel()),
        "old_per_token_logps": near[0],
        "ref_per_token_logps": near[1],
        "task": torch.arange(len(subject.prompts)).repeat_interleave(generations),
        "injected": torch.zeros(len(answers), dtype=torch.bool),
    }


class _TreeSDPO(TreeDPOTrainer):
    """Our trainer, what the reference says `known` beforehand."""

    known: Any

    def _reference(self, trees: CompletionTrees) -> Any:
        return self.known

    def look(self, inputs: dict[str, Any]) -> Any:
        """What the reference says of a batch."""
        return super()._reference(CompletionTrees.from_batch(inputs))


class _UnrolledSDPO(DPOTrainer):
    """S-DPO through TRL's forward: an item a row, each after its own prompt; what the reference says `known`."""

    known: torch.Tensor

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
        apart = outputs.log_probs.sum(1) - self.known
        chosen, *rejected = apart.view(-1, inputs["items"]).unbind(1)
        return sdpo(chosen, torch.stack(rejected, 1), self.beta).mean()

    def look(self, inputs: dict[str, Any]) -> torch.Tensor:
        """What the reference says of a batch's rows, float [rows]."""
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "completion_mask")}
        # TRL returns it in two halves, chosen and rejected.
        return torch.cat(self.compute_ref_log_probs(self.model, batch))


def _unroll(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as `PairCollator` takes them, prompts of one length: a row for each of their completions."""
    ids = torch.tensor([row["prompt"] + one for row in rows for one in row["completions"]])
    start, items = len(rows[0]["prompt"]), len(rows[0]["completions"])
    completion = (torch.arange(ids.shape[1]) >= start).long().expand_as(ids)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": completion,
        "items": items,
    }


def sdpo_pass(subject: Subject, system: str, rejected: int) -> tuple[Pass, Callable[[], None]]:
    """S-DPO's pass over a pair of uniformly drawn items for each prompt, and its reference's pass, apart."""
    settings = DpoConfig()
    pairs = Dataset.from_dict({"prompt": subject.prompts, "completions": subject.answers(1 + rejected)})
    shared = {
        "model": subject.copy(system),
        "args": DPOConfig(**_arguments(), beta=settings.beta, max_length=None),
        "train_dataset": pairs,
        "processing_class": subject.tokenizer,
    }
    if system == TREES:
        policy, collator = CompletionScorer("vocabulary", subject.catalogue), PairCollator(subject.pad_id)
        trainer = _TreeSDPO(settings=settings, scorer=policy, data_collator=collator, **shared)
    else:
        trainer = _UnrolledSDPO(data_collator=_unroll, **shared)
    trainer.model.train()
    rows = list(pairs)

    def batch() -> dict[str, Any]:
        return trainer._prepare_inputs(trainer.data_collator(rows))

    def reference() -> None:
        trainer.look(batch())
        wait()

    trainer.known = trainer.look(batch())
    return Pass(trainer.model, lambda: trainer.compute_loss(trainer.model, batch())), reference
