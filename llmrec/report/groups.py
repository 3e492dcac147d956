"""The report's sections beyond the main table: metrics other than accuracy, groups of users, the cost of lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmrec.config.registry import METRICS
from llmrec.data.tables.notes import short
from llmrec.evaluate.lists import is_baseline
from llmrec.evaluate.slices import OF_USER
from llmrec.evaluate.summary import order_by_metric
from llmrec.metrics.metric import metric_title
from llmrec.report.plots import Axes, Bar, grouped_bars
from llmrec.report.systems import style_of

TITLES = {
    "history_length": "length of the history",
    "item_frequency": "popularity of the target",
    "cold_items": "cold items and others",
    "cold_users": "cold users and others",
}
AXES = {
    "history_length": "items in the history",
    "item_frequency": "training interactions of the target",
    "cold_items": "training interactions of the target",
    "cold_users": "items in the history",
}
ACTIVITY, COLD, ATTRIBUTE = "activity", "cold", "attribute"
"""Sections of the report with slices."""
LABEL = 12
"""Most characters of a group's label in a chart."""
CHANCE = 0.1
"""From this probability on, chance is said to explain a gap."""


def beyond_accuracy(metrics: Mapping[str, Any], split: str, k: int) -> list[dict[str, Any]]:
    """Return the metrics of a split that are not functions of the target's rank, at one cutoff.

    Args:
        metrics: content of `eval/metrics.json`.
        split: `valid` or `test`.
        k: the cutoff.

    Returns:
        For each metric `name` (`novelty@10`)`, title, reading` (how to read it, empty for a metric of the user's own)
        and `cells`: per system its value (None if it is not defined) and the ends of its interval, or None.
    """
    values, protocol = metrics[split], metrics["protocol"]
    rows = []
    accuracy = accuracy_metrics(metrics, split, k)
    for measure, formula in protocol["formulas"].items():
        name = f"{measure}@{k}"
        if measure in accuracy:
            continue
        shipped = METRICS.load(measure) if measure in METRICS.shipped else None
        reading = shipped.reading if shipped is not None and shipped.formula == formula else ""
        cells = {system: (of[name], of["intervals"].get(name)) for system, of in values.items()}
        rows.append({"name": name, "title": metric_title(measure), "reading": reading, "cells": cells})
    return rows


def compared(metrics: Mapping[str, Any], split: str, k: int) -> list[str]:
    """Return the run's models, and the baseline with the highest NDCG, for tables that do not show all systems."""
    systems = order_by_metric(metrics[split], f"ndcg@{k}")
    best = next(filter(is_baseline, systems), None)
    return [name for name in systems if not is_baseline(name) or name == best]


def accuracy_metrics(metrics: Mapping[str, Any], split: str, k: int) -> list[str]:
    """Return the metrics that are functions of the target's rank; runs of earlier versions do not name them."""
    protocol, values = metrics["protocol"], next(iter(metrics[split].values()))
    names: list[str] = protocol.get("accuracy") or [
        name for name in protocol["formulas"] if f"{name}@{k}" in values["intervals"]
    ]
    return names


def slice_charts(slices: Mapping[str, Any], titles: Mapping[str, str], metric: str) -> list[dict[str, Any]]:
    """Return `section` (`slice_section`), `title` and `svg` of a chart of a metric for each division of the users."""
    charts = []
    for name, buckets in slices.items():
        if len(buckets) < 2:
            continue
        labels = [short(label, LABEL) for label in buckets]
        labels = labels if len(set(labels)) == len(buckets) else list(buckets)
        groups = {
            label: bars(values, titles, metric)
            for label, values in zip(labels, buckets.values(), strict=True)
        }
        notes = [f"{next(iter(values.values()))['users']:,} users" for values in buckets.values()]
        section = slice_section(name)
        title = f"{metric.upper()}{' of' if section == COLD else ' by'} {slice_title(name)}"
        axes = Axes(slice_axis(name), f"{metric.upper()}, mean over users", is_share=True)
        charts.append({"section": section, "title": title, "svg": grouped_bars(groups, title, axes, notes)})
    return charts


def undivided(slices: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return `section, title, axis` of each division that has all users in one group, and the group's `label`."""
    return [
        {
            "section": slice_section(name),
            "title": slice_title(name),
            "axis": slice_axis(name),
            "label": next(iter(groups)),
        }
        for name, groups in slices.items()
        if len(groups) == 1
    ]


def slice_section(name: str) -> str:
    """Return the section of the report that a slice belongs to."""
    if name.startswith(OF_USER):
        return ATTRIBUTE
    return COLD if name in ("cold_items", "cold_users") else ACTIVITY


def slice_title(name: str) -> str:
    """Return a slice's title in prose."""
    return TITLES.get(name) or slice_axis(name)


def slice_axis(name: str) -> str:
    """Return what is counted or named in the labels of a slice's groups."""
    return AXES.get(name) or f"{name.removeprefix(OF_USER)} of the user"


def fairness_rows(
    metrics: Mapping[str, Any], split: str, model: str | None, metric: str
) -> list[dict[str, Any]]:
    """Return how far apart groups of users are in a model's metric.

    Args:
        metrics: content of `eval/metrics.json`; a run of an earlier version has no such figures.
        split: `valid` or `test`.
        model: the model; None gives no rows.
        metric: such as `ndcg@10`.

    Returns:
        For each division of the users `title, lowest, highest` (label and mean)`, gap, interval, chance` (the
        probability of such a gap in random groups) and `is_chance`, whether that is at least 10 %.
    """
    gaps = metrics.get("fairness", {}).get(split, {})
    rows = []
    for name, systems in gaps.items():
        found = systems.get(model, {}).get(metric)
        if found is None:
            continue
        groups = metrics["slices"][split][name]
        lowest, highest = (
            (label, groups[label][model][metric]) for label in (found["lowest"], found["highest"])
        )
        rows.append(
            {
                "title": slice_title(name),
                "lowest": lowest,
                "highest": highest,
                "gap": found["gap"],
                "interval": found["interval"],
                "chance": found["p"],
                "is_chance": found["p"] >= CHANCE,
            }
        )
    return rows


def bars(values: Mapping[str, Any], titles: Mapping[str, str], metric: str) -> list[Bar]:
    """Return a metric of each system with its interval, as the bars of a chart."""
    found = []
    for name, title in titles.items():
        low, high = values[name]["intervals"][metric]
        found.append(Bar(title, values[name][metric], low, high, style_of(name).name))
    return found


def cost_of_lists(
    decoded: Mapping[str, Any] | None, manifest: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return what the lists of the run's models cost, if the decode stage searched all of them itself.

    Args:
        decoded: content of `decode/report.json`.
        manifest: manifest of the stage `decode`.

    Returns:
        `lists`, `seconds` of the stage, its start included, `seconds_per_1000`, and `peak_memory_mb`; None if lists
        were taken from another decoding, or the stage has not run.
    """
    if decoded is None or manifest is None or manifest.get("notes", {}).get("taken"):
        return None
    lists = sum(of["users"] * len(of["certified"]) for of in decoded["splits"].values())
    if not lists:
        return None
    seconds = float(manifest["seconds"])
    return {
        "lists": lists,
        "seconds": seconds,
        "seconds_per_1000": 1000 * seconds / lists,
        "peak_memory_mb": manifest["peak_memory_mb"],
    }
