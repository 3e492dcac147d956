"""Training of sequential models: negatives, optimizer steps, early stopping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from llmrec.collaborative.sequential.dropout import Dropout
from llmrec.collaborative.sequential.early_stopping import patience_in_epochs, train_to_best
from llmrec.collaborative.sequential.losses import bce_loss, ce_loss
from llmrec.collaborative.sequential.network import Network
from llmrec.collaborative.sequential.settings import SequentialSettings
from llmrec.collaborative.sequential.windows import (
    Ints,
    Window,
    augment,
    batches,
    cut_windows,
    pad,
    split_batch,
)
from llmrec.collaborative.sequential.workers import RunAll, run_in_turn
from llmrec.hardware import choose_device
from llmrec.progress.bar import Progress

Loss = Literal["bce", "ce"]
Build = Callable[[int, Any], Network]
"""Makes a network for a number of items by its settings; it draws the weights from torch's generator."""
TRIES = 20
"""Most times that a negative is drawn again because the user has the item."""
PARTS = 2
"""Number of parts of a batch; each is computed by one thread. It is part of the result."""


class NegativeSampler:
    """Draws an item for each target that is not in the user's training history."""

    def __init__(self, histories: Sequence[Ints], items: int) -> None:
        """Store the items of each user; item indices are below `items`."""
        pairs = [user * items + history for user, history in enumerate(histories)]
        self._pairs = np.unique(np.concatenate([np.empty(0, np.int64), *pairs]))
        self._items = items

    def draw(self, users: Ints, generator: np.random.Generator) -> Ints:
        """Draw one item for each of `users`, int64 [P]; any item for a user who has (nearly) all of them."""
        negatives = generator.integers(0, self._items, len(users))
        for _ in range(TRIES):
            rejected = np.flatnonzero(self._in_history(users * self._items + negatives))
            if not len(rejected):
                break
            negatives[rejected] = generator.integers(0, self._items, len(rejected))
        return negatives

    def _in_history(self, pairs: Ints) -> npt.NDArray[np.bool_]:
        places = np.searchsorted(self._pairs, pairs).clip(max=len(self._pairs) - 1)
        return np.asarray(self._pairs[places] == pairs, bool)


@dataclass(frozen=True)
class Histories:
    """Training histories.

    Attributes:
        items: item indices of each user, oldest first.
        times: the times of the items, seconds; None where the network reads none.
    """

    items: Sequence[Ints]
    times: Sequence[Ints] | None = None


def train(
    build: Build,
    histories: Histories,
    items: int,
    loss: Loss,
    config: SequentialSettings,
    seed: int,
    validate: Callable[[Network], float] | None,
    run_all: RunAll = run_in_turn,
    title: str = "",
) -> tuple[Network, dict[str, Any]]:
    """Train until validation has not improved for `config.patience` epochs and `config.patient_steps` steps.

    The weights of the best epoch are kept.

    Equal arguments give equal weights on CPUs of one kind, if each job has one thread (`start_workers`). The state of
    torch's global generator is restored.

    Args:
        build: makes the network.
        histories: training histories.
        items: size of the catalogue.
        loss: `bce` or `ce`.
        config: the recipe's settings.
        seed: seed of weights, dropout, order and negatives.
        validate: returns a model's validation NDCG@10; without it, the model trains as long as it would wait.
        run_all: computes the parts of a batch, `PARTS` at a time.
        title: name of the model, for the progress bar.

    Returns:
        The model, and a log: `epochs`, `best_epoch`, and per epoch a value of `loss` and of `ndcg@10`.
    """
    trainer = _Trainer(build, histories, items, loss, config, seed, run_all, title)
    model = trainer.average
    judge = None if validate is None else lambda: validate(model)
    targets = sum(len(items) - 1 for items in histories.items)
    patience = patience_in_epochs(config.patience, config.patient_steps, targets, config.batch)
    log = train_to_best(model, trainer.epoch, judge, config.epochs, patience, f"{title} ({loss})")
    return model, log


