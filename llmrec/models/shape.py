"""Size of a decoder, known without loading its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from llmrec.assets import expand_home
from llmrec.config import BaseConfig
from llmrec.files import read_json
from llmrec.models.supported import check_local

TYPICAL_LAYERS = 24
TYPICAL_VOCABULARY = 150_000  # Qwen3's; Llama 3 has fewer
BLOCKS_SHARE = 0.8  # of all weights of a model of up to 2 B; the embedding has the others


@dataclass(frozen=True)
class Shape:
    """Size of a decoder. If only the model's name is known, all sizes but `parameters` are guesses.

    Attributes:
        parameters: number of all weights, embedding included.
        hidden: width of the residual stream.
        layers: number of blocks.
        intermediate: width inside the feed-forward layers.
        kv_share: key-value heads per attention head.
        tied: whether the LM head shares the embedding's matrix.
        vocabulary: number of rows of the embedding.
        heads_width: width of all attention heads together; None if it is `hidden`.
    """

    parameters: float
    hidden: float
    layers: float
    intermediate: float
    kv_share: float = 1.0
    tied: bool = True
    vocabulary: float = TYPICAL_VOCABULARY
    heads_width: float | None = None

    @property
    def attention_width(self) -> float:
        """Width of all attention heads together, whatever the width of the keys and values that they share."""
        return self.hidden if self.heads_width is None else self.heads_width

    @property
    def linears(self) -> list[tuple[float, float]]:
        """Input and output sizes of a block's linear layers: q, k, v, o, gate, up, down."""
        h, i, q = self.hidden, self.intermediate, self.attention_width
        kv = q * self.kv_share
        return [(h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)]

    @property
    def linear_parameters(self) -> float:
        """Number of weights in the linear layers of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def head_parameters(self) -> float:
        """Number of weights of the LM head."""
        return (self.parameters - self.linear_parameters) / (1 if self.tied else 2)


def position_bytes(layers: float, hidden: float, weight_bytes: int, checkpointing: bool) -> float:
    """Bytes of the activations that a training step keeps of one position, attention's weights not counted.

    A layer keeps 34 bytes for each element of the hidden state in 16 bits (Korthikanti et al., Reducing activation
    recomputation in large transformer models, 2022, equation 1).

    Args:
        layers: number of blocks.
        hidden: width of the residual stream.
        weight_bytes: bytes of a weight.
        checkpointing: whether all but the inputs of the layers is computed again in the backward pass.
    """
    kept = 2 * layers + 34 if checkpointing else 34 * layers
    return kept * hidden * weight_bytes / 2


def model_shape(base: BaseConfig) -> Shape:
    """Return the shape of the base: from `base.tiny`, a folder's config.json, or a size in its name (`135M`).

    Raises:
        UserError: the folder's config.json cannot be read, or is of an architecture that is not supported.
    """
    tiny = base.tiny
    if base.model == "tiny":
        share = tiny.kv_heads / tiny.heads
        return _decoder(tiny.hidden, tiny.layers, tiny.intermediate, share, tiny.vocabulary, tiny.tied)
    config = expand_home(base.model) / "config.json"
    if config.is_file():
        check_local(base)
        settings = read_json(config)
        heads = settings["num_attention_heads"]
        share = settings.get("num_key_value_heads", heads) / heads
        sizes = (settings["hidden_size"], settings["num_hidden_layers"], settings["intermediate_size"])
        tied, head = settings.get("tie_word_embeddings", True), settings.get("head_dim")
        return _decoder(*sizes, share, settings["vocab_size"], tied, heads * head if head else None)
    size_in_name = re.search(r"(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", base.model.rpartition("/")[2].lower())
    parameters = 1e9
    if size_in_name is not None:
        parameters = float(size_in_name[1]) * (1e9 if size_in_name[2] == "b" else 1e6)
    hidden = (BLOCKS_SHARE * parameters / 12 / TYPICAL_LAYERS) ** 0.5
    return Shape(parameters, hidden, TYPICAL_LAYERS, 8 / 3 * hidden)


def _decoder(
    hidden: int,
    layers: int,
    intermediate: int,
    kv_share: float,
    vocabulary: int,
    tied: bool,
    heads_width: int | None = None,
) -> Shape:
    blocks = Shape(0, hidden, layers, intermediate, kv_share, tied, vocabulary, heads_width)
    return replace(blocks, parameters=blocks.linear_parameters + vocabulary * hidden * (1 if tied else 2))
