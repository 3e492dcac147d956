"""`llmrec items`: add items to a trained run, and retire items, without training."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from llmrec import artifacts, layout
from llmrec.assets import expand_home
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.changes import Changes, no_changes, read_changes, write_changes
from llmrec.catalogue.grown import Growth, write_grown_base
from llmrec.catalogue.item_files import items_in_card, read_new_items
from llmrec.catalogue.lookup import unknown_item
from llmrec.commands.arguments import comma_separated
from llmrec.config import load_run_recipe
from llmrec.data.examples import load_items
from llmrec.errors import KnownNames, UserError
from llmrec.files import cause_of
from llmrec.ids import new_items
from llmrec.ids.codecs.store import CODEC, load_codec
from llmrec.ids.load import code_vectors
from llmrec.ids.neighbours import find_kin
from llmrec.ids.tokenizer import Codec
from llmrec.progress.run_lock import lock, unfinished
from llmrec.recommend.model_names import BASE

FAR = 99.0
"""An item whose distance is above this percentile of the training items' distances is far from the codebooks."""
SHOWN = 5


def run(
    name: str,
    add: Path | None,
    vectors: Path | None,
    images: Path | None,
    retire: str | None,
    find: str | None = None,
) -> None:
    """Add items to a trained run's catalogue, retire others, and print how well the codebooks fit new items.

    Args:
        name: a run's name, or its folder.
        add: table of the new items, with the columns of the run's card, or `item_id` and any of the run's fields.
        vectors: vectors of the new items, if the run's IDs were made from the user's own vectors.
        images: image vectors of the new items, if the run's IDs were made from such.
        retire: item ids separated by commas, or a file with one id per line.
        find: the option of the list, which does not go with a change.

    Raises:
        UserError: options that do not go together, a run without a finished sft stage, or invalid files or ids.
    """
    if add is None and (vectors or images):
        raise UserError("items: --vectors and --images belong to the items of --add, which is not given")
    if find is not None:
        raise UserError("items: --find lists items; give it without --add and --retire")
    folder = artifacts.find_run(name)
    if not (folder / layout.manifest("sft")).is_file():
        raise unfinished(folder)
    with lock(folder):
        catalogue = Catalogue.load(folder / BASE, as_trained=True)
        changes = read_changes(folder, catalogue.items) or no_changes()
        growth: Growth | None = None
        if add is not None:
            files = {"vectors": vectors, "images": images}
            vector_files = {name: path for name, path in files.items() if path is not None}
            changes, growth = _add(folder, catalogue, changes, add, vector_files)
        if retire is not None:
            changes = _retire(catalogue, changes, _ids(retire), folder.name)
        count = catalogue.with_changes(changes).count
        if growth is not None:
            write_grown_base(folder, catalogue, changes, growth)
            print(
                f"the model has grown by {len(growth.sids)} tokens: {changes.checkpoint} answers from now on"
            )
        write_changes(folder, catalogue.items, changes)
    print(
        f"{folder.name}: {count} items can be recommended; a running server uses the change after a restart"
    )


def _add(
    folder: Path, catalogue: Catalogue, changes: Changes, path: Path, files: dict[str, Path]
) -> tuple[Changes, Growth | None]:
    """Return the changes with a file's items, and what their new tokens are made of, if they have any.

    New items get semantic IDs, retired items return with their own.
    """
    recipe = load_run_recipe(folder)
    if not (folder / "ids" / CODEC).is_file():
        raise UserError(
            f"items: this run's IDs are of kind {recipe.ids.quantizer.kind}, which has no IDs for new items; "
            "put them into the data and train again, or make the IDs from vectors (ids.quantizer.kind)"
        )
    items = read_new_items(path, load_items(folder), items_in_card(folder))
    names, retired = items["item_id"], set(changes.retired)
    registered = {*catalogue.items, *changes.added["item_id"]}
    duplicate = next((item for item in names if item in registered - retired), None)
    if duplicate is not None:
        raise UserError(
            f"{path}: item {duplicate!r} is in the catalogue already; "
            "--add takes new items, and retired items, which return"
        )
    is_new = np.array([item not in registered for item in names], bool)
    still_retired = [item for item in changes.retired if item not in set(names)]
    print(
        f"new items: {int(is_new.sum())}; retired items that return: {len(changes.retired) - len(still_retired)}"
    )
    changes = replace(changes, retired=still_retired)
    if not is_new.any():
        return changes, None
    vectors = new_items.new_item_vectors(folder, recipe, items, files, str(path))[is_new]
    codec, trained = load_codec(folder), catalogue.sids.astype(np.int32)
    own_codes = new_items.has_own_codes(recipe, codec, trained)
    taken = np.concatenate([trained, changes.sids(catalogue.length)])
    sids = new_items.assign_ids(codec, vectors, taken, catalogue.trie.codes, own_codes)
    rows = _described(folder, codec, items.filter(is_new), vectors, sids)
    growth = None
    if own_codes:
        part = new_items.own_part(folder, recipe, files)
        growth = _growth(folder, catalogue, changes, codec, vectors, sids, part)
        rows = rows.with_columns(token=pl.Series(growth.token_ids, dtype=pl.Int64))
    return replace(changes, added=pl.concat([changes.added, rows], how="diagonal_relaxed")), growth


