"""Makes the preference pairs of the pairs stage: items that training users chose, and items that they rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from llmrec import layout
from llmrec.errors import UserError
from llmrec.files import cause_of
from llmrec.train.alignment.negatives import MODEL_SOURCES, RejectedItemSampler, SearchBeams
from llmrec.train.alignment.targets import Targets, draw_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.config.alignment import PairsConfig
    from llmrec.recommend.trained_run import TrainedRun

SCHEMA = {
    "user_id": pl.String(),
    "history": pl.List(pl.String()),
    "chosen": pl.String(),
    "rejected": pl.List(pl.String()),
    "source": pl.String(),
}


def make_pairs(
    config: PairsConfig,
    run: Path,
    catalogue: Catalogue,
    seed: int,
    history: int,
    beams: SearchBeams | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Make pairs of a chosen item and rejected items, from training interactions alone.

    A training item of the user, before or after the chosen item, is never rejected. A held-out item may be rejected,
    because to exclude it would tell the model about it.

    Args:
        config: the recipe's section `pairs`.
        run: run folder with finished stages data, ids and sft.
        catalogue: the run's catalogue as trained.
        seed: seed of all draws.
        history: number of last history items that are kept.
        beams: function that decodes the model's best items; the sources `beams` and `judge` need it.

    Returns:
        The pairs, `user_id: str, history: list[str]` (oldest first)`, chosen: str, rejected: list[str]` (of equal
        length in all rows)`, source: str`, with users in the order of the data and each user's targets oldest first;
        and the report.

    Raises:
        UserError: no user can be used, a user has left too few items unchosen, or a source lacks a model or vectors.
    """
    targets, left_out = draw_targets(
        run, history, config.per_user, config.users, seed, config.prompts == "history_end"
    )
    _check_enough(config, targets, len(catalogue.items))
    sampler = RejectedItemSampler(config, run, catalogue, beams)
    choice = np.random.default_rng([seed, 0]).integers(len(config.sources), size=len(targets))
    chosen: list[str] = [""] * len(targets)
    rejected: list[list[str]] = [[]] * len(targets)
    filled: Counter[str] = Counter()
    for number, source in enumerate(config.sources):
        rows = np.flatnonzero(choice == number)
        drawn = sampler.draw(source, targets.take(rows), np.random.default_rng([seed, 1, number]))
        filled[source] += drawn.filled
        for row, chosen_item, rejected_items in zip(rows.tolist(), drawn.chosen, drawn.rejected, strict=True):
            chosen[row], rejected[row] = chosen_item, rejected_items
    names = [config.sources[number] for number in choice.tolist()]
    columns = (targets.users, targets.histories, chosen, rejected, names)
    pairs = pl.DataFrame(dict(zip(SCHEMA, columns, strict=True)), schema=SCHEMA)
    report = {
        "pairs": len(pairs),
        "users": pairs["user_id"].n_unique(),
        "users_left_out": left_out,
        "negatives": config.negatives,
        "sources": {source: names.count(source) for source in dict.fromkeys(config.sources)},
        "filled_at_random": {source: filled[source] for source in sorted(MODEL_SOURCES & set(names))},
        "chosen_is_target": sum(item == target for item, target in zip(chosen, targets.chosen, strict=True)),
    }
    return pairs, report


def beam_searcher(
    run: TrainedRun, model: PreTrainedModel, pad_id: int, memory_gb: float | None = None
) -> SearchBeams:
    """Return a function that decodes a model's best items for histories.

    Args:
        run: catalogue and prompts, as trained.
        model: the run's base, with or without an adapter. It is in eval mode while it decodes.
        pad_id: any valid token id.
        memory_gb: limit of a batch's memory in GB; None takes what the device can spare.

    Returns:
        A function of histories, denied items and width, for the argument `beams` of `make_pairs`.
    """
    from llmrec.catalogue.item_mask import mask_factory
    from llmrec.decode import batches
    from llmrec.decode.parallel_codes import search_engine

    run.catalogue.check_one_by_one("a search of pairs")
    from llmrec.models.layers.dropout import eval_mode

    items = run.catalogue.items

    def search(histories: list[list[str]], denied: list[list[str]], width: int) -> list[list[str]]:
        catalogue = run.catalogue.to(model.device)
        engine = search_engine(model, catalogue, pad_id)
        _, hidden = run.allow_and_deny_lists(histories, mask_seen=False, deny=denied)
        masks = mask_factory(catalogue.trie, None, hidden, model.device)
        prompts = run.encode_prompts(histories)
        with eval_mode(model):
            ranked = batches.rank(engine, prompts, width, width, masks, memory_gb=memory_gb).items
        return [[items[place] for place in row if place >= 0] for row in ranked.tolist()]

    return search


