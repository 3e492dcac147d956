"""Parallel coordinates as inline SVG: one vertical axis for each setting of a search, one line for each trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from llmrec.report.plots import Canvas, axis_ticks

WIDTH, HEIGHT = 920.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 70.0, 34.0, 16.0
SHOWN = 22
"""Characters of a name or a choice that are shown."""


@dataclass(frozen=True)
class Axis:
    """One vertical axis.

    Attributes:
        name: its name.
        ticks: labels and their places, from 0 at the bottom to 1 at the top.
    """

    name: str
    ticks: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        places: its place on each axis, 0 to 1, from the left; it may end before the last axis.
        style: CSS classes that colour it.
        tip: text for the tooltip.
    """

    places: tuple[float, ...]
    style: str
    tip: str


def place_of(parameter: Mapping[str, Any], value: str) -> float:
    """Return the place of a value on the axis of a searched key, 0 to 1.

    Args:
        parameter: `choices`; or `low`, `high` and `logarithmic`.
        value: the value, as in an override.
    """
    if "choices" in parameter:
        choices = parameter["choices"]
        return (choices.index(value) + 0.5) / len(choices)
    scale = math.log if parameter["logarithmic"] else float
    low, high = scale(parameter["low"]), scale(parameter["high"])
    return (scale(float(value)) - low) / (high - low)


def axis_of(parameter: Mapping[str, Any]) -> Axis:
    """Return the axis of a searched key: its choices, or both ends and the middle of its range."""
    if "choices" in parameter:
        texts = parameter["choices"]
        return Axis(parameter["key"], tuple((text, place_of(parameter, text)) for text in texts))
    low, high = parameter["low"], parameter["high"]
    middle = math.sqrt(low * high) if parameter["logarithmic"] else (low + high) / 2
    ends = ((low, 0.0), (middle, 0.5), (high, 1.0))
    return Axis(parameter["key"], tuple((f"{value:.3g}", place) for value, place in ends))


def value_axis(name: str, values: Sequence[float]) -> tuple[Axis, list[float]]:
    """Return the axis of the metric, and the place of each value on it."""
    ticks = axis_ticks(min(values), max(values), is_share=True)
    span = ticks[-1] - ticks[0]
    labelled = tuple((f"{tick:g}", (tick - ticks[0]) / span) for tick in ticks)
    return Axis(name, labelled), [(value - ticks[0]) / span for value in values]


def parallel_coordinates(axes: Sequence[Axis], lines: Sequence[Line], label: str) -> Markup:
    """Draw lines across vertical axes; later lines lie above earlier ones.

    Args:
        axes: two or more.
        lines: the lines.
        label: what the chart shows, for screen readers.
    """
    canvas = Canvas(label, WIDTH, HEIGHT)
    step = (WIDTH - LEFT - RIGHT) / (len(axes) - 1)

    def to_canvas(index: int, place: float) -> tuple[float, float]:
        return LEFT + index * step, HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)

    for index, axis in enumerate(axes):
        x = to_canvas(index, 0.0)[0]
        canvas.add("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid")
        canvas.add("text", _short(axis.name), x=x, y=TOP - 18, text_anchor="middle", class_="label")
    for line in lines:
        corners = [to_canvas(index, place) for index, place in enumerate(line.places)]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in corners)
        canvas.add("polyline", points=path, class_=f"way {line.style}", tip=line.tip)
    for index, axis in enumerate(axes):  # above the lines, so that they can be read
        for text, place in axis.ticks:
            x, y = to_canvas(index, place)
            canvas.add("text", _short(text), x=x - 6, y=y + 4, text_anchor="end", class_="tick")
    return canvas.render()


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
