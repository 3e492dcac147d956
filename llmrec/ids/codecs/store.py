"""Files of a tokenizer in a run's `ids/`: the frozen quantizer, and the centroid of each code."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llmrec.errors import UserError
from llmrec.files import cause_of
from llmrec.ids.codecs.residual import code_means
from llmrec.ids.tokenizer import Codec, Codes

CODEC, CODEBOOKS = "codec.safetensors", "codebooks.safetensors"
FORMS = {
    "residual": "residual:ResidualCodec",
    "autoencoder": "autoencoder_codec:AutoencoderCodec",
    "product": "product:ProductCodec",
    "tree": "tree:TreeCodec",
    "hyperplanes": "hyperplanes:HyperplaneCodec",
}
"""Form of a codec → its class, as module:class in `llmrec.ids.codecs`."""


def save_codec(folder: Path, codec: Codec) -> None:
    """Write `codec.safetensors`: the quantizer's tensors and its form."""
    save_file(codec.tensors(), folder / CODEC, metadata={"form": codec.form})


def load_codec(run: Path) -> Codec:
    """The frozen quantizer of a run.

    Raises:
        UserError: the run's IDs come from an indexer and have no quantizer, or the file is broken.
    """
    path = run / "ids" / CODEC
    if not path.is_file():
        raise UserError(f"{path}: no such file; IDs made without vectors have no quantizer")
    try:
        with safe_open(path, "numpy") as file:
            form = (file.metadata() or {}).get("form", "")
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}; run the stage ids again") from None
    if form not in FORMS:
        raise UserError(f"{path}: no quantizer of form {form!r}; known: {', '.join(FORMS)}")
    module, _, name = FORMS[form].partition(":")
    codec: Codec = getattr(importlib.import_module(f"llmrec.ids.codecs.{module}"), name).from_tensors(tensors)
    return codec


def code_centroids(
    tokenizer_output: Codes, sids: NDArray[np.int32], sizes: list[int], vectors: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Centroids of the codes of each level, float32 `[codes, dim]`; they initialise the rows of new tokens.

    If a code has the same centroid under every prefix, this is the codec's centroid. Otherwise, and for an extra
    level, it is the mean residual of the items with the code: their vectors minus the reconstruction from the levels
    before. Codes without items have zeros.
    """
    assert tokenizer_output.codec is not None
    books = list(tokenizer_output.codec.level_centroids)
    for level, size in list(enumerate(sizes))[len(books) :]:
        depth = min(level, tokenizer_output.codec.levels)
        residuals = vectors - tokenizer_output.codec.reconstruct(sids[:, :depth])
        books.append(code_means(residuals, sids[:, level], size))
    return books
