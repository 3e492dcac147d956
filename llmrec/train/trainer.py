"""TRL's SFTTrainer with the loss of token trees."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from llmrec.models.head import head_at
from llmrec.train.order import Epochs, LikeLengths
from llmrec.train.validation import JUDGED, ValidationLists
from llmrec.tree import IGNORE


class TreeTrainer(SFTTrainer):
    """SFTTrainer whose loss reads one label a position, as `llmrec.tree.collate` gives them.

    TRL's fused head scores every position on a CPU, and cannot read the trainable rows that PEFT puts on a
    tied head; here the model's own forward runs, and its head sees only positions with something to learn.

    Args:
        epochs: the trees of the whole training; their order is ours, and a step takes `args`'s batch of them from
            all processes together.
        lists: validation users whose lists are decoded at every evaluation, which then has `eval_ndcg@10`.
        kwargs: SFTTrainer's.
    """

    def __init__(self, epochs: Epochs, lists: ValidationLists | None = None, **kwargs: Any) -> None:
        super().__init__(train_dataset=epochs.rows, **kwargs)
        self._epochs, self._lists = epochs, lists

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LikeLengths:
        turn = self.args.train_batch_size * self.accelerator.num_processes
        step = turn * self.args.gradient_accumulation_steps
        return LikeLengths(self._epochs, step, self.args.seed, turn)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Trainer's loop, and the NDCG@10 of the validation lists, each process decoding its part."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._lists is not None:
            process = self.accelerator
            mine = self._lists.part(process.process_index, process.num_processes)
            judged = f"ndcg@{JUDGED}"
            total = torch.tensor(mine.totals(process.unwrap_model(self.model))[judged], device=process.device)
            total = process.reduce(total, "sum").item()
            output.metrics[f"{metric_key_prefix}_{judged}"] = total / len(self._lists.prompts)
        return output

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean negative log-likelihood of the batch's labels.

        Args:
            model: the (wrapped) model.
            inputs: a batch of `llmrec.tree.collate`.
            return_outputs: whether to return the model's outputs as well, their logits [labels, V].
            num_items_in_batch: labels of all micro-batches of the optimizer step; None: of this batch.
        """
        labels = inputs["shift_labels"]
        learned = labels != IGNORE
        with head_at(model, learned):
            outputs = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                position_ids=inputs["position_ids"],
                use_cache=False,
            )
        loss = cross_entropy(outputs.logits.float(), labels[learned], reduction="sum")
        if num_items_in_batch is None:
            loss = loss / learned.sum().clamp(min=1)
        else:
            # DDP averages gradients over processes, while the count is that of all of them.
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * scale / num_items_in_batch
        return (loss, outputs) if return_outputs else loss
