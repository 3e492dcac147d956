"""The report: one offline page that shows how well a run recommends, made only from the run's files."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from llmrec import layout
from llmrec.artifacts import read_manifest
from llmrec.assets import last_part
from llmrec.config.former_keys import upgrade
from llmrec.evaluate.lists import is_baseline
from llmrec.evaluate.summary import order_by_metric, shown_cutoff, shown_split
from llmrec.evaluate.tasks.scores import answers_shown
from llmrec.files import read_json
from llmrec.metrics.metric import metric_title
from llmrec.metrics.statistics import format_figure, format_interval
from llmrec.progress.durations import format_duration
from llmrec.report.groups import (
    CHANCE,
    accuracy_metrics,
    bars,
    beyond_accuracy,
    compared,
    cost_of_lists,
    fairness_rows,
    slice_charts,
    undivided,
)
from llmrec.report.next_commands import train_again_command
from llmrec.report.page.semantic_ids import diagnosis, textual_ids
from llmrec.report.page.showcase import draw_users
from llmrec.report.page.training_curves import alignment, loss_curve
from llmrec.report.plots import Axes, grouped_bars
from llmrec.report.systems import shown_model, style_of, styles_of, system_titles
from llmrec.report.tables import short_figure
from llmrec.report.verdict import advice, judge
from llmrec.yaml_files import read_yaml

MAIN = ("hr", "ndcg")
"""Metrics of the first table."""
FOLLOWING = ("recall", "precision", "f1", "map")
"""Metrics that follow from HR and MRR where a user has one target; the tables leave them out."""


def render(run: Path, stages: Sequence[str]) -> str:
    """Return the page as HTML.

    Args:
        run: a run folder with `recipe.yaml`, `data/` and `eval/`; a sentence states each other part that is missing.
        stages: names of the stages whose manifests are shown, in order.

    Raises:
        UserError: the run is not evaluated.
    """
    results = _Results.read(run)
    return page_template().render(
        **_about_the_run(run),
        **_about_systems(results),
        **_verdict_part(results),
        **_metrics_part(results),
        **_groups_part(results),
        **_model_part(results),
        **_protocol_part(results.protocol, results.titles),
        **_provenance_part(run, stages),
    )


@dataclass(frozen=True)
class _Results:
    """The evaluation of a run, and what of it the page shows.

    Attributes:
        run: the run folder.
        metrics: content of `eval/metrics.json`.
        split: the split that is shown first.
        k: the cutoff of verdicts and charts.
        titles: system → its title, the best first.
        shown: the model that the run recommends with; None if no model was evaluated.
    """

    run: Path
    metrics: dict[str, Any]
    split: str
    k: int
    titles: dict[str, str]
    shown: str | None

    @classmethod
    def read(cls, run: Path) -> _Results:
        metrics = read_json(run / layout.METRICS)
        protocol = metrics["protocol"]
        split, k = shown_split(protocol["splits"]), shown_cutoff(protocol["k"])
        systems = order_by_metric(metrics[split], f"ndcg@{k}")
        models = [name for name in systems if not is_baseline(name)]
        return cls(run, metrics, split, k, system_titles(systems, protocol), shown_model(run, models))

    @property
    def protocol(self) -> dict[str, Any]:
        protocol: dict[str, Any] = self.metrics["protocol"]
        return protocol

    @property
    def metric(self) -> str:
        """The metric of verdicts and charts."""
        return f"ndcg@{self.k}"


def _about_the_run(run: Path) -> dict[str, Any]:
    """The heading of the page, and the commands that it names."""
    recipe, name = upgrade(read_yaml(run / layout.RECIPE)), run.resolve().name
    return {
        "recipe": recipe,
        "recipe_text": (run / layout.RECIPE).read_text("utf-8"),
        "run": name,
        "base": last_part(recipe["base"]["model"]),
        "command": shlex.join(["llmrec", "run", str(run.resolve() / layout.RECIPE), f"run={name}-again"]),
        "again": train_again_command(run.resolve(), str(run.resolve()), "data.mask_seen=false"),
        "data": _read_if_there(run / layout.DATA_REPORT),
    }


def _about_systems(results: _Results) -> dict[str, Any]:
    """What all sections refer to: the metrics, and the systems with their titles and colours, the best first."""
    return {
        "metrics": results.metrics,
        "protocol": results.protocol,
        "split": results.split,
        "k": results.k,
        "systems": [
            {"name": name, "title": title, "style": style_of(name).name}
            for name, title in results.titles.items()
        ],
        "styles": styles_of(list(results.titles)),
    }


def _verdict_part(results: _Results) -> dict[str, Any]:
    """The verdict on each model, first on the one that the run recommends with, and advice on that one."""
    metrics, split, shown = results.metrics, results.split, results.shown
    models = [name for name in results.titles if not is_baseline(name)]
    verdicts = {model: judge(metrics, split, model, results.metric, results.titles) for model in models}
    folder = str(results.run.resolve())
    return {
        "models": models,
        "verdicts": sorted(verdicts.values(), key=lambda verdict: verdict.model != shown),
        "advice": advice(results.run, metrics, verdicts[shown], folder) if shown else [],
        "shown_title": results.titles[shown] if shown else None,
    }


def _metrics_part(results: _Results) -> dict[str, Any]:
    """Tables and charts of the metrics, accuracy and what lies beyond it."""
    metrics, split, k, cutoffs = results.metrics, results.split, results.k, results.protocol["k"]
    return {
        "tables": _tables(metrics, results.protocol, split, k),
        "charts": _metric_charts(metrics[split], results.titles, cutoffs, split),
        "beyond": beyond_accuracy(metrics, split, k),
        "compared": compared(metrics, split, k),
    }


def _groups_part(results: _Results) -> dict[str, Any]:
    """Groups of users, the gaps between them, and what lists cost."""
    metrics, split = results.metrics, results.split
    decoded = _read_if_there(results.run / layout.DECODE_REPORT)
    return {
        "slices": slice_charts(metrics["slices"][split], results.titles, results.metric),
        "undivided": undivided(metrics["slices"][split]),
        "gaps_of_groups": fairness_rows(metrics, split, results.shown, results.metric),
        "chance": CHANCE,
        "cost": cost_of_lists(decoded, read_manifest(results.run, "decode")),
    }


def _model_part(results: _Results) -> dict[str, Any]:
    """How the models were trained, their semantic IDs, their answers in words and users; and the page's contents."""
    run, shown = results.run, results.shown
    aligned, answers = alignment(run), answers_shown(run)
    return {
        "curve": loss_curve(run),
        "aligned": aligned,
        "codes": diagnosis(run),
        "texts": textual_ids(run),
        "cards": draw_users(run, shown, results.split, results.protocol) if shown else [],
        "answers": answers,
        "contents": _contents(bool(answers), aligned is not None),
    }


def _protocol_part(protocol: dict[str, Any], titles: dict[str, str]) -> dict[str, Any]:
    """Formulas of the metrics and of the baselines."""
    baselines = protocol.get("baselines", {}).items()
    return {
        "measures": [
            {"title": metric_title(name), "formula": text} for name, text in protocol["formulas"].items()
        ],
        "baselines": [
            {"title": titles[name], "formula": baseline["formula"]} for name, baseline in baselines
        ],
    }


def _provenance_part(run: Path, stages: Sequence[str]) -> dict[str, Any]:
    """The manifests of the stages, and the machines that these ran on."""
    manifests = {name: manifest for name in stages if (manifest := read_manifest(run, name))}
    return {"manifests": manifests, "machines": _machines(manifests)}


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
        "duration": format_duration,
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


def _read_if_there(path: Path) -> Any | None:
    return read_json(path) if path.is_file() else None
