"""The ids stage: `data/items.parquet` to `ids/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save_file

from llmrec import artifacts
from llmrec.artifacts import StageContext
from llmrec.config import Recipe
from llmrec.ids import tokenizer
from llmrec.ids.codebooks import CODEBOOKS, CODEC, place_codes, save_codec
from llmrec.ids.collisions import Rule, resolve
from llmrec.ids.new_items import FUSION, save_distances
from llmrec.ids.report import diagnose
from llmrec.ids.signals import RunSignals
from llmrec.ids.tokenizer import Codes


@dataclass(frozen=True)
class Made:
    """Semantic IDs and what they were made from.

    Attributes:
        found: code paths as the tokenizer gave them, and its frozen quantizer.
        sids: int32 `[items, levels]`, unique.
        sizes: codes of each level.
        vectors: float32 `[items, dim]`; None for a tokenizer that needs none.
        report: the content of `ids/report.json`.
    """

    found: Codes
    sids: NDArray[np.int32]
    sizes: list[int]
    vectors: NDArray[np.float32] | None
    report: dict[str, Any]


def run(context: StageContext) -> None:
    """Give every item of `data/items.parquet` a unique semantic ID; write `ids/`.

    Raises:
        UserError: no items, or what the tokenizer, the encoder or the user's own vectors lack.
    """
    recipe = context.recipe
    signals = RunSignals(context.run, recipe)
    folder = context.work / "ids"
    if recipe.ids.quantizer.kind in tokenizer.TEXTUAL:
        texts = pl.Series("text", tokenizer.fit_texts(signals, recipe))
        pl.DataFrame([signals.items["item_id"], texts]).write_parquet(folder / "sids.parquet")
        artifacts.write_json(folder / "report.json", _describe_texts(texts, recipe))
        return
    made = make(signals, recipe)
    column = pl.Series("sid", made.sids, dtype=pl.Array(pl.Int32, made.sids.shape[1])).cast(pl.List(pl.Int32))
    pl.DataFrame([signals.items["item_id"], column]).write_parquet(folder / "sids.parquet")
    if made.vectors is not None and made.found.codec is not None:
        save_codec(folder, made.found.codec)
        books = place_codes(made.found, made.sids, made.sizes, made.vectors)
        save_file({f"level_{i}": book for i, book in enumerate(books)}, folder / CODEBOOKS)
        save_distances(folder, made.found.codec, made.vectors, made.sids)
        if len(recipe.ids.inputs) > 1:
            save_file(signals.fusion.tensors(), folder / FUSION)
    artifacts.write_json(folder / "report.json", made.report)


def make(signals: RunSignals, recipe: Recipe) -> Made:
    """Fit the tokenizer that a recipe names, make its paths unique, and say how good they are.

    Raises:
        UserError: what the data lacks for it.
    """
    found = tokenizer.fit(signals, recipe)
    vectors = signals.vectors if found.codec is not None else None
    sids, sizes = resolve(found, collision_rule(recipe), vectors)
    settings = recipe.ids.quantizer.model_dump(mode="json")
    report = diagnose(sids, sizes, found, vectors, signals.categories, signals.traffic, recipe.seed)
    source = signals.source() if vectors is not None else None
    return Made(found, sids, sizes, vectors, {"quantizer": settings, "encoder": source} | report)


def collision_rule(recipe: Recipe) -> Rule:
    """The rule asked for; `auto` is `sinkhorn` for LC-Rec, as published, and one more level for all others."""
    if recipe.ids.collisions != "auto":
        return recipe.ids.collisions
    return "sinkhorn" if recipe.ids.quantizer.kind == "lc_rec" else "extra_level"


def external(recipe: Recipe) -> list[Path]:
    """Files outside the run that the stage reads: own vectors, images, the files of a local encoder's folder."""
    ids = recipe.ids
    given = [getattr(ids, name) for name in ("vectors", "images") if name in ids.inputs]
    if ids.quantizer.kind == "index":
        given.append(ids.quantizer.path)
    if ids.quantizer.kind == "kept":
        earlier = artifacts.run_folder(ids.quantizer.run) / "ids"
        given += [str(earlier / name) for name in ("sids.parquet", "report.json", CODEC)]
    files = [path for name in given if (path := Path(name).expanduser()).is_file()]
    if "text" in ids.inputs:
        folder = Path(ids.encoder.model).expanduser()
        files += sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    return files


def _describe_texts(texts: pl.Series, recipe: Recipe) -> dict[str, Any]:
    """The content of `ids/report.json` for textual IDs, whose tokens only the base model's tokenizer knows."""
    words = texts.str.split(" ").list.len()
    return {
        "quantizer": recipe.ids.quantizer.model_dump(mode="json"),
        "items": len(texts),
        "words": {"mean": round(float(words.mean()), 2), "most": int(words.max())},
    }
