"""Training of the autoencoder with residual codebooks, from item vectors to codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.errors import UserError
from llmrec.hardware import choose_device, has_fast_bfloat16
from llmrec.ids.codecs.autoencoder import RqAutoencoder, Standardised, distances
from llmrec.ids.codecs.autoencoder_codec import freeze
from llmrec.ids.codecs.kmeans import chunks, kmeans
from llmrec.ids.tokenizer import AutoencoderTokenizer, Codes, Signals, number_of_codes
from llmrec.progress.bar import Progress

WARM_UP = 10
"""Epochs without quantization. Afterwards k-means of the latents initialises the codebooks."""
WINDOW, LEAST_CHANGE = 20, 1e-3
"""Training stops if the least loss of the last `WINDOW` epochs is lower by less than this share."""
FEWEST_STEPS = 8
"""Least number of batches an epoch; a small catalogue gets smaller batches."""
KMEANS_ITERATIONS = 20
WEIGHT_DECAY = 1e-4


def fit_autoencoder(make: Callable, signals: Signals, config: AutoencoderTokenizer, seed: int) -> Codes:
    """Train an autoencoder on the item vectors, and quantize the vectors with it.

    Args:
        make: function of the dimension, the number of codes a level and `config`; returns the `RqAutoencoder`.
        signals: provides the item vectors.
        config: the tokenizer's settings.
        seed: seed of weights, batches and revived codes. On one machine, equal seeds give equal codes.
    """
    vectors = np.require(signals.vectors, np.float32, ["C", "W"])
    size = number_of_codes(config.codes, len(vectors))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(vectors.shape[1], size, config)
    items = Standardised.of(vectors)
    train(model, items, config, seed)
    codec = freeze(model, items)
    return Codes(codec.encode(vectors), codec.sizes, codec)


def train(model: RqAutoencoder, items: Standardised, config: AutoencoderTokenizer, seed: int) -> list[float]:
    """Train by AdamW until the loss no longer falls; unused codes are revived after each epoch.

    Args:
        model: trained in place; it is on the CPU afterwards.
        items: the training data.
        config: learning rate, batch size, maximum number of epochs.
        seed: seed of batches and revived codes.

    Returns:
        Mean loss of each epoch after the warm-up.

    Raises:
        UserError: training diverges.
    """
    device = torch.device(choose_device())
    model.to(device).half_precision = has_fast_bfloat16(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=WEIGHT_DECAY, fused=True)
    warm_up = min(WARM_UP, config.epochs // 2)
    losses: list[float] = []
    with Progress(config.kind, config.epochs, "epoch", may_end_early=True) as progress:
        for epoch in range(config.epochs):
            if epoch == warm_up:
                start_codebooks(model, items, seed)
            if epoch >= warm_up:
                model.start_epoch(epoch - warm_up)
            batches = _batches(len(items), config.batch, generator)
            loss, used, latest = _train_epoch(model, optimizer, items, batches, epoch < warm_up)
            progress.update(told=f"loss {loss:.4f}")
            if not np.isfinite(loss):
                raise UserError(
                    f"ids.quantizer.lr: {config.kind}'s loss is {loss} in epoch {epoch}; try a lower one"
                )
            if epoch >= warm_up:
                revive_unused_codes(model, used, latest, generator)
                losses.append(loss)
            if has_converged(losses):
                break
    model.to("cpu").half_precision = False
    return losses


def _train_epoch(
    model: RqAutoencoder,
    optimizer: torch.optim.Optimizer,
    items: Standardised,
    batches: Iterable[torch.Tensor],
    is_warm_up: bool,
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Train on all items once; return the mean loss, how often each code was used, and the last batch."""
    device = model.codebooks[0].device
    # Summed up on the device: to read a step's loss, the host would have to wait for the step.
    sum_of_losses = torch.zeros((), dtype=torch.float64, device=device)
    used = torch.zeros(len(model.codebooks), len(model.codebooks[0]), device=device)
    for rows in batches:
        inputs = items[rows].to(device, non_blocking=True)
        if is_warm_up:
            loss = model.warm_up_loss(inputs)
        else:
            loss, quantized = model.loss(inputs, rows.to(device, non_blocking=True))
            used.scatter_add_(1, quantized.codes.T, torch.ones_like(quantized.codes.T, dtype=used.dtype))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sum_of_losses += loss.detach().double() * len(rows) / len(items)
    return sum_of_losses.item(), used, inputs


def has_converged(losses: Sequence[float]) -> bool:
    """Whether the least loss of the last `WINDOW` epochs is at most `LEAST_CHANGE` of it below the least loss before.

    Epochs before the highest loss are ignored, since the loss may rise while the codebooks adapt to the latents.
    """
    since = losses[int(np.argmax(losses)) :] if losses else losses
    earlier, latest = since[:-WINDOW], since[-WINDOW:]
    return bool(earlier) and min(earlier) - min(latest) <= LEAST_CHANGE * min(earlier)


@torch.no_grad()
def start_codebooks(model: RqAutoencoder, items: Standardised, seed: int) -> None:
    """Initialise the codebooks, level by level, with k-means centroids of the residuals of all items' latents.

    First the latents are scaled to a mean square of 1, so that the weight of the RQ loss does not depend on the
    warm-up. The last layer of the encoder and the first layer of the decoder absorb the factor.
    """
    device = model.codebooks[0].device
    latents = torch.cat([model.encoder(items[rows].to(device)) for rows in chunks(len(items))])
    size = latents.square().mean().sqrt().clamp(min=1e-6)
    last, first = model.encoder[-1], model.decoder[0]
    assert isinstance(last, nn.Linear) and isinstance(first, nn.Linear)
    last.weight.div_(size)
    last.bias.div_(size)
    first.weight.mul_(size)
    residuals = (latents / size).cpu().numpy()
    for level, book in enumerate(model.codebooks):
        centroids, nearest = kmeans(residuals, len(book), KMEANS_ITERATIONS, seed + level)
        book.copy_(torch.from_numpy(centroids))
        residuals = residuals - centroids[nearest]


@torch.no_grad()
def revive_unused_codes(
    model: RqAutoencoder, used: Tensor, inputs: Tensor, generator: torch.Generator
) -> None:
    """Move each unused code to the residual of a random input at its level.

    Args:
        model: the autoencoder; its codebooks are changed in place.
        used: number of items of each code, `[levels, codes]`.
        inputs: standardised vectors `[n, dim]`.
        generator: draws the inputs.
    """
    residual = model.encoder(inputs)
    for book, items in zip(model.codebooks, used, strict=True):
        unused = (items == 0).nonzero()[:, 0]
        rows = torch.randint(len(residual), (len(unused),), generator=generator)
        book[unused] = residual[rows.to(residual.device)]
        residual = residual - book[distances(residual, book).argmin(dim=1)]


def _batches(items: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A random order of the items, divided into batches of similar size, so that no batch is too small."""
    steps = max(-(-items // batch), min(FEWEST_STEPS, items // 32), 1)
    return torch.randperm(items, generator=generator).chunk(steps)
