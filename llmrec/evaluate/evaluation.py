"""Compare every system's lists with the held-out targets, and write `eval/metrics.json` and the other eval files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from llmrec import layout
from llmrec.artifacts import StageContext
from llmrec.collaborative.system import ListModel
from llmrec.config import Recipe
from llmrec.data.examples import evaluation_examples, load_users, training_histories
from llmrec.data.tables.notes import tell
from llmrec.errors import UserError
from llmrec.evaluate.gate import gate
from llmrec.evaluate.given_lists import lists_of_split, read_given_lists
from llmrec.evaluate.items import load_item_data, split_by_need
from llmrec.evaluate.lists import (
    baseline_lists,
    count_invalid,
    is_baseline,
    load_system,
    model_systems,
    read_lists,
    reads_times,
)
from llmrec.evaluate.slices import fairness, make_slices
from llmrec.evaluate.summary import bootstrap_of, differences, rounded, shown_cutoff, summarise
from llmrec.evaluate.tasks.scores import task_metrics
from llmrec.files import atomic_write, read_json, write_json
from llmrec.metrics.lists import ItemData, RecommendedLists
from llmrec.metrics.metric import Metric, list_metrics, load_metrics, rank_metrics, user_metrics
from llmrec.metrics.ranking import metric_names, score_ranks, target_ranks
from llmrec.recommend.model_names import ALIGNED, GIVEN, SFT, TIGER, ZERO_SHOT


def evaluate(context: StageContext) -> None:
    """Evaluate the run's models and baselines on the splits that were decoded.

    Writes `decode/<baseline>-<split>.parquet`, `eval/metrics.json` and `eval/per_user.parquet`. A recipe with tasks
    adds `eval/tasks.json`, and a run with aligned models adds `eval/gate.json`.

    Raises:
        UserError: a split has no targets, or lists are malformed.
    """
    recipe = context.recipe
    histories = training_histories(context.run)
    items = load_item_data(context.run, recipe, histories)
    metrics, left_out = split_by_need(load_metrics(recipe.eval.metrics), items)
    models = {
        name: load_system(context.run, name, items.catalogue.to_list())
        for name in recipe.eval.baselines
        if name != ZERO_SHOT
    }
    given = {GIVEN + name: read_given_lists(Path(path)) for name, path in recipe.eval.lists.items()}
    report: dict[str, Any] = {"protocol": _protocol(context, items, metrics, left_out)}
    per_user: list[pl.DataFrame] = []
    for split in recipe.decode.splits:
        examples = _examples(context, split, items, any(map(reads_times, models.values())))
        report["protocol"]["repeat_targets"][split] = _repeats(examples)
        _tell_repeats(report["protocol"]["repeat_targets"][split], split, recipe.data.mask_seen)
        lists = {name: read_lists(path) for name, path in _model_files(context, split).items()}
        for name in recipe.eval.baselines:
            lists[name] = _baseline(context, name, split, models.get(name), examples)
        lists |= _given(context, given, split, examples, items.catalogue.to_list())
        shown = {
            name: RecommendedLists(
                frame.join(examples, on="user_id", how="semi"), examples, items, recipe.data.mask_seen
            )
            for name, frame in lists.items()
        }
        users = {name: _per_user(of_system, recipe, metrics) for name, of_system in shown.items()}
        _add_split(report, split, users, shown, context, metrics)
        per_user += [
            frame.select(pl.lit(split).alias("split"), pl.lit(name).alias("system"), pl.all())
            for name, frame in users.items()
        ]
    write_json(context.work / layout.METRICS, report)
    if recipe.eval.tasks:
        write_json(context.work / layout.TASK_METRICS, task_metrics(context.run, recipe))
    verdict = gate(context)
    if verdict is not None:
        write_json(context.work / layout.GATE, verdict)
    with atomic_write(context.work / layout.PER_USER) as partial:
        pl.concat(per_user).write_parquet(partial)


def _examples(context: StageContext, split: str, items: ItemData, times: bool) -> pl.DataFrame:
    """Evaluation examples of a split, with the columns by which slices group users, and with times if asked."""
    recipe = context.recipe
    examples = evaluation_examples(context.run, split, recipe.decode.users, recipe.seed, times=times)
    if examples.is_empty():
        raise UserError(f"decode.splits: no user has a target in split {split!r}; choose another data.split")
    counts = items.catalogue.to_frame("item_id").with_columns(item_frequency=pl.Series(items.popularity))
    return (
        examples.cast({"user_id": pl.String, "history": pl.List(pl.String), "target": pl.String})
        .with_columns(history_length=pl.col("history").list.len().cast(pl.Int64))
        .join(counts, left_on="target", right_on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("item_frequency").fill_null(0))
    )


def _model_files(context: StageContext, split: str) -> dict[str, Path]:
    return {name: context.run / layout.lists(name, split) for name in model_systems(context.run, split)}


def _baseline(
    context: StageContext, name: str, split: str, model: ListModel | None, examples: pl.DataFrame
) -> pl.DataFrame:
    """Return a baseline's lists, and write them like a model's.

    Lists of the untuned base (`model` None) exist already and are copied.
    """
    recipe, k = context.recipe, max(context.recipe.eval.k)
    if model is None:
        frame = read_lists(context.run / layout.zero_shot_lists(split)).filter(pl.col("rank") <= k)
    else:
        frame = baseline_lists(model, examples, recipe.data.history, k, recipe.data.mask_seen)
    with atomic_write(context.work / layout.lists(name, split)) as partial:
        frame.write_parquet(partial)
    return frame


def _given(
    context: StageContext,
    given: dict[str, pl.DataFrame],
    split: str,
    examples: pl.DataFrame,
    catalogue: list[str],
) -> dict[str, pl.DataFrame]:
    """Return the lists of a split that were made elsewhere, and write them like a model's."""
    recipe, k = context.recipe, max(context.recipe.eval.k)
    found = {}
    for name, frame in given.items():
        lists = lists_of_split(frame, split, examples, catalogue, k, recipe.data.mask_seen, name)
        if lists is not None:
            found[name] = lists
            with atomic_write(context.work / layout.lists(name, split)) as partial:
                lists.write_parquet(partial)
    return found


