"""The gate: whether an aligned model beats the SFT model on validation users, and so answers in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from llmrec import layout
from llmrec.artifacts import StageContext
from llmrec.data.examples import evaluation_examples
from llmrec.evaluate.lists import model_systems, read_lists
from llmrec.evaluate.summary import differences
from llmrec.metrics.ranking import score_ranks, target_ranks
from llmrec.recommend.model_names import ALIGNED, SFT, adapter_sha256

SPLIT = "valid"
BETTER, WORSE, NEITHER = "better", "worse", "no difference"


def gate(context: StageContext) -> dict[str, Any] | None:
    """Judge a run's aligned models by their validation lists; None where it has no such lists.

    Returns:
        `{split, users, bootstrap, confidence, metric, winner, models: {model: {metric: {difference, interval,
        verdict}, "adapter": sha256}}}`: `metric` is the one that decides, `adapter` the weights that were judged.
    """
    run, recipe = context.run, context.recipe
    systems = model_systems(run, SPLIT)
    aligned = [model for model in ALIGNED if model in systems]
    if not aligned or SFT not in systems:
        return None
    examples = evaluation_examples(run, SPLIT, recipe.decode.users, recipe.seed)
    examples = examples.cast({"user_id": pl.String, "target": pl.String})
    metrics = gate_metrics(recipe.decode.list_length)
    cutoffs = sorted({int(name.partition("@")[2]) for name in metrics})
    users = {}
    for system in (SFT, *aligned):
        lists = read_lists(run / layout.lists(system, SPLIT))
        users[system] = score_ranks(target_ranks(lists, examples, max(cutoffs)), cutoffs)
    found = compare_with_sft(users, metrics, recipe.eval.bootstrap, recipe.seed, recipe.eval.confidence)
    for model in aligned:
        found["models"][model]["adapter"] = adapter_sha256(run, model)
    return found


def gate_metrics(length: int) -> list[str]:
    """Metrics of the gate for lists of a length: NDCG@10, which decides, and HR@50 or what the lists allow."""
    k = min(10, length)
    return [f"ndcg@{k}", f"hr@{50 if length >= 50 else k}"]


def compare_with_sft(
    users: Mapping[str, pl.DataFrame],
    metrics: Sequence[str],
    resamples: int,
    seed: int,
    confidence: float,
) -> dict[str, Any]:
    """Compare models to `sft` user by user.

    Args:
        users: per system, `sft` among them, a frame with the columns `metrics`, the same users in one order.
        metrics: columns to compare; the first decides.
        resamples: bootstrap resamples.
        seed: of the resamples.
        confidence: of the intervals.

    Returns:
        What `gate` writes, without the adapters' hashes. The winner is, of the models that are better in the
        first metric, the one with the largest difference; else `sft`.
    """
    models = [system for system in users if system != SFT]
    gaps = differences(users, [(model, SFT) for model in models], metrics, resamples, seed, confidence)
    judged: dict[str, dict[str, Any]] = {
        model: {name: _judged(gaps[model][SFT], name) for name in metrics} for model in models
    }
    better = [model for model in models if judged[model][metrics[0]]["verdict"] == BETTER]
    return {
        "split": SPLIT,
        "users": len(users[SFT]),
        "bootstrap": resamples,
        "confidence": confidence,
        "metric": metrics[0],
        "winner": max(better, key=lambda model: judged[model][metrics[0]]["difference"], default=SFT),
        "models": judged,
    }


def _judged(gap: Mapping[str, Any], name: str) -> dict[str, Any]:
    low, high = gap["intervals"][name]
    verdict = BETTER if low > 0 else WORSE if high < 0 else NEITHER
    return {"difference": gap[name], "interval": [low, high], "verdict": verdict}


def sentences(found: Mapping[str, Any]) -> list[str]:
    """A gate in words: a sentence a model, with its interval, the last of which names the winner."""
    lines = []
    for model, judged in found["models"].items():
        name = found["metric"]
        gap = judged[name]
        low, high = gap["interval"]
        lines.append(
            f"{model} against {SFT} on validation, {found['users']:,} users: {name.upper()} "
            f"{gap['difference']:+.4f} [{low:+.4f}, {high:+.4f}], {gap['verdict']}"
        )
    winner = found["winner"]
    verb = "goes on recommending" if winner == SFT else "now recommends"
    lines[-1] += f"; the run {verb} with {winner}"
    return lines
