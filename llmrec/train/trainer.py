"""TRL's SFTTrainer with the loss of token trees."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from llmrec.tree import IGNORE


class TreeTrainer(SFTTrainer):
    """SFTTrainer whose loss reads one label a position, as `llmrec.tree.collate` gives them.

    TRL's fused head scores every position on a CPU, and cannot read the trainable rows that PEFT puts on a
    tied head; here the model's own forward runs, and its head sees only columns with something to learn.
    """

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
            return_outputs: whether to return the model's outputs as well.
            num_items_in_batch: labels of all micro-batches of the optimizer step; None: of this batch.
        """
        labels = inputs["shift_labels"]
        columns = (labels != IGNORE).any(0).nonzero().squeeze(1)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            position_ids=inputs["position_ids"],
            logits_to_keep=columns,
            use_cache=False,
        )
        targets = labels[:, columns]
        learned = targets != IGNORE
        loss = cross_entropy(outputs.logits[learned].float(), targets[learned], reduction="sum")
        if num_items_in_batch is None:
            loss = loss / learned.sum().clamp(min=1)
        else:
            # DDP averages gradients over processes, while the count is that of all of them.
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * scale / num_items_in_batch
        return (loss, outputs) if return_outputs else loss