def read_pairs(source: Path, items: Iterable[str]) -> pl.DataFrame:
    """Read the pairs of the pairs stage, or pairs that a user has written.

    Args:
        source: a Parquet file, or a run folder.
        items: item ids of the catalogue.

    Returns:
        The columns of `make_pairs`, with at least one row and equally many rejected items in each.

    Raises:
        UserError: the file does not exist, or a row is wrong; the message names the first such row, counted from 0.
    """
    path = source / layout.PAIRS if source.is_dir() else source
    pairs = _read(path)
    size = pl.col("rejected").list.len()
    faults = {
        "an empty cell": pl.any_horizontal(pl.all().is_null()),
        "an empty history": pl.col("history").list.len() == 0,
        "no rejected item": size == 0,
        f"not {pairs['rejected'].list.len()[0]} rejected items, as row 0 has": size != size.first(),
        "the chosen item among the rejected": pl.col("rejected").list.contains(pl.col("chosen")),
        "a rejected item twice": pl.col("rejected").list.n_unique() < size,
    }
    numbered = pairs.with_row_index("row")
    for fault, condition in faults.items():
        _refuse(path, numbered.filter(condition), fault)
    catalogue = pl.Series("item", list(items), dtype=pl.String).to_frame()
    all_items = pl.concat_list("history", "chosen", "rejected")
    rows_of_items = numbered.select("row", "user_id", item=all_items).explode("item")
    unknown = rows_of_items.join(catalogue, on="item", how="anti").sort("row")
    if len(unknown):
        _refuse(path, unknown, f"item {unknown['item'][0]!r}, which is not in the catalogue")
    return pairs


def _check_enough(config: PairsConfig, targets: Targets, items: int) -> None:
    """Raise a UserError if a user has left fewer items unchosen than are to be rejected."""
    items_by_user = dict(zip(targets.users, targets.items, strict=True))
    sizes = {user: len(set(chosen)) for user, chosen in items_by_user.items()}
    user = max(sizes, key=lambda name: sizes[name])
    # The item that the judge chooses may be one that the user has not chosen.
    left = items - sizes[user] - ("judge" in config.sources)
    if left < config.negatives:
        raise UserError(
            f"pairs.negatives={config.negatives}: user {user!r} has chosen {sizes[user]:,} of the {items:,} items, "
            f"so at most {left} rejected ones are possible; set pairs.negatives to that or less"
        )


def _read(path: Path) -> pl.DataFrame:
    """Read a table of pairs, and check its columns and types, and that it has rows."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run `llmrec pairs RECIPE` first")
    try:
        pairs = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {cause_of(error)}") from None
    for name, dtype in SCHEMA.items():
        if name not in pairs.columns:
            raise UserError(f"{path}: no column {name!r}; pairs have {', '.join(SCHEMA)}")
        if pairs[name].dtype != dtype:
            raise UserError(f"{path}: column {name!r} is {pairs[name].dtype}, not {dtype}")
    if pairs.is_empty():
        raise UserError(f"{path}: no pairs in it")
    return pairs.select(*SCHEMA)


def _refuse(path: Path, rows: pl.DataFrame, fault: str) -> None:
    """Raise a UserError that names the first of some faulty rows, if there are any."""
    if len(rows):
        raise UserError(f"{path}: row {rows['row'][0]} (user {rows['user_id'][0]!r}) has {fault}")
