"""The size of a decoder, known before its weights are."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from llmrec.config import BaseConfig
from llmrec.files import read_json

TYPICAL_LAYERS = 24
TYPICAL_VOCABULARY = 150_000  # Qwen3's; Llama 3 has fewer


@dataclass(frozen=True)
class Shape:
    """Size of a decoder; all but `parameters` is a guess where only its name is known.

    Attributes:
        parameters: all weights, the embedding's rows included.
        hidden: width of the residual stream.
        layers: number of blocks.
        intermediate: width inside the feed-forward layers.
        kv_share: key-value heads per attention head.
        tied: whether the LM head is the embedding.
        vocabulary: rows of the embedding.
    """

    parameters: float
    hidden: float
    layers: float
    intermediate: float
    kv_share: float = 1.0
    tied: bool = True
    vocabulary: float = TYPICAL_VOCABULARY

    @property
    def linears(self) -> list[tuple[float, float]]:
        """Inputs and outputs of a block's linear layers: q, k, v, o, gate, up, down."""
        h, kv, i = self.hidden, self.hidden * self.kv_share, self.intermediate
        return [(h, h), (h, kv), (h, kv), (h, h), (h, i), (h, i), (i, h)]

    @property
    def linear_parameters(self) -> float:
        """Weights of all blocks' linear layers."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)


def model_shape(base: BaseConfig) -> Shape:
    """Shape of the base: from `base.tiny`, a folder's config.json, or the `135M` in its name.

    Raises:
        UserError: the folder's config.json cannot be read.
    """
    tiny = base.tiny
    if base.model == "tiny":
        share = tiny.kv_heads / tiny.heads
        return _decoder(tiny.hidden, tiny.layers, tiny.intermediate, share, tiny.vocabulary, tiny.tied)
    config = Path(base.model).expanduser() / "config.json"
    if config.is_file():
        known = read_json(config)
        heads = known["num_attention_heads"]
        share = known.get("num_key_value_heads", heads) / heads
        sizes = (known["hidden_size"], known["num_hidden_layers"], known["intermediate_size"])
        return _decoder(*sizes, share, known["vocab_size"], known.get("tie_word_embeddings", True))
    named = re.search(r"(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", base.model.rpartition("/")[2].lower())
    parameters = float(named[1]) * (1e9 if named[2] == "b" else 1e6) if named else 1e9
    hidden = (parameters / 12 / TYPICAL_LAYERS) ** 0.5
    return Shape(parameters, hidden, TYPICAL_LAYERS, 8 / 3 * hidden)


def _decoder(
    hidden: int, layers: int, intermediate: int, kv_share: float, vocabulary: int, tied: bool
) -> Shape:
    blocks = Shape(0, hidden, layers, intermediate, kv_share, tied, vocabulary)
    return replace(blocks, parameters=blocks.linear_parameters + vocabulary * hidden * (1 if tied else 2))
