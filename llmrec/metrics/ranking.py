"""Ranking metrics of one list and one target per user, over the full catalogue, computed by ir-measures.

With a single relevant item, every measure depends only on the rank of that item. So ir-measures evaluates each
measure once per possible rank, and each user's value is looked up in that table. The values are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Measure:
    """One ranking measure.

    Attributes:
        name: prefix of its column, as in `hr@10`.
        ir: its name in ir-measures.
        title: its name in prose.
        formula: plain text, for one target at position `rank` (from 1) of the list.
        source: the publication that introduced it.
    """

    name: str
    ir: str
    title: str
    formula: str
    source: str


MEASURES = (
    Measure(
        "hr",
        "Success",
        "Hit rate",
        "HR@k = 1 if rank ≤ k, else 0",
        "Deshpande & Karypis, Item-based top-N recommendation algorithms, 2004",
    ),
    Measure(
        "ndcg",
        "nDCG",
        "Normalised discounted cumulative gain",
        "NDCG@k = 1 / log2(rank + 1) if rank ≤ k, else 0 (one target: the ideal DCG is 1)",
        "Järvelin & Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002",
    ),
    Measure(
        "mrr",
        "RR",
        "Mean reciprocal rank",
        "MRR@k = 1 / rank if rank ≤ k, else 0",
        "Voorhees, The TREC-8 question answering track report, 1999",
    ),
    Measure(
        "recall",
        "R",
        "Recall",
        "Recall@k = the user's targets within the first k / the user's targets (one target: equal to HR@k)",
        "Herlocker et al., Evaluating collaborative filtering recommender systems, 2004",
    ),
)


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """Return column names such as `hr@10`: all cutoffs of the first measure, then those of the next."""
    return [f"{measure.name}@{k}" for measure in MEASURES for k in cutoffs]


def target_ranks(lists: pl.DataFrame, targets: pl.DataFrame, depth: int) -> pl.DataFrame:
    """Find the position of every user's target in the user's list.

    Args:
        lists: `user_id, rank` (from 1)`, item_id`.
        targets: `user_id, target`, one row per user; users without a list are misses.
        depth: only the first `depth` positions count.

    Returns:
        `user_id, target, rank: i64`, in the order of `targets`; rank is null for a miss. A target listed
        twice counts at its better rank.
    """
    hits = (
        lists.filter(pl.col("rank") <= depth)
        .join(targets.select("user_id", item_id="target"), on=["user_id", "item_id"])
        .group_by("user_id")
        .agg(pl.col("rank").min().cast(pl.Int64))
    )
    return targets.select("user_id", "target").join(hits, on="user_id", how="left", maintain_order="left")


def score_ranks(ranks: pl.DataFrame, cutoffs: Sequence[int]) -> pl.DataFrame:
    """Add every measure at every cutoff to users' target ranks.

    Args:
        ranks: a frame with the column `rank` (from 1; null, or beyond the largest cutoff, for a miss).
        cutoffs: the values of k.

    Returns:
        `ranks` with one `f64` column for each of `metric_names(cutoffs)`; the value of a miss is 0.
    """
    names = metric_names(cutoffs)
    table = values_by_rank(cutoffs)
    return ranks.join(table, on="rank", how="left", maintain_order="left").with_columns(
        pl.col(names).fill_null(0.0)
    )


def values_by_rank(cutoffs: Sequence[int]) -> pl.DataFrame:
    """Compute each measure for a target at each rank, for lists as long as the largest cutoff.

    Returns:
        `rank: i64` from 1 to `max(cutoffs)` and one `f64` column for each of `metric_names(cutoffs)`.
    """
    import ir_measures

    depth = max(cutoffs)
    ranks = range(1, depth + 1)
    # One query per rank of the target, one document per position. ir-measures sorts by score and breaks ties
    # in its own way, so scores must strictly decrease: they are minus the position.
    judgements = {str(rank): {str(rank): 1} for rank in ranks}
    run = {str(rank): {str(position): float(-position) for position in ranks} for rank in ranks}
    measures = {
        ir_measures.parse_measure(f"{measure.ir}@{k}"): f"{measure.name}@{k}"
        for measure in MEASURES
        for k in cutoffs
    }
    values = {name: [0.0] * depth for name in metric_names(cutoffs)}
    for result in ir_measures.iter_calc(list(measures), judgements, run):
        values[measures[result.measure]][int(result.query_id) - 1] = float(result.value)
    return pl.DataFrame({"rank": list(ranks)} | values, schema_overrides={"rank": pl.Int64})
