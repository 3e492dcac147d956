"""What a tokenizer leaves in a run's `ids/`: the frozen quantizer, and where each code lies among the items."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llmrec.errors import UserError
from llmrec.ids.codecs.residual import code_means
from llmrec.ids.tokenizer import Codec, Codes

CODEC, CODEBOOKS = "codec.safetensors", "codebooks.safetensors"
FORMS = {
    "residual": "residual:ResidualCodec",
    "autoencoder": "autoencoder:AutoencoderCodec",
    "product": "product:ProductCodec",
    "tree": "tree:TreeCodec",
    "hyperplanes": "hyperplanes:HyperplaneCodec",
}
"""Where each form of codec lives, as module:class of `llmrec.ids.codecs`."""


def save_codec(folder: Path, codec: Codec) -> None:
    """Write `codec.safetensors`: the quantizer's tensors, and its form."""
    save_file(codec.tensors(), folder / CODEC, metadata={"form": codec.form})


def load_codec(run: Path) -> Codec:
    """The frozen quantizer of a run.

    Raises:
        UserError: the run's IDs have none (they come from an indexer), or the file is broken.
    """
    path = run / "ids" / CODEC
    if not path.is_file():
        raise UserError(f"{path}: no such file; IDs made without vectors have no quantizer")
    try:
        with safe_open(path, "numpy") as file:
            form = (file.metadata() or {}).get("form", "")
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be read: {error}; run the stage ids again") from None
    if form not in FORMS:
        raise UserError(f"{path}: no quantizer of form {form!r}; known: {', '.join(FORMS)}")
    module, _, name = FORMS[form].partition(":")
    return getattr(importlib.import_module(f"llmrec.ids.codecs.{module}"), name).from_tensors(tensors)


def code_centroids(
    tokenizer_output: Codes, sids: NDArray[np.int32], sizes: list[int], vectors: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Where the codes of each level lie, float32 `[codes, dim]`: the rows of new tokens start from these.

    The codec's centroids, where a code of it means the same under every prefix; else, and for an extra level, the
    mean of what the items with a code have left over: their vectors minus what the levels before reconstruct.
    Codes without items stay at zero.
    """
    assert tokenizer_output.codec is not None
    books = list(tokenizer_output.codec.level_centroids)
    for level, size in list(enumerate(sizes))[len(books) :]:
        known = min(level, tokenizer_output.codec.levels)
        left = vectors - tokenizer_output.codec.reconstruct(sids[:, :known])
        books.append(code_means(left, sids[:, level], size))
    return books
