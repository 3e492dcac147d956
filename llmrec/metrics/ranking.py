"""Ranking metrics of one list and one target per user, over the full catalogue, computed by ir-measures.

With a single relevant item, every measure depends only on the rank of that item. So ir-measures evaluates each
measure once per possible rank, and each user's value is looked up in that table. The values are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import polars as pl

from llmrec.metrics.lists import Values
from llmrec.metrics.metric import Metric, RankMetric, Ranks


def ir_values(measure: str, ranks: Ranks, k: int) -> Values:
    """Compute a measure of ir-measures for a target at each of some ranks.

    Args:
        measure: name in ir-measures, such as `nDCG`.
        ranks: int64 `[n]`, from 1 to k.
        k: cutoff.

    Returns:
        float64 `[n]`.
    """
    return _ir_values(measure, k)[ranks - 1]


@cache
def _ir_values(measure: str, k: int) -> Values:
    """Compute a measure at each rank from 1 to k, float64 `[k]`."""
    import ir_measures

    positions = range(1, k + 1)
    # One query per rank of the target, one document per position. ir-measures sorts by score and breaks ties
    # in its own way, so scores must strictly decrease: they are minus the position.
    judgements = {str(rank): {str(rank): 1} for rank in positions}
    run = {str(rank): {str(position): float(-position) for position in positions} for rank in positions}
    values = np.zeros(k)
    for result in ir_measures.iter_calc([ir_measures.parse_measure(f"{measure}@{k}")], judgements, run):
        values[int(result.query_id) - 1] = float(result.value)
    return values


def _f1(ranks: Ranks, k: int) -> Values:
    precision, recall = ir_values("P", ranks, k), ir_values("R", ranks, k)
    # The target is within the first k, so neither is 0.
    values: Values = 2 * precision * recall / (precision + recall)
    return values


HIT_RATE = RankMetric(
    name="hr",
    title="Hit rate",
    formula="HR@k = 1 if rank ≤ k, else 0",
    source="Deshpande & Karypis, Item-based top-N recommendation algorithms, 2004",
    value=partial(ir_values, "Success"),
)
NDCG = RankMetric(
    name="ndcg",
    title="Normalised discounted cumulative gain",
    formula="NDCG@k = 1 / log2(rank + 1) if rank ≤ k, else 0 (one target: the ideal DCG is 1)",
    source="Järvelin & Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002",
    value=partial(ir_values, "nDCG"),
)
MRR = RankMetric(
    name="mrr",
    title="Mean reciprocal rank",
    formula="MRR@k = 1 / rank if rank ≤ k, else 0",
    source="Voorhees, The TREC-8 question answering track report, 1999",
    value=partial(ir_values, "RR"),
)
RECALL = RankMetric(
    name="recall",
    title="Recall",
    formula=(
        "Recall@k = the user's targets within the first k / the user's targets (one target: equal to HR@k)"
    ),
    source="Herlocker et al., Evaluating collaborative filtering recommender systems, 2004",
    value=partial(ir_values, "R"),
)
PRECISION = RankMetric(
    name="precision",
    title="Precision",
    formula="Precision@k = the user's targets within the first k / k (one target: equal to HR@k / k)",
    source="Herlocker et al., Evaluating collaborative filtering recommender systems, 2004",
    value=partial(ir_values, "P"),
)
F1 = RankMetric(
    name="f1",
    title="F1",
    formula="F1@k = 2 · Precision@k · Recall@k / (Precision@k + Recall@k), 0 if both are 0",
    source="van Rijsbergen, Information retrieval, 1979, chapter 7; the mean of the users' values",
    value=_f1,
)
MAP = RankMetric(
    name="map",
    title="Mean average precision",
    formula=(
        "AP@k = Σ over the ranks r ≤ k of the user's targets of Precision@r / the user's targets (one target: equal "
        "to MRR@k)"
    ),
    source="Voorhees & Harman, TREC: experiment and evaluation in information retrieval, 2005, section 3.2",
    value=partial(ir_values, "AP"),
)
MEASURES = (HIT_RATE, NDCG, MRR, RECALL)


def metric_names(cutoffs: Sequence[int], metrics: Sequence[Metric] = MEASURES) -> list[str]:
    """Return column names such as `hr@10`: all cutoffs of the first measure, then those of the next."""
    return [f"{metric.name}@{k}" for metric in metrics for k in cutoffs]


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


def score_ranks(
    ranks: pl.DataFrame, cutoffs: Sequence[int], metrics: Sequence[RankMetric] = MEASURES
) -> pl.DataFrame:
    """Add every measure at every cutoff to users' target ranks.

    Args:
        ranks: a frame with the column `rank` (from 1; null, or beyond the largest cutoff, for a miss).
        cutoffs: the values of k.
        metrics: the measures.

    Returns:
        `ranks` with one `f64` column for each of `metric_names(cutoffs, metrics)`; the value of a miss is 0.
    """
    names = metric_names(cutoffs, metrics)
    table = values_by_rank(cutoffs, metrics)
    return ranks.join(table, on="rank", how="left", maintain_order="left").with_columns(
        pl.col(names).fill_null(0.0)
    )


def values_by_rank(cutoffs: Sequence[int], metrics: Sequence[RankMetric] = MEASURES) -> pl.DataFrame:
    """Compute each measure for a target at each rank, for lists as long as the largest cutoff.

    Returns:
        `rank: i64` from 1 to `max(cutoffs)` and one `f64` column for each of `metric_names(cutoffs, metrics)`.
    """
    depth = max(cutoffs)
    values = {f"{metric.name}@{k}": metric.at(depth, k) for metric in metrics for k in cutoffs}
    return pl.DataFrame({"rank": range(1, depth + 1)} | values, schema_overrides={"rank": pl.Int64})
