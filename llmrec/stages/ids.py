"""The ids stage: a semantic ID for every item."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.artifacts import Input, Stage, StageContext
from llmrec.assets import expand_home
from llmrec.stages import collaborative, data

if TYPE_CHECKING:
    import polars as pl

    from llmrec.config import Recipe


def run(context: StageContext) -> None:
    """Give every item of `data/items.parquet` a unique semantic ID; write `ids/`.

    Raises:
        UserError: there are no items, or the tokenizer, the encoder or the user's own vectors lack something.
    """
    import polars as pl
    from safetensors.numpy import save_file

    from llmrec.files import write_json
    from llmrec.ids import tokenizer
    from llmrec.ids.codecs.store import CODEBOOKS, code_centroids, save_codec
    from llmrec.ids.inputs.signals import RunSignals
    from llmrec.ids.make import make_semantic_ids
    from llmrec.ids.new_items import FUSION, save_distances

    recipe = context.recipe
    signals = RunSignals(context.run, recipe)
    folder = context.work / "ids"
    if isinstance(recipe.ids.quantizer, tokenizer.TextTokenizer):
        texts = pl.Series("text", tokenizer.fit_texts(signals, recipe))
        pl.DataFrame([signals.items["item_id"], texts]).write_parquet(folder / "sids.parquet")
        write_json(folder / "report.json", _describe_texts(texts, recipe))
        return
    ids = make_semantic_ids(signals, recipe)
    column = pl.Series("sid", ids.sids, dtype=pl.Array(pl.Int32, ids.sids.shape[1])).cast(pl.List(pl.Int32))
    pl.DataFrame([signals.items["item_id"], column]).write_parquet(folder / "sids.parquet")
    if ids.vectors is not None and ids.tokenizer_output.codec is not None:
        save_codec(folder, ids.tokenizer_output.codec)
        codebooks = code_centroids(ids.tokenizer_output, ids.sids, ids.sizes, ids.vectors)
        save_file({f"level_{i}": codebook for i, codebook in enumerate(codebooks)}, folder / CODEBOOKS)
        save_distances(folder, ids.tokenizer_output.codec, ids.vectors, ids.sids)
        if len(recipe.ids.inputs) > 1:
            save_file(signals.fusion.tensors(), folder / FUSION)
    write_json(folder / "report.json", ids.report)


def external(recipe: Recipe) -> list[Path]:
    """Return the files outside the run that the stage reads.

    They are the user's own vectors and images, what the tokenizer reads, the user's own tokenizer, and a local
    encoder's files.
    """
    from llmrec.plugins import source_files

    ids = recipe.ids
    given = [expand_home(getattr(ids, name)) for name in ("vectors", "images") if name in ids.inputs]
    files = [path for path in [*given, *ids.quantizer.external_files()] if path.is_file()]
    files += source_files([ids.quantizer.kind])
    if "text" in ids.inputs:
        folder = expand_home(ids.encoder.model)
        files += sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    return files


def _describe_texts(texts: pl.Series, recipe: Recipe) -> dict[str, Any]:
    """Return `ids/report.json` for textual IDs. Their tokens are unknown without the base's tokenizer."""
    words = texts.str.split(" ").list.len().to_numpy()
    return {
        "quantizer": recipe.ids.quantizer.model_dump(mode="json"),
        "items": len(texts),
        "words": {"mean": round(float(words.mean()), 2), "most": int(words.max())},
    }


def collaborative_files(recipe: Recipe) -> list[str]:
    """Return the files of the collaborative stage that the IDs are made from."""
    from llmrec.collaborative.systems import ITEM_VECTORS, files_of

    ids = recipe.ids
    return files_of(
        recipe.collaborative,
        [ITEM_VECTORS] if ids.quantizer.reads_item_vectors or "collaborative" in ids.inputs else [],
    )


STAGE = Stage(
    name="ids",
    help="Turn item texts (or your own vectors) into semantic IDs.",
    version=2,
    recipe_keys=("ids",),
    reads=(data.STAGE, Input(collaborative.STAGE, collaborative_files)),
    owns=("ids",),
    run=run,
    external=external,
    start_seconds=10,
)