def _growth(
    folder: Path,
    catalogue: Catalogue,
    changes: Changes,
    codec: Codec,
    vectors: np.ndarray,
    sids: np.ndarray,
    part: np.ndarray | None,
) -> Growth:
    """Return what the tokens of new items are made of; `part` is what they have of an item's vector."""
    trained = code_vectors(folder, catalogue.sids)
    assert trained is not None  # who has a quantizer has codebooks
    near = np.ones(vectors.shape[1], bool) if part is None else part
    kin = find_kin(vectors[:, near], sids[:, :-1], trained[:, near], catalogue.sids[:, :-1])
    source = catalogue.with_changes(changes).checkpoint(folder / BASE)
    residuals = vectors - codec.reconstruct(sids[:, : codec.levels])
    return Growth(source, sids, kin, residuals)


def _described(
    folder: Path, codec: Codec, items: pl.DataFrame, vectors: np.ndarray, sids: np.ndarray
) -> pl.DataFrame:
    """Return items with semantic IDs and distances, and print a summary."""
    moved = int((codec.encode(vectors) != sids[:, : codec.levels]).any(axis=1).sum())
    if moved:
        print(f"{moved} of them got the next-best code, because their own code is full")
    distances = new_items.distances(codec, vectors, sids)
    percentiles = new_items.percentiles(folder, distances)
    rows = items.with_columns(
        pl.Series("sid", sids, dtype=pl.Array(pl.Int32, sids.shape[1])).cast(pl.List(pl.Int32)),
        pl.Series("distance", distances, dtype=pl.Float32),
        pl.Series(
            "percentile", [None] * len(items) if percentiles is None else percentiles, dtype=pl.Float32
        ),
    )
    _print_distances(rows)
    return rows


def _print_distances(rows: pl.DataFrame) -> None:
    """Print the distances of the items from the codebooks, and the items that are far from them."""
    if rows["percentile"].null_count():
        print("items: this run has no distances to compare with; run the stage ids again", file=sys.stderr)
        return
    far = rows.filter(pl.col("percentile") >= FAR).sort("distance", descending=True)
    distance, percentile = (cast(float, rows[name].median()) for name in ("distance", "percentile"))
    print(
        f"distance to the codebooks: median {distance:.3f}, "
        f"at the {percentile:.0f}th percentile of the training items'; "
        f"{len(far)} beyond the {FAR:.0f}th"
    )
    for row in far.head(SHOWN).iter_rows(named=True):
        print(f"  far off: {row['item_id']}  {row['title'][:60]}  ({row['distance']:.3f})")


def _retire(catalogue: Catalogue, changes: Changes, items: list[str], name: str) -> Changes:
    registered = {*catalogue.items, *changes.added["item_id"]}
    unknown = next((item for item in items if item not in registered), None)
    if unknown is not None:
        raise unknown_item("--retire", unknown, KnownNames(sorted(registered)), run=name)
    retired = list(dict.fromkeys([*changes.retired, *items]))
    print(f"{len(retired) - len(changes.retired)} items retired")
    return replace(changes, retired=retired)


def _ids(text: str) -> list[str]:
    """Return the item ids of an option: ids separated by commas, or a file with one id per line."""
    lines = _lines(text)
    ids = comma_separated(text) if lines is None else [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UserError(f"--retire: no item ids in {text!r}")
    return ids


def _lines(text: str) -> list[str] | None:
    """Return the lines of the file that a text names; None if it names none."""
    path = expand_home(text)
    try:
        if not path.is_file():
            return None
    except OSError:  # ids, too long for a path
        return None
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--retire: {path}: cannot be read: {cause_of(error)}") from None
