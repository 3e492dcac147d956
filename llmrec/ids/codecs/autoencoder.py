"""The autoencoder with residual codebooks that RQ-VAE, LC-Rec, LETTER and CoST share, and its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from llmrec.errors import UserError
from llmrec.hardware import choose_device, has_fast_bfloat16
from llmrec.ids.codecs.kmeans import chunks, kmeans
from llmrec.ids.codecs.residual import ResidualCodec
from llmrec.ids.tokenizer import AutoencoderTokenizer, Codec, Codes, Signals, number_of_codes
from llmrec.progress.lines import ProgressLines

WARM_UP = 10
"""Epochs without quantization. Afterwards k-means of the latents initialises the codebooks."""
WINDOW, LEAST_CHANGE = 20, 1e-3
"""Training stops if the least loss of the last `WINDOW` epochs is lower by less than this share."""
FEWEST_STEPS = 8
"""Least number of batches an epoch; a small catalogue gets smaller batches."""
KMEANS_ITERATIONS = 20
WEIGHT_DECAY, GAIN_SAMPLE = 1e-4, 16_384
CHUNK = 2048
"""Rows that the frozen networks process at once; small enough for the CPU's cache."""
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Quantized:
    """Result of residual quantization of a batch of latents.

    Attributes:
        codes: int64 `[n, levels]`.
        total: sum of the codes' vectors `[n, latent]`; its gradient passes straight to the latents.
        loss: sum of the codebook and commitment terms of all levels.
    """

    codes: Tensor
    total: Tensor
    loss: Tensor


class RqAutoencoder(nn.Module):
    """MLP encoder, residual codebooks, MLP decoder (Rajput et al. 2023, TIGER).

    Tokenizers differ in `assign_codes`, `reconstruction_loss` and `extra_loss`.

    Args:
        dim: dimension of the item vectors.
        codes: number of codes of each level.
        config: sizes and weights.
    """

    def __init__(self, dim: int, codes: int, config: AutoencoderTokenizer) -> None:
        super().__init__()
        widths = [dim, *config.hidden, config.latent]
        self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        books = [torch.randn(codes, config.latent) for _ in range(config.levels)]
        self.codebooks = nn.ParameterList(books)
        self.beta = config.beta
        self.half_precision = False
        """Whether the networks compute in bfloat16. Codebooks and losses are always float32."""

    def loss(self, inputs: Tensor, rows: Tensor) -> tuple[Tensor, Quantized]:
        """The training loss of a batch, and its quantized latents.

        Args:
            inputs: standardised vectors `[n, dim]`.
            rows: the items' rows, int64 `[n]`.
        """
        with self._autocast(inputs):
            latents = self.encoder(inputs)
        quantized = self.quantize(latents.float())
        with self._autocast(inputs):
            outputs = self.decoder(quantized.total)
        loss = self.reconstruction_loss(outputs.float(), inputs) + quantized.loss
        return loss + self.extra_loss(quantized, rows), quantized

    def warm_up_loss(self, inputs: Tensor) -> Tensor:
        """The loss of the autoencoder without codebooks."""
        with self._autocast(inputs):
            outputs = self.decoder(self.encoder(inputs))
        return self.reconstruction_loss(outputs.float(), inputs)

    def quantize(self, latents: Tensor) -> Quantized:
        """Codes, straight-through sum and loss of latents `[n, latent]`.

        The loss is TIGER's Σ_l ‖sg[r_l] − e_l‖² + β‖r_l − sg[e_l]‖², with r_{l+1} = r_l − sg[e_l]. So the term of a
        level has gradients for the encoder and for its own codebook only. Squared norms are means over the latent
        dimensions, as in `reconstruction_loss`, so that the weights of the terms do not depend on sizes.
        """
        residual, loss = latents, latents.new_zeros(())
        codes = []
        for level, book in enumerate(self.codebooks):
            chosen = self.assign_codes(level, distances(residual.detach(), book.detach()))
            vectors = functional.embedding(chosen, book)
            loss = loss + functional.mse_loss(vectors, residual.detach())
            loss = loss + self.beta * functional.mse_loss(residual, vectors.detach())
            residual = residual - vectors.detach()
            codes.append(chosen)
        return Quantized(torch.stack(codes, dim=1), latents - residual.detach(), loss)

    def assign_codes(self, level: int, costs: Tensor) -> Tensor:
        """Codes int64 `[n]` for squared distances `[n, codes]`; by default the nearest ones."""
        return costs.argmin(dim=1)

    def reconstruction_loss(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Loss between the decoder's outputs and its inputs, both `[n, dim]`; by default the mean squared error."""
        return functional.mse_loss(outputs, inputs)

    def extra_loss(self, quantized: Quantized, rows: Tensor) -> Tensor | float:
        """Further terms of the loss; by default 0."""
        return 0.0

    def start_epoch(self, epoch: int) -> None:
        """Hook before an epoch; epochs are counted from the end of the warm-up."""

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.half_precision)


