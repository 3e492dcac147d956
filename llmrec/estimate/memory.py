"""Bytes of a recipe's stages in memory, and of its run on disk."""

from __future__ import annotations

import math

from llmrec.estimate.machine import has_gpu
from llmrec.estimate.weights import scored_tokens, sibling_count, trained_parameters
from llmrec.estimate.workload import Workload
from llmrec.hardware import CPU_BATCH_GB, GB
from llmrec.models.shape import position_bytes
from llmrec.token_tree import CPU_STEP_GB, MAX_ATTENTION_PAIRS

BYTES_PER_TRAINED = 16  # weight, gradient and Adam's two moments, in float32
BYTES_PER_LOGIT = (
    20  # of a step: logits and gradient in 16 bits, some of both in 32, and what the allocator keeps
)
BYTES_PER_TREE_TOKEN = 24  # its five numbers, and a share of the window's
BYTES_OF_4_BITS = {True: 0.52, False: 0.57}
"""Bytes of a weight with its share of the scales, by `sft.qlora.double_quant`."""


def bytes_per_weight(work: Workload) -> int:
    """Bytes of a weight of the base."""
    return 2 if work.recipe.base.dtype == "bfloat16" else 4


def stored_bytes(work: Workload) -> float:
    """Bytes of the base's weights as they are stored."""
    return bytes_per_weight(work) * work.shape.parameters


def frozen_bytes(work: Workload) -> float:
    """Bytes of the frozen base weights; 4 bits per weight in `qlora`."""
    if work.recipe.sft.mode != "qlora":
        return stored_bytes(work)
    four_bits = BYTES_OF_4_BITS[work.recipe.sft.qlora.double_quant]
    return stored_bytes(work) - work.shape.linear_parameters * (bytes_per_weight(work) - four_bits)


def activations(work: Workload, rows: float, tokens: float, checkpointing: bool) -> float:
    """Bytes of the activations of a training step.

    Args:
        rows: rows of the batch.
        tokens: tokens per row.
        checkpointing: whether activations are recomputed in the backward pass.
    """
    shape = work.shape
    return rows * tokens * position_bytes(shape.layers, shape.hidden, bytes_per_weight(work), checkpointing)


def memory(work: Workload, stage: str) -> float:
    """Bytes of a stage's model: its weights and, in training, the optimizer and the activations of one batch."""
    if stage in ("decode", "zero_shot", "tasks"):
        return stored_bytes(work)
    if stage != "sft":
        return 0.0
    sft = work.recipe.sft
    frozen = 0.0 if sft.mode == "full" else frozen_bytes(work)
    longest = [work.longest(mixed.task, template) for mixed in work.mix for template in mixed.templates]
    step = max(_step_bytes(work, tokens, labels) for tokens, labels in longest)
    # The base is loaded at full precision before it is quantized.
    training = frozen + BYTES_PER_TRAINED * trained_parameters(work) + step
    return max(stored_bytes(work), training + list_bytes(work, sft.valid_lists))


def _step_bytes(work: Workload, tokens: float, labels: float) -> float:
    """Bytes of a step on rows of so many tokens and labels: activations, and the logits of the labelled positions."""
    sft = work.recipe.sft
    one = activations(work, 1, tokens, sft.gradient_checkpointing)
    most = [sft.batch, MAX_ATTENTION_PAIRS / tokens**2, *([] if has_gpu() else [CPU_STEP_GB * GB / one])]
    rows = max(1.0, min(most))
    return rows * (one + labels * scored_tokens(work) * BYTES_PER_LOGIT)


def list_bytes(work: Workload, users: int | None) -> float:
    """Bytes of decoding the lists of `users` on a CPU, where a batch grows up to `CPU_BATCH_GB`."""
    per_token = 18 * work.shape.hidden * bytes_per_weight(work)
    return min(CPU_BATCH_GB * GB, (users or 0) * work.list_tokens(0) * per_token)


def disk_gb(work: Workload) -> float:
    """Disk of a run in GB: base, one trainer checkpoint (for QLoRA with the layers' weights), lists, tables.

    The token trees of the training, which are gone after it, are among it.
    """
    recipe = work.recipe
    checkpoint = 12 * trained_parameters(work)
    if recipe.sft.mode == "qlora":
        checkpoint += work.shape.linear_parameters * bytes_per_weight(work)
    systems = len(recipe.decode.splits) * len(recipe.eval.baselines) + len(work.splits) * work.models
    lists = work.size.users * systems * recipe.decode.list_length
    tables = 12 * lists + 20 * work.size.interactions
    return (stored_bytes(work) + checkpoint + tree_bytes(work) + tables) / GB


def tree_bytes(work: Workload) -> float:
    """Bytes of SFT's token trees on disk: one epoch, or all of them if they differ.

    A synthetic item has the teacher's probabilities of its codes and of their siblings beside it, in 16 bits.
    """
    sft = work.recipe.sft
    differ = (
        work.synthetic_items or sft.augment is not None or any(mixed.varies_by_epoch for mixed in work.mix)
    )
    epochs = math.ceil(sft.epochs) if differ else 1
    _, tokens, _ = work.epoch_counts(epochs)
    asked = sum(
        mixed.config.weight_in(epoch) * sum(mixed.is_next_item) / len(mixed.templates)
        for mixed in work.mix
        for epoch in range(epochs)
    )
    chances = asked * work.users * work.synthetic_items * sibling_count(work)
    return epochs * BYTES_PER_TREE_TOKEN * tokens + (0 if sft.parallel_codes else 2 * chances)
