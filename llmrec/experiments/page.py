"""The page of a sweep: parallel coordinates, the best value by trial, and all trials. One offline file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llmrec.experiments.parallel import Line, axis_of, parallel_coordinates, place_of, value_axis
from llmrec.report.page.render import page_template
from llmrec.report.plots import Axes, line_chart


def render(name: str, command: str, figures: Mapping[str, Any]) -> str:
    """Return the page as HTML.

    Args:
        name: name of the sweep.
        command: the command that made it.
        figures: content of `figures` in the sweep's `figures.json`; at least one trial is complete.
    """
    trials = figures["trials"]
    complete = sorted(
        (trial for trial in trials if trial["value"] is not None), key=lambda trial: -trial["value"]
    )
    others = [trial for trial in trials if trial["value"] is None]
    metric = figures["metric"].partition(".")[2].upper()
    return page_template(Path(__file__).parent).render(
        name=name,
        command=command,
        metric=metric,
        figures=figures,
        best=complete[0],
        rows=[*complete, *others],
        counts={state: sum(trial["state"] == state for trial in trials) for state in ("pruned", "failed")},
        ways=_ways(figures, metric),
        course=_course(figures, metric),
        styles=[],
    )


def _ways(figures: Mapping[str, Any], metric: str) -> Markup:
    """Draw all trials that are complete or pruned; a pruned one ends before the axis of the metric."""
    parameters, trials = figures["parameters"], figures["trials"]
    values = [trial["value"] for trial in trials if trial["value"] is not None]
    axis, places = value_axis(metric, values)
    of_value = iter(places)
    lines = []
    for trial in trials:
        way = [place_of(parameter, trial["values"][parameter["key"]]) for parameter in parameters]
        settings = ", ".join(f"{key} {value}" for key, value in trial["values"].items())
        if trial["value"] is not None:
            style = "g0 best" if trial["number"] == figures["best"] else "g1"
            tip = f"trial {trial['number']}: {metric} {trial['value']:.4f}; {settings}"
            lines.append(Line((*way, next(of_value)), style, tip))
        elif trial["state"] == "pruned":
            lines.append(Line(tuple(way), "other pruned", f"trial {trial['number']}: pruned; {settings}"))
    lines.sort(key=lambda line: line.style, reverse=True)  # pruned ones lowest, the best one on top
    axes = [*map(axis_of, parameters), axis]
    return parallel_coordinates(axes, lines, f"Settings and {metric} of every trial")


def _course(figures: Mapping[str, Any], metric: str) -> Markup:
    """Draw the values of complete trials, and the best so far, by number of the trial."""
    points = [(trial["number"], trial["value"]) for trial in figures["trials"] if trial["value"] is not None]
    best = itertools.accumulate((value for _, value in points), max)
    lines = {"trial": points, "best so far": list(zip((x for x, _ in points), best, strict=True))}
    axes = Axes("trial", metric, is_share=True)
    return line_chart(lines, f"{metric} by trial, and the best so far", axes, ("other", "g0"))
