"""What the settings of all of TRL's trainers have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmrec.config import TrainingConfig

LOG_POINTS, POINTS = 50, 10
"""Log lines, and saves and validations, of a whole training."""


def default_interval(steps: int, least: int) -> int:
    """Steps between two saves or validations, where the recipe names none: at least `least`, below which they would
    cost more than the training between them.
    """
    return max(math.ceil(steps / POINTS), min(steps, least))


def training_arguments(
    section: TrainingConfig, checkpoints: Path, steps: int, seed: int, report_to: Sequence[str]
) -> dict[str, Any]:
    """A section of the recipe as arguments of `transformers.TrainingArguments`; an epoch is the whole training.

    Args:
        section: of the recipe.
        checkpoints: folder of the trainer's checkpoints.
        steps: optimizer steps in all.
        seed: of the training.
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
        "gradient_checkpointing": section.gradient_checkpointing,
        "bf16": section.bf16,
        "seed": seed,
        "remove_unused_columns": False,
        "logging_steps": max(1, steps // LOG_POINTS),
        "logging_nan_inf_filter": False,
        "save_total_limit": section.checkpoints,
        "report_to": list(report_to) or "none",
        "disable_tqdm": False,
        "use_cpu": not torch.cuda.is_available(),
    }