def distances(points: Tensor, book: Tensor) -> Tensor:
    """Squared Euclidean distances `[n, codes]`; rounding may make them slightly negative."""
    squares = points.square().sum(1, keepdim=True) + book.square().sum(1)
    return torch.addmm(squares, points, book.T, alpha=-2)


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


@dataclass(frozen=True)
class Standardised:
    """Item vectors with mean 0 and a mean square of 1 over all dimensions.

    All dimensions have the same factor, so that neighbours stay neighbours. The loss then starts at about 1.

    Attributes:
        vectors: vectors before standardisation, float32 `[n, dim]`.
        mean: float32 `[dim]`.
        scale: divisor of the differences from the mean; 0 if all vectors are equal.
    """

    vectors: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: float

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Standardised:
        """Standardise vectors by their own mean and scale."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(vectors.var(axis=0, dtype=np.float64).mean()))
        is_constant = scale <= max(1e-6 * np.abs(mean).max(), 1e-30)
        return cls(vectors, mean.astype(np.float32), 0.0 if is_constant else scale)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        centred = torch.from_numpy(self.vectors)[rows] - torch.from_numpy(self.mean)
        return centred / self.scale if self.scale else torch.zeros_like(centred)


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
    lines = ProgressLines(config.kind, config.epochs, "epoch")
    bar = tqdm(range(config.epochs), desc=config.kind, unit="epoch", disable=None)
    for epoch in bar:
        if epoch == warm_up:
            start_codebooks(model, items, seed)
        if epoch >= warm_up:
            model.start_epoch(epoch - warm_up)
        # Summed up on the device: to read a step's loss, the host would have to wait for the step.
        sum_of_losses = torch.zeros((), dtype=torch.float64, device=device)
        used = torch.zeros(len(model.codebooks), len(model.codebooks[0]), device=device)
        for rows in _batches(len(items), config.batch, generator):
            inputs = items[rows].to(device, non_blocking=True)
            if epoch < warm_up:
                loss = model.warm_up_loss(inputs)
            else:
                loss, quantized = model.loss(inputs, rows.to(device, non_blocking=True))
                used.scatter_add_(1, quantized.codes.T, torch.ones_like(quantized.codes.T, dtype=used.dtype))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sum_of_losses += loss.detach().double() * len(rows) / len(items)
        total = sum_of_losses.item()
        bar.set_postfix(loss=f"{total:.4f}")
        lines.update(epoch + 1, f"loss {total:.4f}")
        if not np.isfinite(total):
            raise UserError(
                f"ids.quantizer.lr: {config.kind}'s loss is {total} in epoch {epoch}; try a lower one"
            )
        if epoch >= warm_up:
            revive_unused_codes(model, used, inputs, generator)
            losses.append(total)
        if has_converged(losses):
            break
    bar.close()
    model.to("cpu").half_precision = False
    return losses


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


def freeze(model: RqAutoencoder, items: Standardised) -> AutoencoderCodec:
    """The trained model as a codec; the gains of its reconstructions are fitted to a sample of the items."""
    gains = np.ones(len(model.codebooks) + 1, np.float32)
    tensors = {"mean": items.mean, "spread": np.array([items.scale]), "gains": gains}
    for name, weights in model.state_dict().items():
        if name.startswith(("encoder", "codebooks", "decoder")):
            tensors[name] = weights.numpy().copy()
    codec = AutoencoderCodec(tensors)
    sample = items.vectors[:: max(1, len(items) // GAIN_SAMPLE)]
    codes, centred = codec.encode(sample), sample - items.mean
    for level in range(1, len(gains)):
        outputs = codec.reconstruct(codes[:, :level]) - items.mean
        power = np.square(outputs, dtype=np.float64).sum()
        gains[level] = (centred * outputs).sum(dtype=np.float64) / power if power else 0
    return codec


class AutoencoderCodec(Codec):
    """A trained autoencoder: an encoder, residual codebooks, and a decoder.

    Args:
        tensors: `mean` of the vectors `[dim]`; `spread` `[1]`, their root mean square difference from the mean, 0 if
            all vectors are equal; `codebooks.0`, … `[codes, latent]`; `encoder.0.weight` `[out, in]`,
            `encoder.0.bias` `[out]`, …, and the same for `decoder`, with ReLU between the layers; `gains`
            `[levels + 1]`, least-squares factors of the output, whose length a cosine loss leaves open.
    """

    form = "autoencoder"

    def __init__(self, tensors: dict[str, NDArray[Any]]) -> None:
        self.named = tensors
        self.mean, self.gains, self.scale = tensors["mean"], tensors["gains"], float(tensors["spread"][0])
        self.residual = ResidualCodec([tensors[f"codebooks.{i}"] for i in range(len(self.gains) - 1)])
        self.encoder, self.decoder = (_layers(tensors, half) for half in ("encoder", "decoder"))
        self.sizes = self.residual.sizes

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents of vectors `[n, dim]`, float32 `[n, latent]`."""
        factor = np.float32(1 / self.scale if self.scale else 0)
        return np.concatenate(
            [_forward((rows - self.mean) * factor, self.encoder) for rows in _chunks(vectors)]
        )

    def costs(self, points: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """Squared distances in the latent space, float32 `[n, codes]`."""
        return self.residual.costs(points, prefix)

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The cheapest code of each level, one level after the other, int32 `[n, levels]`; the encoder runs once."""
        return np.concatenate([self.residual.encode(self.project(rows)) for rows in _chunks(vectors)])

    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """The decoder's output for the sum of the codes' vectors, float32 `[n, dim]`; the mean for no level."""
        factor = np.float32(self.gains[codes.shape[1]] * self.scale)
        rebuilt = np.broadcast_to(self.mean, (len(codes), len(self.mean))).copy()
        if codes.shape[1]:
            for part, rows in zip(_chunks(codes), _chunks(rebuilt), strict=True):
                rows += factor * _forward(self.residual.reconstruct(part), self.decoder)
        return rebuilt

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of the constructor."""
        return self.named

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> AutoencoderCodec:
        """The codec with these weights."""
        return cls(tensors)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layers(tensors: dict[str, NDArray[Any]], half: str) -> list[Layer]:
    places = sorted({int(name.split(".")[1]) for name in tensors if name.startswith(half)})
    return [(tensors[f"{half}.{i}.weight"], tensors[f"{half}.{i}.bias"]) for i in places]


def _forward(inputs: NDArray[np.float32], layers: Sequence[Layer]) -> NDArray[np.float32]:
    *hidden, (weight, bias) = layers
    for into, shift in hidden:
        inputs = np.maximum(inputs @ into.T + shift, 0)
    return inputs @ weight.T + bias


def _chunks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (rows[at : at + CHUNK] for at in range(0, max(len(rows), 1), CHUNK))


def _batches(items: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A random order of the items, divided into batches of similar size, so that no batch is too small."""
    steps = max(-(-items // batch), min(FEWEST_STEPS, items // 32), 1)
    return torch.randperm(items, generator=generator).chunk(steps)
