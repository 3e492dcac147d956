"""Training until validation no longer improves, as sequential models and TIGER are trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
from torch import nn

from llmrec.metrics.ranking import score_ranks
from llmrec.progress.bar import Progress

CUTOFF = 10
"""Cutoff of the NDCG that stops the training."""


def train_to_best(
    model: nn.Module,
    run_epoch: Callable[[int], float],
    validate: Callable[[], float] | None,
    epochs: int,
    patience: int,
    title: str,
) -> dict[str, Any]:
    """Train until validation has not improved for `patience` epochs; the model keeps the best epoch's weights.

    Args:
        model: the model that is validated; changed in place.
        run_epoch: trains the epoch of a number, from 1 on, and returns its mean loss.
        validate: returns the model's validation NDCG@10; without it, the model trains for `patience` epochs.
        epochs: most epochs.
        patience: number of epochs without a better value after which the training ends.
        title: for the progress bar, and for lines of progress where stderr is no terminal.

    Returns:
        A log: `epochs`, `best_epoch`, and per epoch a value of `loss` and of `ndcg@10`.
    """
    epochs = epochs if validate else min(epochs, patience)
    log: dict[str, Any] = {"epochs": 0, "best_epoch": epochs, "loss": [], "ndcg@10": []}
    best = model.state_dict()
    with Progress(title, epochs, "epoch", may_end_early=validate is not None) as progress:
        for epoch in range(1, epochs + 1):
            log["epochs"] = epoch
            log["loss"].append(round(run_epoch(epoch), 6))
            figures = f"loss {log['loss'][-1]:.3f}"
            if validate is not None:
                value = round(validate(), 6)
                if value > max(log["ndcg@10"], default=-1.0):
                    log["best_epoch"], best = epoch, copy.deepcopy(model.state_dict())
                log["ndcg@10"].append(value)
                figures += f", NDCG@10 {value:.4f}"
            progress.update(told=figures)
            if validate is not None and epoch - log["best_epoch"] >= patience:
                break
    model.load_state_dict(best)
    return log


def patience_in_epochs(patience: int, patient_steps: int, samples: int, batch: int) -> int:
    """Return the number of epochs without a better value after which a training ends.

    Args:
        patience: smallest number of epochs.
        patient_steps: smallest number of optimizer steps.
        samples: number of samples of an epoch.
        batch: number of samples of a step.
    """
    return max(patience, math.ceil(patient_steps / max(1, math.ceil(samples / batch))))


def mean_ndcg(ranks: Sequence[int]) -> float:
    """Mean NDCG@10 of validation targets.

    Args:
        ranks: the rank of each target, from 1 on; 0 for a miss.
    """
    scored = score_ranks(pl.DataFrame({"rank": ranks}, schema={"rank": pl.Int64}), [CUTOFF])
    # polars types the mean of any series; that of a float column is a float.
    return float(scored[f"ndcg@{CUTOFF}"].mean())  # type: ignore[arg-type]
