"""FLOPs of a recipe's stages, and the time that they take on the idle machine."""

from __future__ import annotations

import math

from llmrec.estimate.machine import Precision, matmul_rate
from llmrec.estimate.weights import code_count, scored_tokens
from llmrec.estimate.workload import FIELD_TOKENS, Workload
from llmrec.hardware import choose_precision, uses_bfloat16

WIDE = 512
REACHED = {
    ("float32", False): 0.35,
    ("float32", True): 0.45,
    ("bfloat16", False): 0.2,
    ("bfloat16", True): 0.45,
}
"""Share of the measured rate that a model reaches, by (precision, hidden size of at least `WIDE`): products of narrow
matrices are a smaller part of the time, all the more where they are fast."""
ENCODER_PARAMETERS = 10.6e6  # all-MiniLM-L6-v2 without its embeddings
ENCODED_TOKENS = 32  # of one item's text
ROWS_PER_SECOND = 1e6  # of the data stage
LISTS_PER_SECOND = 1500  # evaluated, bootstrap included
ANSWER_TOKENS = 40  # generated for one question
QUESTION_TOKENS = 300  # of one question and its reference
TEACHER_SCORES_PER_SECOND = 1.5e7  # item probabilities that a mixture computes and the trie sums, on one core
SLOWER_4_BITS = 1.3  # than float32, measured on a CPU
WITHOUT_LANGUAGE_MODEL = ("data", "collaborative", "ids", "tiger", "eval", "report")


def seconds(work: Workload, stage: str) -> float:
    """Seconds of a stage, without the start of its libraries."""
    recipe, size = work.recipe, work.size
    users = min(size.users, recipe.decode.users or size.users)
    lists = users * len(recipe.decode.splits)
    if stage == "data":
        return size.interactions / ROWS_PER_SECOND
    if stage == "eval":
        return lists * (work.models + len(recipe.eval.baselines)) / LISTS_PER_SECOND
    flops = 0.0
    teacher = 0.0
    if stage == "collaborative":
        counts = (size.users, size.items, size.interactions)
        flops = sum(recipe.collaborative.of(name).training_flops(*counts) for name in work.systems)
    elif stage == "ids" and recipe.ids.quantizer.reads_vectors and "text" in recipe.ids.inputs:
        flops = size.items * ENCODED_TOKENS * 2 * ENCODER_PARAMETERS
    elif stage == "sft":
        flops = training_flops(work) + work.validation_tokens() * 2 * work.shape.linear_parameters
        teacher = teacher_seconds(work)
    elif stage == "decode":
        lists = users * len(work.splits) * work.models
        flops = lists * work.list_tokens(recipe.decode.list_length) * 2 * work.shape.linear_parameters
    elif stage == "zero_shot":
        tokens = recipe.eval.zero_shot.tokens(work.history, recipe.decode.list_length, FIELD_TOKENS)
        flops = lists * tokens * 2 * work.shape.parameters
    elif stage == "tiger":
        flops = recipe.tiger.training_flops(size.interactions, work.sid_tokens)
    elif stage == "tasks":
        tokens = sum(
            min(size.users, entry.users or size.users)
            * (2 * QUESTION_TOKENS + ANSWER_TOKENS + entry.answers * FIELD_TOKENS)
            for entry in recipe.eval.tasks
        )
        flops = tokens * 2 * work.shape.parameters
    return flops / flop_rate(work, stage) + teacher


def training_flops(work: Workload) -> float:
    """FLOPs of SFT's steps.

    A token costs 2 FLOPs per weight of the blocks in the forward pass, and 2 in the backward pass for the
    gradient of the input. If all weights are trained, their gradient costs 2 more, and so does a second pass with
    gradient checkpointing. Attention over L tokens costs as much as 2·L·(heads·head_dim) more weights in each block,
    keys and values shared by heads or not, and both of its products have two gradients in every mode. The head is
    applied at labels only; where it is frozen, its new rows alone have a gradient. With `sft.softmax: children` it
    scores a code's siblings alone.
    """
    sft, shape = work.recipe.sft, work.shape
    tokens, labels = work.training_counts()
    again = 2 if sft.gradient_checkpointing else 0
    linear = (again + (6 if sft.mode == "full" else 4)) * shape.linear_parameters
    attention = (again + 6) * 2 * work.mean_length() * shape.attention_width * shape.layers
    slower = SLOWER_4_BITS if sft.mode == "qlora" else 1.0
    if sft.softmax == "children":
        head = 6 * scored_tokens(work) * shape.hidden
    else:
        head = (6 if sft.mode == "full" else 4) * shape.head_parameters + 6 * code_count(work) * shape.hidden
    return tokens * (linear + attention) * slower + labels * head


def flop_rate(work: Workload, stage: str) -> float:
    """FLOP/s that this model reaches in a stage on the idle machine."""
    computed_in = precision(work, stage)
    return matmul_rate(computed_in) * REACHED[computed_in, work.shape.hidden >= WIDE]


def precision(work: Workload, stage: str) -> Precision:
    """What a stage computes in here: the base's precision, `bf16` of a training, `dtype` of decoding.

    Stages without the language model compute in float32.
    """
    if stage in WITHOUT_LANGUAGE_MODEL:
        return "float32"
    training = {"sft": work.recipe.sft, "dpo": work.recipe.dpo, "grpo": work.recipe.grpo}.get(stage)
    if stage == "decode" and (asked := choose_precision(work.recipe.decode.dtype)) is not None:
        return asked
    trains_in_half = training is not None and uses_bfloat16(training.bf16)
    return "bfloat16" if trains_in_half or work.recipe.base.dtype == "bfloat16" else "float32"


def teacher_seconds(work: Workload) -> float:
    """Seconds of the teacher.

    It scores the catalogue once for every target, whose probabilities are kept for later epochs, and before the
    training starts in each epoch for every synthetic item. With parallel codes it scores it for that item again.
    """
    if work.recipe.sft.distillation is None:
        return 0.0
    weight = sum(mixed.config.weight_in(0) for mixed in work.mix if any(mixed.is_next_item))
    epochs = work.passes(work.epoch_counts(1)[0])
    targets = weight * work.rows("next_item") * work.targets() * min(1.0, epochs)
    times = math.ceil(work.recipe.sft.epochs) + (weight * epochs if work.recipe.sft.parallel_codes else 0)
    synthetic = work.users * work.synthetic_items * times
    return (targets + synthetic) * work.size.items / TEACHER_SCORES_PER_SECOND
