"""Lists under evaluation as tables: write and read those of models, compute those of baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import polars as pl

from llmrec import layout
from llmrec.collaborative.system import ListModel, TimedBaseline, checked_lists
from llmrec.collaborative.systems import load_baseline
from llmrec.config import OWN_STAGES
from llmrec.config.registry import SYSTEMS
from llmrec.data.examples import TIMES
from llmrec.errors import UserError
from llmrec.files import cause_of
from llmrec.plugins import is_import_path
from llmrec.recommend.model_names import TIGER

if TYPE_CHECKING:
    from llmrec.decode.top_k import TopK

SCHEMA = pl.Schema({"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "score": pl.Float64})


def is_baseline(system: str) -> bool:
    """Whether a system is a baseline, not one of the run's models."""
    return system in SYSTEMS.shipped or system in OWN_STAGES or is_import_path(system)


def load_system(run: Path, name: str, items: Sequence[str]) -> ListModel:
    """Return a trained baseline of a run, but `zero_shot`, which has lists alone.

    Raises:
        UserError: the stage that trains it has not run, or a user's own system cannot be loaded.
    """
    if name == TIGER:
        from llmrec.tiger.baseline import Tiger

        return Tiger.load(run / layout.TIGER)
    return load_baseline(run, name, items)


def reads_times(model: ListModel) -> TypeGuard[TimedBaseline]:
    """Whether a baseline's lists depend on the times of a history's items."""
    return isinstance(model, TimedBaseline) and model.reads_times


def baseline_lists(
    model: ListModel, examples: pl.DataFrame, history: int, k: int, mask_seen: bool
) -> pl.DataFrame:
    """Compute a baseline's lists for evaluation examples.

    Args:
        model: a model fitted on training interactions.
        examples: `user_id, history: list[str], target`, and the history's `times: list[int]` if the model reads them.
        history: number of last items that the model reads, as many as the language model does.
        k: length of the lists.
        mask_seen: whether all items of the history are left out.

    Returns:
        `user_id, rank, item_id, score`, in the order of `examples`.

    Raises:
        UserError: a user's own baseline returns something else.
    """
    histories = examples["history"].to_list()
    inputs = [items[-history:] for items in histories]
    exclude = histories if mask_seen else None
    if reads_times(model):
        times = [row[-history:] for row in examples[TIMES].to_list()]
        lists = model.recommend(inputs, k, exclude, times)
    else:
        lists = model.recommend(inputs, k, exclude)
    items, scores = checked_lists(lists, len(histories), k, type(model).__name__)
    frame = pl.DataFrame({"user_id": examples["user_id"].cast(pl.String), "item_id": items, "score": scores})
    ranked = frame.with_columns(rank=pl.int_ranges(1, pl.col("item_id").list.len() + 1, dtype=pl.Int32))
    return ranked.explode("rank", "item_id", "score", empty_as_null=False).select(*SCHEMA).cast(SCHEMA)


def ranked_lists(users: pl.Series, top: TopK, items: list[str]) -> pl.DataFrame:
    """Ranked lists as a table: `user_id, rank` (from 1)`, item_id, score`; empty slots left out."""
    width = top.items.shape[1]
    table = pl.DataFrame(
        {
            "user": pl.Series(range(len(users)), dtype=pl.Int64).repeat_by(width).explode(),
            "rank": pl.Series(list(range(1, width + 1)) * len(users), dtype=pl.Int32),
            "index": top.items.reshape(-1),
            "score": top.scores.reshape(-1),
        }
    ).filter(pl.col("index") >= 0)
    return table.select(
        user_id=users.gather(table["user"]),
        rank="rank",
        item_id=pl.Series(items, dtype=pl.String).gather(table["index"]),
        score="score",
    )


def read_lists(path: Path) -> pl.DataFrame:
    """Read and check one system's lists: `user_id, rank, item_id, score`.

    Raises:
        UserError: the file cannot be read, a column is missing or has empty cells, or the ranks of a user are not
            1, 2, 3 ….
    """
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; lists need {', '.join(SCHEMA)}")
    frame = frame.select(*SCHEMA).cast(SCHEMA)
    if frame.select("user_id", "rank", "item_id").null_count().sum_horizontal().item():
        raise UserError(f"{path}: empty user_id, rank or item_id; decode again")
    ordered = frame.sort("user_id", "rank", maintain_order=True)
    wrong = ordered.filter(pl.col("rank") != pl.int_range(1, pl.len() + 1).over("user_id"))
    if len(wrong):
        raise UserError(
            f"{path}: user {wrong['user_id'][0]!r}: ranks are not 1, 2, 3 … without gaps or repeats"
        )
    return frame


def model_systems(run: Path, split: str) -> list[str]:
    """Return the models of a run (no baselines) that have lists for a split, sorted."""
    return [name for name in listed_systems(run, split) if not is_baseline(name)]


def listed_systems(run: Path, split: str) -> list[str]:
    """Return the models and baselines of a run that have lists for a split, sorted."""
    return sorted(path.stem.removesuffix(f"-{split}") for path in (run / "decode").glob(f"*-{split}.parquet"))


def count_invalid(
    lists: pl.DataFrame, examples: pl.DataFrame, catalogue: Sequence[str], depth: int, mask_seen: bool
) -> int:
    """Count positions among the first `depth` without a valid recommendation.

    A position is invalid if it holds an id outside the catalogue, a repeated item, or a seen item when seen items are
    masked. It is also invalid if it is empty although there are allowed items left for the user.

    Args:
        lists: `user_id, rank` (from 1)`, item_id`.
        examples: `user_id, history: list[str]`.
        catalogue: all item ids.
        depth: number of positions that count.
        mask_seen: whether seen items are masked.
    """
    items = pl.DataFrame({"item_id": catalogue}, schema={"item_id": pl.String})
    users = examples.select("user_id", item_id=pl.col("history").list.unique())
    seen = users.explode("item_id", empty_as_null=False).join(items, on="item_id", how="semi")
    if not mask_seen:
        seen = seen.clear()
    shown = lists.filter(pl.col("rank") <= depth).join(examples, on="user_id", how="semi")
    valid = (
        shown.unique(["user_id", "item_id"])
        .join(items, on="item_id", how="semi")
        .join(seen, on=["user_id", "item_id"], how="anti")
    )
    allowed = (len(catalogue) - pl.col("seen").fill_null(0)).clip(upper_bound=depth)
    possible = (
        examples.select("user_id")
        .join(seen.group_by("user_id").len("seen"), on="user_id", how="left")
        .select("user_id", possible=allowed)
    )
    listed = shown.group_by("user_id").len("listed")
    empty = possible.join(listed, on="user_id", how="left").select(
        (pl.col("possible") - pl.col("listed").fill_null(0).cast(pl.Int64)).clip(lower_bound=0).sum()
    )
    return len(shown) - len(valid) + int(empty.item())
