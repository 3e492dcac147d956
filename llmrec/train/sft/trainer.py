"""TRL's SFTTrainer with the loss of token trees."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from llmrec.hardware import GB
from llmrec.models.layers.head import head_at_positions
from llmrec.models.shape import position_bytes
from llmrec.token_tree import CPU_STEP_GB, IGNORE, MAX_ATTENTION_PAIRS, MULTIPLE, ancestor_mask
from llmrec.train import sharding
from llmrec.train.sft.batches import as_dataset
from llmrec.train.sft.epochs import EMPTY_TREE, Epochs, FilledSampler, LengthGroupedSampler
from llmrec.train.sft.losses import Loss
from llmrec.train.sft.losses.vocabulary import VocabularyLoss
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.validation import NDCG_CUTOFF, ValidationLists

TRAINED_ROWS = "trainable_tokens_delta"
"""What PEFT calls the trained rows of tokens."""


class TreeTrainer(SFTTrainer):
    """SFTTrainer whose loss reads one label a position, as `llmrec.token_tree.collate` gives them.

    TRL's fused head scores every position on a CPU, and cannot read the trainable rows that PEFT puts on a
    tied head; here the model's own forward runs, and its head sees only positions with something to learn.

    Args:
        epochs: the trees of the whole training; their order is ours, and a step takes `args`'s batch of them from
            all processes together. A batch of long trees is computed a piece at a time.
        validation: trees of validation users, whose loss every evaluation measures as `eval_loss`: the mean over the
            labels of all of them, whatever the batches and the number of processes.
        validation_lists: validation users whose lists are decoded at every evaluation, which then has `eval_ndcg@10`.
        loss: what the labels cost, a teacher in it; None for the softmax over the vocabulary, without one.
        rows_lr: peak learning rate of the trained rows of tokens; None for that of all weights.
        compiled: whether a sharded model's layers are compiled; of another, `args` says it.
        kwargs: SFTTrainer's.
    """

    def __init__(
        self,
        epochs: Epochs,
        validation: Sequence[TrainingTree] = (),
        validation_lists: ValidationLists | None = None,
        loss: Loss | None = None,
        rows_lr: float | None = None,
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        rows = as_dataset([*validation, EMPTY_TREE]) if validation else None
        super().__init__(train_dataset=epochs.rows, eval_dataset=rows, **kwargs)
        self._epochs, self._lists = epochs, validation_lists
        self._rows_lr = rows_lr
        self._loss: Loss = VocabularyLoss() if loss is None else loss
        self._most_positions = self._positions_of_a_step()
        if self.is_fsdp_enabled:
            sharding.shard(self._trained_model, compiled)

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's, which shards on CPUs as well."""
        super().create_accelerator_and_postprocess()
        sharding.allow_cpu_sharding(self)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's, in which the trained rows of tokens may have a learning rate of their own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and self._rows_lr is not None:
            named = (self._trained_model if model is None else model).named_parameters()
            rows = {id(parameter) for name, parameter in named if TRAINED_ROWS in name}
            for group in list(optimizer.param_groups):
                apart = [parameter for parameter in group["params"] if id(parameter) in rows]
                if apart:
                    group["params"] = [p for p in group["params"] if id(p) not in rows]
                    optimizer.add_param_group(group | {"params": apart, "lr": self._rows_lr})
        return optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedSampler:
        turn = self.args.train_batch_size * self.accelerator.num_processes
        step = turn * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(self._epochs, step, self.args.seed, turn)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> FilledSampler:
        processes = self.accelerator.num_processes
        turn = self.args.eval_batch_size * processes if processes > 1 else 1
        return FilledSampler(len(eval_dataset) - 1, turn)

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[Any]:
        """Trainer's; of a sharded model accelerate leaves the forward as it is, where it wraps any other's."""
        if self.is_fsdp_enabled:
            return self.accelerator.autocast()
        return super().autocast_smart_context_manager(cache_enabled)

    @property
    def _trained_model(self) -> torch.nn.Module:
        """The model that is trained; a Trainer may be built without one, this one is not."""
        assert self.model is not None
        return self.model

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's loop with the loss of all labels, and the NDCG@10 of the validation lists.

        Trainer would average the means of batches, whose shares of the labels differ. Each process decodes a part of
        the lists.
        """
        process = self.accelerator
        self._evaluated = torch.zeros(2, dtype=torch.float64, device=process.device)
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        assert output.metrics is not None
        loss, count = process.reduce(self._evaluated, "sum").tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = loss / count
        if self._lists is not None:
            users = self._lists.part(process.process_index, process.num_processes)
            judged = f"ndcg@{NDCG_CUTOFF}"
            with sharding.unsharded(self._trained_model), process.autocast():
                total = users.metric_sums(process.unwrap_model(self.model))[judged]
            total = process.reduce(torch.tensor(total, device=process.device), "sum").item()
            output.metrics[f"{metric_key_prefix}_{judged}"] = total / len(self._lists.prompts)
        return output

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Trainer's step, which also adds the batch to the sums of the evaluation."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        count = int((inputs["host_labels"] != IGNORE).sum())
        self._evaluated[0] += loss.double() * count
        self._evaluated[1] += count
        return loss, logits, labels

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Trainer's step on each piece of a batch; their gradients add up to the batch's."""
        if num_items_in_batch is None:  # the loss is then a mean, and those of pieces do not add up
            return self._piece_step(model, inputs)
        *others, last = self._pad_to_same_count(split_batch(inputs, self._most_positions))
        total = torch.zeros((), device=self.args.device)
        # Gradients that wait to be exchanged are whole ones, for which a sharded training may have no room.
        waiting = nullcontext() if self.is_fsdp_enabled else self.accelerator.no_sync(model)
        with waiting:
            for piece in others:
                total += self._piece_step(model, piece, num_items_in_batch)
        return total + self._piece_step(model, last, num_items_in_batch)

    def _positions_of_a_step(self) -> int | None:
        """Positions whose activations a step on a CPU may keep; None on a GPU, which wants whole batches."""
        if self.args.device.type != "cpu":
            return None
        model: Any = self._trained_model
        config, checkpointing = model.config, self.args.gradient_checkpointing
        each = position_bytes(
            config.num_hidden_layers, config.hidden_size, model.dtype.itemsize, checkpointing
        )
        return int(CPU_STEP_GB * GB / each)

    def _piece_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(  # type: ignore[no-untyped-call]  # TRL does not type it
            model, inputs, num_items_in_batch
        )
        return loss

    def _pad_to_same_count(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch's pieces, and where weights are sharded as many as any process has: all call the model together."""
        if not self.is_fsdp_enabled:
            return parts
        count = torch.tensor(len(parts), device=self.args.device)
        torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MAX)
        nothing = _part(parts[0], [0], MULTIPLE)
        nothing["shift_labels"] = torch.full_like(nothing["shift_labels"], IGNORE)
        nothing["host_labels"] = np.full_like(nothing["host_labels"], IGNORE)
        return [nothing] * (int(count) - len(parts)) + parts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean loss of the batch's labels (`llmrec.train.sft.losses`).

        Args:
            model: the (wrapped) model.
            inputs: a batch of `llmrec.train.sft.batches.TreeCollator`.
            return_outputs: whether to return the model's outputs as well, their logits as the loss reads them.
            num_items_in_batch: labels of all micro-batches of the optimizer step; None: of this batch.
        """
        learned = inputs["shift_labels"] != IGNORE
        with head_at_positions(model, learned), self._loss.head(model, inputs) as losses_of:
            outputs = model(
                input_ids=inputs["input_ids"],
                attention_mask=ancestor_mask(inputs["end"])[:, None],
                position_ids=inputs["position_ids"],
                use_cache=False,
            )
        loss = losses_of(outputs.logits, model.training).sum()
        if num_items_in_batch is None:
            loss = loss / learned.sum().clamp(min=1)
        else:
            # DDP and FSDP average gradients over processes, while the count is that of all of them.
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * scale / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def split_batch(batch: dict[str, Any], most_positions: int | None = None) -> list[dict[str, Any]]:
    """A batch in pieces of at most `MAX_ATTENTION_PAIRS` pairs of positions, each cut to the last label of its trees.

    Memory grows with the square of a tree's length, and a few users have read, or bought, very long texts.

    Args:
        batch: as `llmrec.train.sft.batches.TreeCollator` gives it.
        most_positions: of a piece; None for any number.

    Returns:
        The batch itself where it is small enough; else its pieces, trees in order of their length. A tree that is too
        long alone is a piece of its own.
    """

    def fits(rows: int, width: int) -> bool:
        few = most_positions is None or rows * width <= most_positions
        return few and rows * width**2 <= MAX_ATTENTION_PAIRS

    labels = torch.as_tensor(batch["host_labels"])
    if fits(*labels.shape):
        return [batch]
    place = torch.arange(1, labels.shape[1] + 1)
    widths = torch.where(labels != IGNORE, place, 1).amax(1)
    order = widths.argsort(stable=True)
    parts: list[list[int]] = []
    for row, width in zip(order.tolist(), widths[order].tolist(), strict=True):
        if not parts or not fits(len(parts[-1]) + 1, width):
            parts.append([])
        parts[-1].append(row)
    return [_part(batch, rows, int(widths[rows].max())) for rows in parts]


def _part(batch: dict[str, Any], rows: list[int], width: int) -> dict[str, Any]:
    """Some rows of a batch, and of these the first positions, as many as kernels like."""
    width = -(-width // MULTIPLE) * MULTIPLE
    of_rows = ("window_items", "branches", "chances", "observed", "owner")
    return {name: value[rows] if name in of_rows else value[rows, :width] for name, value in batch.items()}
