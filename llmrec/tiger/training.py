"""TIGER's training: each item of a history, given the ones before it, until validation no longer improves.

One thread computes, whatever their number: torch's sums depend on how threads share them, and T5 draws its dropout
from one generator (`llmrec.collaborative.sequential.workers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llmrec.collaborative.sequential.early_stopping import patience_in_epochs, train_to_best
from llmrec.collaborative.sequential.windows import Ints, Window, batches
from llmrec.config import TigerConfig
from llmrec.progress.bar import Progress
from llmrec.tiger.network import Tokens, encoder_inputs

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

Validate = Callable[["T5ForConditionalGeneration"], float]


def windows_by_target(histories: Sequence[Ints], history: int) -> list[Window]:
    """Return a window for each item of a history but the first: at most `history` items before it, and itself."""
    return [
        Window(user, items[max(0, end - history) : end + 1])
        for user, items in enumerate(histories)
        for end in range(1, len(items))
    ]


def train(
    model: T5ForConditionalGeneration,
    tokens: Tokens,
    histories: Sequence[Ints],
    config: TigerConfig,
    seed: int,
    validate: Validate | None,
) -> dict[str, Any]:
    """Train until validation has not improved for `config.patience` epochs; the model keeps the best epoch's weights.

    Args:
        model: the network, which is changed; dropout draws from torch's generator.
        tokens: int64 [items, L], the tokens of each item.
        histories: training histories as item numbers, oldest first.
        config: the recipe's settings.
        seed: seed of the order of targets.
        validate: returns the model's validation NDCG@10; without it, the model trains for `config.patience` epochs.

    Returns:
        A log: `epochs`, `best_epoch`, and per epoch a value of `loss` and of `ndcg@10`.
    """
    windows = windows_by_target(histories, config.history)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)

    def run_epoch(epoch: int) -> float:
        return _epoch(model, optimizer, tokens, windows, config, np.random.default_rng([seed, epoch]))

    judge = None if validate is None else lambda: validate(model)
    read = sum(len(window.items) - 1 for window in windows)
    patience = patience_in_epochs(config.patience, config.patient_steps, read, config.batch)
    return train_to_best(model, run_epoch, judge, config.epochs, patience, "TIGER")


def _epoch(
    model: T5ForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    tokens: Tokens,
    windows: Sequence[Window],
    config: TigerConfig,
    draw: np.random.Generator,
) -> float:
    """Train on all targets once, and return the mean loss per token."""
    model.train()
    total = 0.0
    with Progress("TIGER, epoch", len(windows), "target") as progress:
        for batch in batches(windows, config.batch, draw):
            ids, attention = encoder_inputs([window.items[:-1] for window in batch], tokens)
            labels = torch.from_numpy(tokens[[window.items[-1] for window in batch]])
            loss = model(
                input_ids=ids.to(model.device),
                attention_mask=attention.to(model.device),
                labels=labels.to(model.device),
            ).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            progress.update(len(batch))
    model.eval()
    return total / max(len(windows), 1)
