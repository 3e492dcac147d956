"""Trainer arguments that all trainings share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from llmrec.config import TrainingConfig
from llmrec.hardware import uses_bfloat16

if TYPE_CHECKING:
    from transformers import TrainingArguments

LOG_POINTS, POINTS = 50, 10
"""Number of log lines in a whole training, and number of saves and of validations."""


def default_interval(steps: int, min_steps: int) -> int:
    """Default number of steps between two saves or validations: a tenth of the training, but at least `min_steps`.

    More frequent saves would cost more than the training between them.
    """
    return max(math.ceil(steps / POINTS), min(steps, min_steps))


Arguments = TypeVar("Arguments", bound="TrainingArguments")


def on_one_gpu(arguments: Arguments) -> Arguments:
    """Let a process train on one GPU, whatever number it sees.

    With several, Trainer would copy the model to each (DataParallel), which TRL refuses. `--processes` uses them.

    Args:
        arguments: a trainer's arguments; changed in place.
    """
    if arguments.n_gpu > 1:  # read first: Trainer counts the GPUs when it is asked for them
        arguments._n_gpu = 1
    return arguments


def checkpointing_argument(is_on: bool) -> dict[str, Any]:
    """Trainers' argument for recomputing activations: transformers has renamed it."""
    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    return {
        "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing": is_on
    }


def training_arguments(
    section: TrainingConfig, checkpoints: Path, steps: int, seed: int, report_to: Sequence[str]
) -> dict[str, Any]:
    """Translate a recipe section into arguments of `transformers.TrainingArguments`.

    All epochs of the recipe form one epoch of the trainer.

    Args:
        section: the recipe's section.
        checkpoints: folder of the trainer's checkpoints.
        steps: optimizer steps of the whole training.
        seed: seed of the training.
        report_to: trackers.
    """
    return {
        "output_dir": str(checkpoints),
        "learning_rate": section.lr,
        "num_train_epochs": 1,
        "max_steps": steps,
        "gradient_accumulation_steps": section.accumulate,
        "warmup_steps": section.warmup,
        "lr_scheduler_type": section.schedule,
        "weight_decay": section.weight_decay,
        **checkpointing_argument(section.gradient_checkpointing),
        "bf16": uses_bfloat16(section.bf16),
        "seed": seed,
        "remove_unused_columns": False,
        "logging_steps": max(1, steps // LOG_POINTS),
        "logging_nan_inf_filter": False,
        "save_total_limit": section.checkpoints,
        "report_to": list(report_to) or "none",
        "disable_tqdm": False,
        "log_level_replica": "error",  # processes other than the first would warn again
        "use_cpu": not torch.cuda.is_available(),
    }
