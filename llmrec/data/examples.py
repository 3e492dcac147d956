"""What every later stage reads of the data: items, interactions, histories and targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from llmrec.data.card import EVENT_FIELDS
from llmrec.data.log import TEXT_FIELDS
from llmrec.errors import UserError
from llmrec.files import read_json

POSITIONS = ("positions", "order of the file")


def load_items(run: Path) -> pl.DataFrame:
    """Items of a run: `item_id, title, …` as docs/contract.md has it.

    Raises:
        UserError: the data stage has not run.
    """
    return pl.read_parquet(_existing(run, "items.parquet"))


def load_users(run: Path) -> pl.DataFrame | None:
    """Attributes of a run's users, `user_id` and one column each; None where the data has none.

    Raises:
        UserError: the data stage has not run.
    """
    path = _existing(run, "interactions.parquet").with_name("users.parquet")
    return pl.read_parquet(path) if path.is_file() else None


def load_interactions(run: Path, texts: Sequence[str] = ()) -> pl.DataFrame:
    """Interactions of a run, ordered by user (first appearance) and time, ids as plain strings.

    Args:
        run: the run folder.
        texts: which of `review` and `summary` to read, of those there are; by default neither.

    Raises:
        UserError: the data stage has not run.
    """
    path = _existing(run, "interactions.parquet")
    left_out = set(TEXT_FIELDS) - set(texts)
    frame = pl.read_parquet(path, columns=[n for n in pl.read_parquet_schema(path) if n not in left_out])
    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))


def event_fields(run: Path) -> frozenset[str]:
    """Which of `EVENT_FIELDS` the interactions of a run say something of; `time` only where it is a date.

    Raises:
        UserError: the data stage has not run.
    """
    path = _existing(run, "interactions.parquet")
    there = [name for name in EVENT_FIELDS if name in pl.read_parquet_schema(path)]
    told = pl.scan_parquet(path).select(pl.col(there).is_not_null().any()).collect().row(0, named=True)
    dated = read_json(_existing(run, "report.json"))["time"]["read_as"] not in POSITIONS
    return frozenset(name for name in there if told[name] and (name != "time" or dated))


def training_histories(run: Path, events: Sequence[str] = ()) -> pl.DataFrame:
    """Each user's training items, oldest first, with what the interactions say beside them.

    Args:
        run: the run folder.
        events: fields of `event_fields` to read along.

    Returns:
        `user_id: str, items: list[str]`, and one `list[str]` a field of `events`, as a prompt says it (dates as
        2014-07-01, ratings without `.0`, null where there is nothing), one row per user with training rows.
    """
    rows = load_interactions(run, events).filter(pl.col("split") == "train")
    said = {name: _said(name) for name in events}
    rows = rows.select("user_id", items="item_id", **said)
    return rows.group_by("user_id", maintain_order=True).agg(pl.all())


_WHOLE = pl.col("rating") == pl.col("rating").round()
_SAID = {
    "rating": pl.when(_WHOLE)
    .then(pl.col("rating").cast(pl.Int64, strict=False).cast(pl.String))
    .otherwise(pl.col("rating").cast(pl.String)),
    "time": pl.from_epoch("time").dt.strftime("%Y-%m-%d"),
}


def _said(field: str) -> pl.Expr:
    """A field of interactions as a prompt says it."""
    return _SAID.get(field, pl.col(field))


def evaluation_examples(
    run: Path, split: str, users: int | None = None, seed: int = 0, events: Sequence[str] = ()
) -> pl.DataFrame:
    """One history and target per user of a split, by the protocol of docs/contract.md.

    Args:
        run: the run folder.
        split: `valid` or `test`.
        users: how many users to draw at random; None takes all.
        seed: of the draw.
        events: fields of `event_fields` to read along.

    Returns:
        `user_id: str, history: list[str]` (all before the target, oldest first, at least one)`,
        target: str`, in the order of the file; and one `list[str]` a field of `events`, said as
        `training_histories` says it, the history's first, then the target's.

    Raises:
        UserError: the data stage has not run, or there is no such split.
    """
    if split not in {"valid", "test"}:
        raise UserError(f"split {split!r}: evaluation has a target in 'valid' and 'test' only")
    kind = read_json(_existing(run, "report.json"))["split"]["kind"]
    eligible = pl.col("split") == split
    # A held-out user's rows all bear the split's name, the last is the target; else the first that does.
    target = pl.len() - 1 if kind == "held_out_users" else eligible.arg_max()
    rows = load_interactions(run, events)
    said = {name: _said(name) for name in events}
    examples = (
        rows.group_by("user_id", maintain_order=True)
        .agg(items="item_id", eligible=eligible.any(), position=target, **said)
        .filter(pl.col("eligible") & (pl.col("position") > 0))
        .select(
            "user_id",
            history=pl.col("items").list.head("position"),
            target=pl.col("items").list.get("position"),
            **{name: pl.col(name).list.head(pl.col("position") + 1) for name in events},
        )
    )
    if users is None or users >= len(examples):
        return examples
    drawn = np.random.default_rng(seed).choice(len(examples), users, replace=False)
    return examples[np.sort(drawn)]


def _existing(run: Path, name: str) -> Path:
    path = run / "data" / name
    if not path.is_file():
        raise UserError(f"{path}: not there; run `llmrec data RECIPE` first")
    return path
