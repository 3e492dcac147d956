"""The ids stage: `data/items.parquet` to `ids/`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save_file

from llmrec import artifacts
from llmrec.artifacts import StageContext
from llmrec.config import IdsConfig, QuantizerConfig, Recipe
from llmrec.errors import UserError
from llmrec.ids.collisions import extra_codebook, extra_level
from llmrec.ids.report import make_report
from llmrec.ids.rq_kmeans import auto_codes, quantize
from llmrec.ids.text import item_texts
from llmrec.ids.vectors import encode, read_vectors


def run(context: StageContext) -> None:
    """Give every item of `data/items.parquet` a unique semantic ID; write `ids/`.

    Raises:
        UserError: no items, or what the encoder or the user's own vectors lack.
    """
    config = context.recipe.ids
    items = pl.read_parquet(context.run / "data" / "items.parquet")
    if items.is_empty():
        raise UserError(f"{context.run / 'data' / 'items.parquet'}: holds no item")
    names = items["item_id"].cast(pl.String)
    vectors, source = _item_vectors(config, items, names.to_list())
    codes = _codes_per_level(config.quantizer, len(items))
    quantized = quantize(
        vectors, config.quantizer.levels, codes, config.quantizer.iterations, context.recipe.seed
    )
    extra = extra_level(quantized.codes)
    sids = np.column_stack([quantized.codes, extra])
    codebooks = [*quantized.codebooks, extra_codebook(extra, quantized.residuals)]

    folder = context.work / "ids"
    column = pl.Series("sid", sids, dtype=pl.Array(pl.Int32, sids.shape[1])).cast(pl.List(pl.Int32))
    pl.DataFrame([names.alias("item_id"), column]).write_parquet(folder / "sids.parquet")
    save_file({f"level_{i}": book for i, book in enumerate(codebooks)}, folder / "codebooks.safetensors")
    settings = config.quantizer.model_dump(mode="json") | {
        "requested": config.quantizer.codes,
        "codes": codes,
    }
    sizes = [len(book) for book in codebooks]
    artifacts.write_json(folder / "report.json", make_report(sids, sizes, quantized.errors, settings, source))


def external(recipe: Recipe) -> list[Path]:
    """Files outside the run that the stage reads: own vectors, or the files of a local encoder's folder."""
    if recipe.ids.vectors is not None:
        path = Path(recipe.ids.vectors).expanduser()
        return [path] if path.is_file() else []
    folder = Path(recipe.ids.encoder.model).expanduser()
    return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []


def _item_vectors(
    config: IdsConfig, items: pl.DataFrame, names: list[str]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Vectors `[items, dim]`, and where they came from, for the report."""
    if config.vectors is not None:
        vectors = read_vectors(Path(config.vectors).expanduser(), names)
        source: dict[str, Any] = {"vectors": config.vectors}
    else:
        vectors = encode(item_texts(items, config.encoder.fields), config.encoder)
        source = config.encoder.model_dump(mode="json")
    return vectors, source | {"dim": vectors.shape[1]}


def _codes_per_level(config: QuantizerConfig, items: int) -> int:
    """Codes a level; never more than there are items."""
    codes = auto_codes(items) if config.codes == "auto" else config.codes
    if codes > items:
        print(f"ids.quantizer.codes: {codes} codes for {items} items; using {items}", file=sys.stderr)
    return min(codes, items)
