"""A trained autoencoder with residual codebooks as a codec: plain arrays, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.residual import ResidualCodec
from llmrec.ids.tokenizer import Codec

if TYPE_CHECKING:
    from llmrec.ids.codecs.autoencoder import RqAutoencoder, Standardised

GAIN_SAMPLE = 16_384
CHUNK = 2048
"""Rows that the frozen networks process at once; small enough for the CPU's cache."""
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


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