def _per_user(lists: RecommendedLists, recipe: Recipe, metrics: Sequence[Metric]) -> pl.DataFrame:
    """One row per user: `user_id, target, rank`, the metrics, and the values by which slices group users."""
    cutoffs, examples = recipe.eval.k, lists.users
    ranks = target_ranks(lists.frame, examples, max(cutoffs))
    scored = score_ranks(ranks, cutoffs, rank_metrics(metrics))
    of_users = {
        f"{metric.name}@{k}": pl.Series(metric.of(lists, k), dtype=pl.Float64).fill_nan(None)
        for metric in user_metrics(metrics)
        for k in cutoffs
    }
    return scored.with_columns(**of_users).with_columns(examples["history_length", "item_frequency"])


def _add_split(
    report: dict[str, Any],
    split: str,
    users: dict[str, pl.DataFrame],
    lists: dict[str, RecommendedLists],
    context: StageContext,
    metrics: Sequence[Metric],
) -> None:
    """Add a split to `report`: its systems, the differences model − baseline and aligned model − SFT, its groups."""
    recipe = context.recipe
    cutoffs, examples = recipe.eval.k, next(iter(lists.values())).users
    names = metric_names(cutoffs, rank_metrics(metrics))
    draws = bootstrap_of(recipe)
    systems = summarise(users, [*names, *metric_names(cutoffs, user_metrics(metrics))], draws)
    for name, shown in lists.items():
        for metric in list_metrics(metrics):
            systems[name] |= {f"{metric.name}@{k}": rounded(metric.of(shown, k)) for k in cutoffs}
        systems[name]["invalid"] = count_invalid(
            shown.frame, examples, shown.catalogue.to_list(), max(cutoffs), shown.mask_seen
        )
        systems[name]["intervals"] = systems[name].pop("intervals")
    report[split] = systems
    models = [name for name in users if not is_baseline(name)]
    against = [*recipe.eval.baselines, *(name for name in users if name.startswith(GIVEN))]
    pairs: list[tuple[str, str]] = [(model, base) for model in models for base in against]
    pairs += [(model, SFT) for model in models if model in ALIGNED and SFT in models]
    report.setdefault("differences", {})[split] = differences(users, pairs, names, draws)
    slices = make_slices(examples, recipe, load_users(context.run))
    report.setdefault("slices", {})[split] = {
        entry.name: {
            label: summarise({s: u.filter(entry.labels == label) for s, u in users.items()}, names, draws)
            for label in entry.order
        }
        for entry in slices
    }
    k = shown_cutoff(cutoffs)
    gaps = fairness(users, slices, [f"hr@{k}", f"ndcg@{k}"], draws)
    report.setdefault("fairness", {})[split] = gaps


def _about(recipe: Recipe, name: str) -> dict[str, str]:
    """Return a baseline's title, and the formula of its scores."""
    if name == ZERO_SHOT:
        return {"title": recipe.eval.zero_shot.title, "formula": recipe.eval.zero_shot.formula}
    if name == TIGER:
        from llmrec.tiger.baseline import FORMULA, TITLE

        return {"title": TITLE, "formula": FORMULA}
    system = recipe.collaborative.of(name)
    return {"title": system.title or name, "formula": system.formula}


def _repeats(examples: pl.DataFrame) -> float:
    """Share of targets that occur in the user's history; they cannot be hit when seen items are masked."""
    return rounded(examples.select(pl.col("history").list.contains(pl.col("target")).mean()).item())


def _tell_repeats(share: float, split: str, mask_seen: bool) -> None:
    """Say how many targets no list can hold, because they are in the history and are masked."""
    if mask_seen and share:
        tell(
            "eval",
            f"{share:.1%} of the {split} targets occur in their user's history and are masked (data.mask_seen), "
            f"so HR cannot exceed {1 - share:.3f}",
        )


def _protocol(
    context: StageContext, items: ItemData, metrics: Sequence[Metric], left_out: dict[str, str]
) -> dict[str, Any]:
    """The settings behind the figures; `evaluate` adds each split's share of repeat targets."""
    recipe = context.recipe
    data = read_json(context.run / layout.DATA_REPORT)
    return {
        "split": data["split"],
        "splits": list(recipe.decode.splits),
        "users": recipe.decode.users,
        "catalogue": len(items.catalogue),
        "ranking": "full catalogue, one target a user",
        "mask_seen": recipe.data.mask_seen,
        "history": recipe.data.history,
        "k": recipe.eval.k,
        "seed": recipe.seed,
        "bootstrap": recipe.eval.bootstrap,
        "confidence": recipe.eval.confidence,
        "repeat_targets": {},
        # A data stage of an earlier version has not counted them.
        "tied_targets": {
            name: rounded(share)
            for name, share in data.get("tied_targets", {}).items()
            if name in recipe.decode.splits
        },
        "formulas": {metric.name: metric.formula for metric in metrics},
        "accuracy": [metric.name for metric in rank_metrics(metrics)],
        "left_out": left_out,
        "baselines": {name: _about(recipe, name) for name in recipe.eval.baselines}
        | {
            GIVEN + name: {"title": name, "formula": f"lists made elsewhere, read from {Path(path).name}"}
            for name, path in recipe.eval.lists.items()
        },
    }
