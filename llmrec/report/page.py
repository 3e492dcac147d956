"""The report: one offline page that shows how well a run recommends, made only from the run's files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray

from llmrec import layout
from llmrec.artifacts import read_manifest
from llmrec.assets import last_part
from llmrec.config.former_keys import upgrade
from llmrec.data.examples import load_items
from llmrec.evaluate.lists import is_baseline
from llmrec.evaluate.summary import order_by_metric, shown_cutoff, shown_split
from llmrec.evaluate.tasks.scores import answers_shown
from llmrec.files import read_json
from llmrec.metrics.metric import metric_title
from llmrec.metrics.statistics import format_figure, format_interval
from llmrec.report.groups import (
    accuracy_metrics,
    bars,
    beyond_accuracy,
    compared,
    cost_of_lists,
    fairness_rows,
    slice_charts,
    undivided,
)
from llmrec.report.next_commands import evaluate_again_command
from llmrec.report.plots import Axes, code_tree, grouped_bars, line_chart, usage_chart
from llmrec.report.showcase import draw_users
from llmrec.report.systems import style_of, styles_of, system_titles
from llmrec.report.tables import short_figure
from llmrec.report.training_curves import alignment, shown_model
from llmrec.report.verdict import advice, judge
from llmrec.yaml_files import read_yaml

# Colours in the page's style sheet for categories of the code tree; all other categories are grey.
TREE_STYLES, OTHER_STYLE = ("g0", "g1", "g2", "g3", "g4"), "other"
MAIN = ("hr", "ndcg")
"""Metrics of the first table."""
FOLLOWING = ("recall", "precision", "f1", "map")
"""Metrics that follow from HR and MRR where a user has one target; the tables leave them out."""
LISTS = "valid_ndcg@10"
"""Metric of the validation lists in `sft/metrics.jsonl`."""


def render(run: Path, stages: Sequence[str]) -> str:
    """Return the page as HTML.

    Args:
        run: a run folder with `recipe.yaml`, `data/` and `eval/`; a sentence states each other part that is missing.
        stages: names of the stages whose manifests are shown, in order.

    Raises:
        UserError: the run is not evaluated.
    """
    metrics = read_json(run / layout.METRICS)
    protocol = metrics["protocol"]
    split, k = shown_split(protocol["splits"]), shown_cutoff(protocol["k"])
    systems = order_by_metric(metrics[split], f"ndcg@{k}")
    titles = system_titles(systems, protocol)  # in the order of systems, as are the charts
    models = [name for name in systems if not is_baseline(name)]
    shown = shown_model(run, models)
    verdicts = {model: judge(metrics, split, model, f"ndcg@{k}", titles) for model in models}
    aligned, answers = alignment(run), answers_shown(run)
    manifests = {name: manifest for name in stages if (manifest := read_manifest(run, name))}
    recipe, name = upgrade(read_yaml(run / layout.RECIPE)), run.resolve().name
    return page_template().render(
        recipe=recipe,
        recipe_text=(run / layout.RECIPE).read_text("utf-8"),
        run=name,
        base=last_part(recipe["base"]["model"]),
        command=shlex.join(["llmrec", "run", str(run.resolve() / layout.RECIPE), f"run={name}-again"]),
        again=evaluate_again_command(str(run.resolve()), "decode.mask_seen=false"),
        data=_optional_json(run / layout.DATA_REPORT),
        metrics=metrics,
        protocol=protocol,
        split=split,
        k=k,
        systems=[{"name": name, "title": titles[name], "style": style_of(name).name} for name in systems],
        styles=styles_of(systems),
        models=models,
        verdicts=sorted(verdicts.values(), key=lambda verdict: verdict.model != shown),
        advice=advice(run, metrics, verdicts[shown], str(run.resolve())) if shown else [],
        tables=_tables(metrics, protocol, split, k),
        beyond=beyond_accuracy(metrics, split, k),
        compared=compared(metrics, split, k),
        charts=_metric_charts(metrics[split], titles, protocol["k"], split),
        slices=slice_charts(metrics["slices"][split], titles, f"ndcg@{k}"),
        undivided=undivided(metrics["slices"][split]),
        gaps_of_groups=fairness_rows(metrics, split, shown, f"ndcg@{k}"),
        cost=cost_of_lists(_optional_json(run / layout.DECODE_REPORT), manifests.get("decode")),
        curve=_loss_curve(run),
        codes=_codes(run),
        texts=_texts(run),
        aligned=aligned,
        shown_title=titles[shown] if shown else None,
        cards=draw_users(run, shown, split, protocol) if shown else [],
        answers=answers,
        contents=_contents(bool(answers), aligned is not None),
        measures=[
            {"title": metric_title(name), "formula": formula}
            for name, formula in protocol["formulas"].items()
        ],
        baselines=[
            {"title": titles[name], "formula": baseline["formula"]}
            for name, baseline in protocol.get("baselines", {}).items()
        ],
        manifests=manifests,
        machines=_machines(manifests),
    )


def page_template(*folders: Path) -> Template:
    """Return `page.html.j2` of the first folder, else the report's, with the filters that format its figures."""
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": format_figure,
        "interval": format_interval,
        "short": short_figure,
        "count": "{:,}".format,
        "span": _span,
    }
    return environment.get_template("page.html.j2")


