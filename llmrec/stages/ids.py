"""The ids stage: a semantic ID for every item."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.artifacts import Input, Stage, StageContext, run_folder
from llmrec.stages import collaborative, data

if TYPE_CHECKING:
    import polars as pl

    from llmrec.config import Recipe


def run(context: StageContext) -> None:
    """Give every item of `data/items.parquet` a unique semantic ID; write `ids/`.

    Raises:
        UserError: no items, or what the tokenizer, the encoder or the user's own vectors lack.
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
    if recipe.ids.quantizer.kind in tokenizer.TEXTUAL:
        texts = pl.Series("text", tokenizer.fit_texts(signals, recipe))
        pl.DataFrame([signals.items["item_id"], texts]).write_parquet(folder / "sids.parquet")
        write_json(folder / "report.json", _describe_texts(texts, recipe))
        return
    made = make_semantic_ids(signals, recipe)
    column = pl.Series("sid", made.sids, dtype=pl.Array(pl.Int32, made.sids.shape[1])).cast(pl.List(pl.Int32))
    pl.DataFrame([signals.items["item_id"], column]).write_parquet(folder / "sids.parquet")
    if made.vectors is not None and made.tokenizer_output.codec is not None:
        save_codec(folder, made.tokenizer_output.codec)
        books = code_centroids(made.tokenizer_output, made.sids, made.sizes, made.vectors)
        save_file({f"level_{i}": book for i, book in enumerate(books)}, folder / CODEBOOKS)
        save_distances(folder, made.tokenizer_output.codec, made.vectors, made.sids)
        if len(recipe.ids.inputs) > 1:
            save_file(signals.fusion.tensors(), folder / FUSION)
    write_json(folder / "report.json", made.report)


def external(recipe: Recipe) -> list[Path]:
    """Files outside the run that the stage reads: own vectors, images, the files of a local encoder's folder."""
    from llmrec.ids.codecs.store import CODEC

    ids = recipe.ids
    given = [getattr(ids, name) for name in ("vectors", "images") if name in ids.inputs]
    if ids.quantizer.kind == "index":
        given.append(ids.quantizer.path)
    if ids.quantizer.kind == "kept":
        earlier = run_folder(ids.quantizer.run) / "ids"
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


def collaborative_files(recipe: Recipe) -> list[str]:
    """Files of the stage collaborative that the IDs are made from."""
    from llmrec.collaborative.systems import ITEM_VECTORS, files_of

    ids = recipe.ids
    return files_of(
        [ITEM_VECTORS] if ids.quantizer.reads_item_vectors or "collaborative" in ids.inputs else []
    )


STAGE = Stage(
    name="ids",
    help="Turn item texts (or your own vectors) into semantic IDs.",
    version=2,
    sections=("ids",),
    reads=(data.STAGE, Input(collaborative.STAGE, collaborative_files)),
    owns=("ids",),
    run=run,
    external=external,
    start_seconds=10,
)