@dataclass(frozen=True)
class _Part:
    """A part of a batch.

    Attributes:
        windows: its windows.
        share: its share of the batch's targets.
        stream: seed of its dropout and negatives.
    """

    windows: Sequence[Window]
    share: float
    stream: tuple[int, ...]


class _Trainer:
    """A model with its optimizer and its training data."""

    def __init__(
        self,
        build: Build,
        histories: Histories,
        items: int,
        loss: Loss,
        config: SequentialSettings,
        seed: int,
        run_all: RunAll,
        title: str,
    ) -> None:
        self.histories, self.title = histories, title
        self.negatives = NegativeSampler(histories.items, items)
        self.loss, self.config, self.seed, self.run_all = loss, config, seed, run_all
        self.device = choose_device()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = build(items, config).to(self.device)
        self.parameters = list(self.model.parameters())
        self.average = copy.deepcopy(self.model) if config.averaging else self.model
        self.averages = list(self.average.parameters())
        # The betas of the published code.
        self.optimizer = torch.optim.Adam(self.parameters, config.lr, betas=(0.9, 0.98), fused=True)

    def epoch(self, epoch: int) -> float:
        """Train on all windows once, and return the mean loss per target."""
        total, count = 0.0, 0
        draw = np.random.default_rng([self.seed, epoch])
        pieces = augment(self.histories.items, self.config, draw, self.histories.times)
        windows = cut_windows(pieces, self.config.history, self.model.start)
        every = sum(window.target_count for window in windows)
        name = f"{self.title} ({self.loss}), epoch {epoch}"
        with Progress(name, every, "target") as progress:
            for step, batch in enumerate(batches(windows, self.config.batch, draw)):
                targets = sum(window.target_count for window in batch)
                total += self._step(batch, targets, (self.seed, epoch, step)) * targets
                count += targets
                progress.update(targets)
        return total / max(count, 1)

    def _step(self, batch: Sequence[Window], targets: int, stream: tuple[int, ...]) -> float:
        """Take an optimizer step, and return the batch's mean loss."""
        parts = [
            _Part(windows, sum(window.target_count for window in windows) / targets, (*stream, number))
            for number, windows in enumerate(split_batch(batch, PARTS))
        ]
        losses, gradients = zip(*self.run_all(self._gradients, parts), strict=True)
        for parameter, shares in zip(self.parameters, zip(*gradients, strict=True), strict=True):
            parameter.grad = sum(shares[1:], shares[0])
        self.optimizer.step()
        if self.config.averaging:
            with torch.no_grad():
                for average, parameter in zip(self.averages, self.parameters, strict=True):
                    average.lerp_(parameter, 1 - self.config.averaging)
        return sum(losses)

    def _gradients(self, part: _Part) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Return a part's share of the batch's mean loss, and the gradients of that share."""
        bits = np.random.SFC64(part.stream)
        loss = self._loss(part.windows, bits) * part.share
        return loss.item(), torch.autograd.grad(loss, self.parameters)

    def _loss(self, windows: Sequence[Window], bits: np.random.BitGenerator) -> torch.Tensor:
        """Mean loss of the targets of some windows."""
        inputs, lengths = pad([window.items[:-1] for window in windows])
        targets = torch.from_numpy(np.concatenate([window.items[1:] for window in windows])).to(self.device)
        is_item = (torch.arange(inputs.shape[1]) < lengths[:, None]).to(self.device)
        drop = Dropout(self.config.dropout, bits)
        hidden = self.model(
            inputs.to(self.device), lengths.to(self.device), drop, _times(windows, self.device)
        )[is_item]
        table = self.model.table()
        if self.loss == "ce":
            return ce_loss(hidden, table, targets)
        users = np.repeat([window.user for window in windows], lengths.numpy())
        negatives = torch.from_numpy(self.negatives.draw(users, np.random.Generator(bits))).to(self.device)
        return bce_loss(hidden, table, targets, negatives)


def _times(windows: Sequence[Window], device: torch.device | str) -> torch.Tensor | None:
    """Times of the windows' inputs, int64 [B, T], padded with 0; None where there are none."""
    rows = [window.times[:-1] for window in windows if window.times is not None]
    return pad(rows)[0].to(device) if rows else None