def _contents(answers: bool, aligned: bool) -> list[tuple[str, str]]:
    """Return anchors and titles of the page's sections."""
    return [
        ("metrics", "Metrics"),
        ("beyond", "Beyond accuracy"),
        ("groups", "Groups of users"),
        ("cold", "Cold start"),
        ("fairness", "Fairness"),
        ("hallucination", "Hallucination"),
        *([("answers", "Answers in words")] if answers else []),
        ("training", "Training"),
        *([("alignment", "Alignment")] if aligned else []),
        ("ids", "Semantic IDs"),
        ("users", "Users"),
        ("protocol", "Protocol and formulas"),
        ("provenance", "Provenance"),
    ]


def _machines(manifests: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return each machine that stages ran on, in words, with the names of these stages."""
    stages: dict[str, list[str]] = {}
    for name, manifest in manifests.items():
        about = manifest.get("machine")
        if about:
            parts = [about["cpu"], f"{about['cores']} cores", f"{about['memory_gb']:g} GB of memory"]
            parts += [about["gpu"]] if "gpu" in about else []
            stages.setdefault(", ".join(parts), []).append(name)
    return list(stages.items())


def _tables(metrics: dict[str, Any], protocol: dict[str, Any], main: str, k: int) -> dict[str, Any]:
    """Return the columns of the metric tables per split, the main split first.

    `main` are the metrics of `MAIN` at all cutoffs, as many as fit in the page's width; `further` are the other
    accuracy metrics that do not follow from them. A column has a cell per system.
    """
    further = [name for name in accuracy_metrics(metrics, main, k) if name not in (*MAIN, *FOLLOWING)]

    def names(measures: Iterable[str]) -> list[str]:
        return [f"{name}@{cut}" for name in measures for cut in protocol["k"]]

    splits = sorted(protocol["splits"], key=lambda split: split != main)
    return {
        split: {
            "main": [_column(metrics[split], name) for name in names(MAIN)],
            "further": [_column(metrics[split], name) for name in names(further)],
        }
        for split in splits
    }


def _column(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one column of a metric table. The best value of a ranking measure is marked.

    Args:
        values: metrics per system.
        name: the metric.
    """
    best = max(metrics[name] for metrics in values.values())
    cells = {
        system: {
            "value": metrics[name],
            "ends": metrics["intervals"][name],
            "best": metrics[name] == best > 0,
        }
        for system, metrics in values.items()
    }
    return {"name": name.upper(), "cells": cells}


def _metric_charts(
    values: dict[str, Any], titles: dict[str, str], cutoffs: list[int], split: str
) -> list[dict[str, Any]]:
    charts = []
    for measure in ("hr", "ndcg"):
        groups = {f"@{k}": bars(values, titles, f"{measure}@{k}") for k in cutoffs}
        name = measure.upper()
        label = f"{metric_title(measure)} at each cutoff, with intervals"
        axes = Axes("cutoff k", f"{name}@k, mean over users", is_share=True)
        charts.append({"title": f"{name}@k on {split}", "svg": grouped_bars(groups, label, axes)})
    return charts


def _loss_curve(run: Path) -> dict[str, Any] | None:
    """Charts of the loss, and of the NDCG@10 of validation lists, by epoch; None if the run logged no loss."""
    path = run / layout.training_log("sft")
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    names = {"training": "loss", "validation": "valid_loss"}
    curves = {
        name: [(line["epoch"], line[key]) for line in lines if key in line] for name, key in names.items()
    }
    if not any(curves.values()):
        return None
    last = {name: points[-1][1] for name, points in curves.items() if points}
    lowest = min(curves["validation"], key=lambda point: point[1]) if curves["validation"] else None
    title = "Training and validation loss by epoch"
    axes = Axes("epoch", "loss, nats a token")
    charts = [{"title": title, "svg": line_chart(curves, title, axes, ("train", "valid"))}]
    lists = [(line["epoch"], line[LISTS]) for line in lines if LISTS in line]
    if lists:
        title, axes = "NDCG@10 of validation lists by epoch", Axes("epoch", "NDCG@10", is_share=True)
        charts.append({"title": title, "svg": line_chart({"validation": lists}, title, axes, ("valid",))})
    return {"charts": charts, "last": last, "lowest": lowest, "steps": lines[-1]["step"]}


def _codes(run: Path) -> dict[str, Any] | None:
    """The diagnosis of the semantic IDs with its charts; None if the run has none."""
    report, path = _optional_json(run / layout.IDS_REPORT), run / layout.SIDS
    if report is None or not path.is_file():
        return None
    table = pl.read_parquet(path)
    if "sid" not in table.columns or "levels" not in report:
        return None
    sids = np.array(table["sid"].to_list(), dtype=np.int32)
    charts: list[tuple[dict[str, Any], Markup]] = []
    for index, level in enumerate(report["levels"]):
        counts = np.bincount(sids[:, index], minlength=level["codes"]).tolist()
        charts.append((level, usage_chart(counts, f"Items per code of level {level['name']}")))
    groups, names = _category_groups(run, table["item_id"], report.get("purity"))
    styles = (*TREE_STYLES[: len(names) - 1], OTHER_STYLE) if names else TREE_STYLES[:1]
    return {
        "report": report,
        "charts": charts,
        "columns": _level_columns(report),
        "tree": code_tree(sids, groups, names, styles, "The code tree, a row a level"),
        "groups": list(zip(styles, names, strict=True)) if names else [],
    }


def _texts(run: Path) -> int:
    """Number of items with textual IDs."""
    path = run / layout.SIDS
    table = pl.read_parquet(path) if path.is_file() else pl.DataFrame()
    return len(table) if "text" in table.columns else 0


def _category_groups(
    run: Path, items: pl.Series, purity: dict[str, Any] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return each item's group number, and the groups' names: the five largest categories, then all others.

    Items without categories form one group without a name.
    """
    table = load_items(run)
    if not purity or "categories" not in table.columns:
        return np.zeros(len(items), np.int64), []
    at_depth = pl.col("categories").list.get(purity["depth"] - 1, null_on_oob=True).cast(pl.String)
    categories = table.select(pl.col("item_id").cast(pl.String), category=at_depth)
    rows = pl.DataFrame({"item_id": items.cast(pl.String)})
    category = rows.join(categories, on="item_id", how="left", maintain_order="left")["category"]
    counts = pl.DataFrame({"category": category.drop_nulls()}).group_by("category").len()
    largest = counts.sort(["len", "category"], descending=[True, False])["category"].to_list()[
        : len(TREE_STYLES)
    ]
    number = {name: index for index, name in enumerate(largest)}
    groups = [number.get(name, len(largest)) for name in category.to_list()]
    return np.array(groups, np.int64), [*largest, "other or none"]


def _level_columns(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Columns of the level table: a heading, and one cell per level. Columns without figures are left out."""
    levels = report["levels"]
    purity = report.get("purity") or {"purity": [], "chance": []}
    pure = [f"{p:.2f} ({c:.2f})" for p, c in zip(purity["purity"], purity["chance"], strict=True)]
    columns = {
        "perplexity": [f"{level['perplexity']:,.0f}" for level in levels if "perplexity" in level],
        "prefixes": [f"{level['prefixes']['distinct']:,}" for level in levels if "prefixes" in level],
        "largest": [f"{level['prefixes']['largest']:,}" for level in levels if "prefixes" in level],
        "variance left": [f"{share:.3f}" for share in report.get("reconstruction_error") or []],
        "purity (chance)": pure,
    }
    return [(head, cells + ["–"] * (len(levels) - len(cells))) for head, cells in columns.items() if cells]


def _optional_json(path: Path) -> Any | None:
    return read_json(path) if path.is_file() else None


def _span(seconds: float) -> str:
    """Format seconds for the reader."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
