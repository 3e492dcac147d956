"""The report stage: one offline page that shows how well a run recommends, made from its files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmrec.artifacts import StageContext, atomic_write, read_json, read_manifest
from llmrec.collaborative.systems import BASELINES
from llmrec.evaluate.plots import Bar, grouped_bars, line_chart, usage_chart
from llmrec.evaluate.showcase import draw_users
from llmrec.evaluate.summary import order_systems
from llmrec.metrics.catalogue import FORMULAS
from llmrec.metrics.ranking import MEASURES
from llmrec.yaml_files import read_yaml

TITLES = {"sft": "SFT model", "popularity": "popularity", "item_knn": "item-kNN"}
SLICES = {
    "history_length": "length of the history, in items",
    "item_frequency": "training interactions of the target",
}
STAGES = ("data", "ids", "sft", "decode", "eval")


def run(context: StageContext) -> None:
    """Write `eval/report.html`.

    Raises:
        UserError: the run is not evaluated.
    """
    with atomic_write(context.work / "eval/report.html") as partial:
        partial.write_text(render(context.run), "utf-8")


def render(run: Path) -> str:
    """The page, as HTML.

    Args:
        run: a run folder with `recipe.yaml`, `data/` and `eval/`; what else is missing is said in a sentence.

    Raises:
        UserError: the run is not evaluated.
    """
    metrics = read_json(run / "eval/metrics.json")
    protocol = metrics["protocol"]
    split = "test" if "test" in protocol["splits"] else protocol["splits"][0]
    systems = order_systems(metrics[split])
    models = [name for name in systems if name not in BASELINES]
    k = 10 if 10 in protocol["k"] else max(protocol["k"])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "signed": _signed, "count": "{:,}".format, "span": _span}
    return environment.get_template("report.html.j2").render(
        recipe=read_yaml(run / "recipe.yaml"),
        recipe_text=(run / "recipe.yaml").read_text("utf-8"),
        run=run.name,
        data=_optional_json(run / "data/report.json"),
        metrics=metrics,
        protocol=protocol,
        split=split,
        k=k,
        systems=[{"name": name, "title": _title(name), "style": f"s{i}"} for i, name in enumerate(systems)],
        models=models,
        verdicts=[_verdict(metrics, split, model, f"ndcg@{k}") for model in models],
        rows=_rows(metrics, protocol, split, k),
        charts=_metric_charts(metrics[split], systems, protocol["k"]),
        slices=_slice_charts(metrics["slices"][split], systems, f"ndcg@{k}"),
        curve=_loss_curve(run),
        codes=_code_usage(run),
        cards=draw_users(run, models[0], split, protocol) if models else [],
        measures=MEASURES,
        catalogue_formulas=FORMULAS,
        manifests={name: found for name in STAGES if (found := read_manifest(run, name))},
    )


def _verdict(metrics: dict[str, Any], split: str, model: str, metric: str) -> dict[str, Any]:
    """How a model stands against each baseline, in words and figures."""
    own = metrics[split][model]
    against = []
    for baseline, gap in metrics["differences"][split].get(model, {}).items():
        low, high = gap["intervals"][metric]
        word = "beats" if low > 0 else "trails" if high < 0 else "cannot be told apart from"
        other = metrics[split][baseline][metric]
        against.append(
            {
                "title": _title(baseline),
                "word": word,
                "ratio": own[metric] / other if other else None,
                "gap": gap[metric],
                "interval": [low, high],
            }
        )
    clauses = [f"{one['word']} {one['title']}" for one in against]
    sentence = (
        f"The {_title(model)} {_joined(clauses)}" if clauses else f"The {_title(model)} has no baseline"
    )
    return {"model": model, "title": _title(model), "sentence": sentence, "against": against, "own": own}


def _rows(metrics: dict[str, Any], protocol: dict[str, Any], main: str, k: int) -> dict[str, Any]:
    """Per split, the main one first, the metric table's rows: a value and an interval a system."""
    # With one target a user, recall is the hit rate again.
    names = [
        f"{measure.name}@{cut}" for measure in MEASURES if measure.name != "recall" for cut in protocol["k"]
    ]
    splits = sorted(protocol["splits"], key=lambda split: split != main)
    return {
        split: [_row(metrics[split], name, name.endswith(f"@{protocol['k'][0]}")) for name in names]
        + [_row(metrics[split], f"{name}@{k}", first=name == "coverage") for name in FORMULAS]
        for split in splits
    }


def _row(values: dict[str, Any], name: str, first: bool) -> dict[str, Any]:
    """One line of the metric table; `first` begins a group. The best ranking value is marked."""
    best = max(one[name] for one in values.values())
    cells = {}
    for system, one in values.items():
        ends = one["intervals"].get(name)
        cells[system] = {
            "value": one[name],
            "ends": ends,
            "best": ends is not None and one[name] == best > 0,
        }
    measure, _, cutoff = name.partition("@")
    title = measure.capitalize() if measure in FORMULAS else measure.upper()
    return {"name": f"{title}@{cutoff}", "first": first, "cells": cells}


def _bars(values: dict[str, Any], systems: list[str], metric: str) -> list[Bar]:
    bars = []
    for index, name in enumerate(systems):
        low, high = values[name]["intervals"][metric]
        bars.append(Bar(_title(name), values[name][metric], low, high, f"s{index}"))
    return bars


def _metric_charts(values: dict[str, Any], systems: list[str], cutoffs: list[int]) -> list[dict[str, Any]]:
    charts = []
    for measure in MEASURES[:2]:
        groups = {f"@{k}": _bars(values, systems, f"{measure.name}@{k}") for k in cutoffs}
        label = f"{measure.title} at each cutoff, with intervals"
        charts.append({"title": f"{measure.name.upper()}@k", "svg": grouped_bars(groups, label)})
    return charts


def _slice_charts(slices: dict[str, Any], systems: list[str], metric: str) -> list[dict[str, Any]]:
    charts = []
    for name, buckets in slices.items():
        groups = {label: _bars(values, systems, metric) for label, values in buckets.items()}
        notes = [f"{values[systems[0]]['users']:,} users" for values in buckets.values()]
        title = f"{metric.upper()} by {SLICES[name]}"
        charts.append({"title": title, "svg": grouped_bars(groups, title, notes)})
    return charts


def _loss_curve(run: Path) -> dict[str, Any] | None:
    """Training and validation loss by epoch, or None where the run logged none."""
    path = run / "sft/metrics.jsonl"
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
    svg = line_chart(curves, "Training and validation loss by epoch", "epoch")
    return {"svg": svg, "last": last, "lowest": lowest, "steps": lines[-1]["step"]}


def _code_usage(run: Path) -> dict[str, Any] | None:
    """How many items share each code of each level, or None where the run has no semantic IDs."""
    report, path = _optional_json(run / "ids/report.json"), run / "ids/sids.parquet"
    if report is None or not path.is_file():
        return None
    sids = np.array(pl.read_parquet(path)["sid"].to_list())
    charts: list[tuple[dict[str, Any], Markup]] = []
    for index, level in enumerate(report["levels"]):
        counts = np.bincount(sids[:, index], minlength=level["codes"]).tolist()
        charts.append((level, usage_chart(counts, f"Items per code of level {level['name']}")))
    return {"report": report, "charts": charts}


def _optional_json(path: Path) -> Any | None:
    return read_json(path) if path.is_file() else None


def _title(system: str) -> str:
    return TITLES.get(system, system)


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _span(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
