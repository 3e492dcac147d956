"""What later stages read of the data stage: items, histories and targets, and what an epoch trains of histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.data.log import TEXT_FIELDS
from llmrec.data.split import target_rows
from llmrec.data.tables.described import EVENT_FIELDS
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.progress.run_lock import unfinished

Ints = npt.NDArray[np.int64]
TIMES = "times"
"""Column of the times of a history's items."""
POSITIONS = ("positions", "order of the file")
"""Values of `Log.clock` for times that are not dates."""


def load_items(run: Path) -> pl.DataFrame:
    """Load the items of a run: `item_id, title, …`, the columns of docs/contract.md.

    Raises:
        UserError: the data stage has not run.
    """
    return pl.read_parquet(_existing(run, "items.parquet"))


def load_users(run: Path) -> pl.DataFrame | None:
    """Load the users of a run: `user_id` and one column for each attribute. None if the data has no users table.

    Raises:
        UserError: the data stage has not run.
    """
    path = _existing(run, "interactions.parquet").with_name("users.parquet")
    return pl.read_parquet(path) if path.is_file() else None


def load_interactions(run: Path, texts: Sequence[str] = ()) -> pl.DataFrame:
    """Load the interactions of a run, ordered by user (first appearance) and time, with ids as plain strings.

    Args:
        run: the run folder.
        texts: which of `review` and `summary` to read if the data has them; by default neither.

    Raises:
        UserError: the data stage has not run.
    """
    path = _existing(run, "interactions.parquet")
    left_out = set(TEXT_FIELDS) - set(texts)
    frame = pl.read_parquet(path, columns=[n for n in pl.read_parquet_schema(path) if n not in left_out])
    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))


def event_fields(run: Path) -> frozenset[str]:
    """Return the fields of `EVENT_FIELDS` that hold data in a run's interactions; `time` only if it is a date.

    Raises:
        UserError: the data stage has not run.
    """
    path = _existing(run, "interactions.parquet")
    columns = [name for name in EVENT_FIELDS if name in pl.read_parquet_schema(path)]
    has_values = (
        pl.scan_parquet(path).select(pl.col(columns).is_not_null().any()).collect().row(0, named=True)
    )
    has_dates = read_json(_existing(run, "report.json"))["time"]["read_as"] not in POSITIONS
    return frozenset(name for name in columns if has_values[name] and (name != "time" or has_dates))


def training_histories(run: Path, events: Sequence[str] = (), times: bool = False) -> pl.DataFrame:
    """Load each user's training items, oldest first, with fields of their interactions.

    Args:
        run: the run folder.
        events: fields of `event_fields` to load as well.
        times: whether to add the column `times: list[int]`, seconds since 1970 (positions if the data has no dates).

    Returns:
        One row per user with training interactions: `user_id: str`, `items: list[str]`, and one `list[str]` for each
        field of `events`, as text for prompts (dates as 2014-07-01, ratings without `.0`, null for a missing value).
    """
    rows = load_interactions(run, events).filter(pl.col("split") == "train")
    texts = {name: _event_text(name) for name in events}
    seconds = {TIMES: pl.col("time")} if times else {}
    rows = rows.select("user_id", items="item_id", **texts, **seconds)
    return rows.group_by("user_id", maintain_order=True).agg(pl.all())


_IS_WHOLE = pl.col("rating") == pl.col("rating").round()
_EVENT_TEXTS = {
    "rating": pl.when(_IS_WHOLE)
    .then(pl.col("rating").cast(pl.Int64, strict=False).cast(pl.String))
    .otherwise(pl.col("rating").cast(pl.String)),
    "time": pl.from_epoch("time").dt.strftime("%Y-%m-%d"),
}


def _event_text(field: str) -> pl.Expr:
    """Return a field of interactions as text for prompts."""
    return _EVENT_TEXTS.get(field, pl.col(field))


