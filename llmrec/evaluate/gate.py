"""The gate: an aligned model replaces the SFT model if it is better on validation users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from llmrec import layout
from llmrec.artifacts import StageContext
from llmrec.data.examples import evaluation_examples
from llmrec.evaluate.lists import model_systems, read_lists
from llmrec.evaluate.summary import JUDGED_SPLIT, bootstrap_of, differences
from llmrec.metrics.ranking import score_ranks, target_ranks
from llmrec.metrics.statistics import Bootstrap, format_estimate
from llmrec.recommend.model_names import ALIGNED, SFT, adapter_sha256

BETTER, WORSE, NEITHER = "better", "worse", "no difference"


def gate(context: StageContext) -> dict[str, Any] | None:
    """Compare a run's aligned models with SFT by their validation lists.

    Returns:
        `{split, users, bootstrap, confidence, metric, winner, models: {model: {metric: {difference, interval,
        verdict}, "adapter": sha256}}}`: `metric` is the deciding one, `adapter` the hash of the compared weights.
        None if the run lacks validation lists of SFT or of any aligned model.
    """
    run, recipe = context.run, context.recipe
    systems = model_systems(run, JUDGED_SPLIT)
    aligned = [model for model in ALIGNED if model in systems]
    if not aligned or SFT not in systems:
        return None
    examples = evaluation_examples(run, JUDGED_SPLIT, recipe.decode.users, recipe.seed)
    examples = examples.cast({"user_id": pl.String, "target": pl.String})
    metrics = gate_metrics(recipe.decode.list_length)
    cutoffs = sorted({int(name.partition("@")[2]) for name in metrics})
    users = {}
    for system in (SFT, *aligned):
        lists = read_lists(run / layout.lists(system, JUDGED_SPLIT))
        users[system] = score_ranks(target_ranks(lists, examples, max(cutoffs)), cutoffs)
    verdicts = compare_with_sft(users, metrics, bootstrap_of(recipe))
    for model in aligned:
        verdicts["models"][model]["adapter"] = adapter_sha256(run, model)
    return verdicts


def gate_metrics(length: int) -> list[str]:
    """Return the gate's metrics: NDCG@10, which decides, and HR@50; shorter lists lower the cutoffs.

    Args:
        length: length of the lists.
    """
    k = min(10, length)
    return [f"ndcg@{k}", f"hr@{50 if length >= 50 else k}"]


def compare_with_sft(
    users: Mapping[str, pl.DataFrame], metrics: Sequence[str], draws: Bootstrap
) -> dict[str, Any]:
    """Compare models to `sft` user by user.

    Args:
        users: per system, including `sft`, a frame with the columns `metrics`; all have the same users in one order.
        metrics: columns to compare; the first decides.
        draws: how the intervals are drawn.

    Returns:
        The result of `gate` without the adapters' hashes. The winner is the model with the largest difference among
        those that are better in the first metric, or `sft` if none is better.
    """
    models = [system for system in users if system != SFT]
    gaps = differences(users, [(model, SFT) for model in models], metrics, draws)
    verdicts: dict[str, dict[str, Any]] = {
        model: {name: _verdict(gaps[model][SFT], name) for name in metrics} for model in models
    }
    better = [model for model in models if verdicts[model][metrics[0]]["verdict"] == BETTER]
    return {
        "split": JUDGED_SPLIT,
        "users": len(users[SFT]),
        "bootstrap": draws.resamples,
        "confidence": draws.confidence,
        "metric": metrics[0],
        "winner": max(better, key=lambda model: verdicts[model][metrics[0]]["difference"], default=SFT),
        "models": verdicts,
    }


def _verdict(gap: Mapping[str, Any], name: str) -> dict[str, Any]:
    low, high = gap["intervals"][name]
    verdict = BETTER if low > 0 else WORSE if high < 0 else NEITHER
    return {"difference": gap[name], "interval": [low, high], "verdict": verdict}


def sentences(verdicts: Mapping[str, Any]) -> list[str]:
    """Describe the result of `gate`: one sentence for each model with its interval; the last names the winner."""
    lines = []
    name = verdicts["metric"]
    for model, metrics in verdicts["models"].items():
        gap = metrics[name]
        difference = format_estimate(gap["difference"], gap["interval"], signed=True)
        lines.append(
            f"{model} against {SFT} on validation, {verdicts['users']:,} users: {name.upper()} {difference}, "
            f"{gap['verdict']}"
        )
    winner = verdicts["winner"]
    verb = "still recommends" if winner == SFT else "now recommends"
    lines[-1] += f"; the run {verb} with {winner}"
    return lines
