"""What every later stage reads of the data: items, interactions, histories and targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from llmrec.artifacts import read_json
from llmrec.errors import UserError


def load_items(run: Path) -> pl.DataFrame:
    """Items of a run: `item_id, title, …` as docs/contract.md has it.

    Raises:
        UserError: the data stage has not run.
    """
    return pl.read_parquet(_existing(run, "items.parquet"))


def load_interactions(run: Path) -> pl.DataFrame:
    """Interactions of a run, ordered by user (first appearance) and time, ids as plain strings.

    Raises:
        UserError: the data stage has not run.
    """
    frame = pl.read_parquet(_existing(run, "interactions.parquet"))
    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))


def training_histories(run: Path) -> pl.DataFrame:
    """Each user's training items, oldest first.

    Returns:
        `user_id: str, items: list[str]`, one row per user that has training rows.
    """
    rows = load_interactions(run).filter(pl.col("split") == "train")
    return rows.group_by("user_id", maintain_order=True).agg(items="item_id")


def evaluation_examples(run: Path, split: str, users: int | None = None, seed: int = 0) -> pl.DataFrame:
    """One history and target per user of a split, by the protocol of docs/contract.md.

    Args:
        run: the run folder.
        split: `valid` or `test`.
        users: how many users to draw at random; None takes all.
        seed: of the draw.

    Returns:
        `user_id: str, history: list[str]` (all before the target, oldest first, at least one)`,
        target: str`, in the order of the file.

    Raises:
        UserError: the data stage has not run, or there is no such split.
    """
    if split not in {"valid", "test"}:
        raise UserError(f"split {split!r}: evaluation has a target in 'valid' and 'test' only")
    kind = read_json(_existing(run, "report.json"))["split"]["kind"]
    eligible = pl.col("split") == split
    # A held-out user's rows all bear the split's name, the last is the target; else the first that does.
    target = pl.len() - 1 if kind == "held_out_users" else eligible.arg_max()
    examples = (
        load_interactions(run)
        .group_by("user_id", maintain_order=True)
        .agg(items="item_id", eligible=eligible.any(), position=target)
        .filter(pl.col("eligible") & (pl.col("position") > 0))
        .select(
            "user_id",
            history=pl.col("items").list.head("position"),
            target=pl.col("items").list.get("position"),
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