def evaluation_examples(
    run: Path,
    split: str,
    users: int | None = None,
    seed: int = 0,
    events: Sequence[str] = (),
    times: bool = False,
) -> pl.DataFrame:
    """Load one history and target per user of a split, by the protocol of docs/contract.md.

    Args:
        run: the run folder.
        split: `valid` or `test`.
        users: number of users to draw at random; None takes all.
        seed: seed of the draw.
        events: fields of `event_fields` to load as well.
        times: whether to add the column `times: list[int]` of the history's items, as `training_histories` has it.

    Returns:
        One row per user, in the order of the file: `user_id: str`, `history: list[str]` (all items before the target,
        oldest first, at least one), `target: str`, and one `list[str]` for each field of `events`, as text like
        `training_histories`: the history's values, then the target's.

    Raises:
        UserError: the data stage has not run, or there is no such split.
    """
    if split not in {"valid", "test"}:
        raise UserError(f"split {split!r}: evaluation has a target in 'valid' and 'test' only")
    kind = read_json(_existing(run, "report.json"))["split"]["kind"]
    rows = load_interactions(run, events)
    users_in_order = rows["user_id"].rle_id().to_numpy()
    targets = target_rows(users_in_order, (rows["split"] == split).to_numpy(), kind)
    is_target = np.zeros(len(rows), dtype=bool)
    is_target[targets] = True
    texts = {name: _event_text(name) for name in events}
    seconds = {TIMES: pl.col("time")} if times else {}
    examples = (
        rows.with_columns(is_target=is_target)
        .group_by("user_id", maintain_order=True)
        .agg(
            pl.col("is_target").any(),
            items="item_id",
            position=pl.col("is_target").arg_max(),
            **texts,
            **seconds,
        )
        .filter("is_target")
        .select(
            "user_id",
            history=pl.col("items").list.head("position"),
            target=pl.col("items").list.get("position"),
            **{name: pl.col(name).list.head(pl.col("position") + 1) for name in events},
            **{name: pl.col(name).list.head("position") for name in seconds},
        )
    )
    if users is None or users >= len(examples):
        return examples
    drawn = np.random.default_rng(seed).choice(len(examples), users, replace=False)
    return examples[np.sort(drawn)]


def with_masked(examples: pl.DataFrame, mask_seen: bool) -> pl.DataFrame:
    """Add the column `masked: list[str]`, the items that a list leaves out: those of the history, or none."""
    return examples.with_columns(masked=pl.col("history") if mask_seen else pl.col("history").list.head(0))


def _existing(run: Path, name: str) -> Path:
    path = run / "data" / name
    if not path.is_file():
        raise unfinished(run, "data")
    return path


def draw_pieces(
    counts: Sequence[int],
    draw: np.random.Generator,
    *,
    crop: float = 0.0,
    shuffle: float = 0.0,
    shuffle_window: int = 3,
    leave_out: float = 0.0,
) -> Iterator[tuple[int, Ints]]:
    """Draw what an epoch trains of each history: shuffled in small blocks, cut in two, or without some of its items.

    The means are those of CL4SRec (Xie et al., Contrastive learning for sequential recommendation, ICDE 2022): crop,
    mask and reorder, here of the training data itself.

    Args:
        counts: number of items of each history.
        draw: the epoch's generator.
        crop: probability that a history is cut in two at a random place; the last item of the first piece is the
            first of the second.
        shuffle: probability that a history is shuffled within blocks of `shuffle_window` items.
        shuffle_window: length of these blocks; the first begins at a random place of one.
        leave_out: probability of each item to be left out. A history keeps at least two items, if it has them.

    Yields:
        Which history, and the places of the items that a piece of it has, int64 [n], in their order.
    """
    is_shuffled = draw.random(len(counts)) < shuffle
    is_cropped = draw.random(len(counts)) < crop
    cuts = draw.random(len(counts))
    for history, count in enumerate(counts):
        places = np.arange(count)
        if is_shuffled[history]:
            block = (places + draw.integers(shuffle_window)) // shuffle_window
            places = places[np.lexsort((draw.random(count), block))]
        if leave_out:
            places = _without_some(places, leave_out, draw)
        if is_cropped[history] and len(places) > 2:
            cut = 1 + int(cuts[history] * (len(places) - 2))
            yield history, places[: cut + 1]
            yield history, places[cut:]
        else:
            yield history, places


def _without_some(places: Ints, leave_out: float, draw: np.random.Generator) -> Ints:
    luck = draw.random(len(places))
    kept = luck >= leave_out
    if kept.sum() < 2:
        kept[np.argsort(luck)[-2:]] = True
    return places[kept]
