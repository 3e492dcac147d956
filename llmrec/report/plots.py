"""Charts as inline SVG. The page's style sheet colours them, so they follow light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from llmrec.ids.tokens import level_letter
from llmrec.metrics.statistics import format_estimate

WIDTH, HEIGHT = 460.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 68.0, 8.0, 12.0, 56.0
# The code tree is drawn in columns of one unit. Cells narrower than TREE_WIDE columns are not separated.
TREE_COLUMNS, TREE_ROW, TREE_LEFT, TREE_WIDE = 1200, 56.0, 54.0, 4
TREE_BOTTOM = 30.0
TEXT, TREE_TEXT = 12.0, 20.0
"""Sizes of text in a chart and in the code tree, as the style sheet has them."""


@dataclass(frozen=True)
class Axes:
    """Names of a chart's axes, with their units.

    Attributes:
        x: the horizontal axis.
        y: the vertical axis.
        is_share: whether the values are shares, which end at 1.
    """

    x: str
    y: str
    is_share: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: name of the system, for the tooltip.
        value: height of the bar.
        low: lower end of the interval.
        high: upper end of the interval.
        style: CSS class that colours the bar.
    """

    name: str
    value: float
    low: float
    high: float
    style: str


class Canvas:
    """An SVG under construction; every text and attribute is escaped by the serialiser."""

    def __init__(self, label: str, width: float = WIDTH, height: float = HEIGHT) -> None:
        box = f"0 0 {width:g} {height:g}"
        self.root = ET.Element("svg", {"viewBox": box, "role": "img", "aria-label": label})

    def add(
        self, tag: str, text: str | None = None, tip: str | None = None, **attributes: str | float
    ) -> ET.Element:
        """Add an element, with a tooltip if one is given, and return it."""
        named = {
            key.rstrip("_").replace("_", "-"): value if isinstance(value, str) else f"{value:.2f}"
            for key, value in attributes.items()
        }
        element = ET.SubElement(self.root, tag, named)
        element.text = text
        if tip is not None:
            ET.SubElement(element, "title").text = tip
        return element

    def name_axes(
        self, x: str, y: str, left: float, bottom: float, drop: float = 5.0, size: float = TEXT
    ) -> None:
        """Name both axes of a chart whose area begins `left` and ends `bottom` from the edges.

        The name of the horizontal axis stands `drop` above the lower edge. `size` is that of the style sheet.
        """
        width, height = (float(end) for end in self.root.attrib["viewBox"].split()[2:])
        middle = (height - bottom) / 2
        self.add("text", x, x=(left + width) / 2, y=height - drop, text_anchor="middle", class_="axis")
        edge = 0.92 * size  # a turned text stands left of its place, and must not leave the chart
        turn = f"rotate(-90 {edge:g} {middle:g})"
        self.add("text", y, x=edge, y=middle, text_anchor="middle", transform=turn, class_="axis")

    def render(self) -> Markup:
        """Return the SVG as text."""
        return Markup(ET.tostring(self.root, encoding="unicode"))  # noqa: S704 - escaped by ElementTree


def grouped_bars(
    groups: Mapping[str, Sequence[Bar]], label: str, axes: Axes, notes: Sequence[str] = ()
) -> Markup:
    """Draw groups of bars with interval whiskers.

    Args:
        groups: bars per group; the key is the group's label.
        label: what the chart shows, for screen readers.
        axes: names of the axes.
        notes: a second line under each group's label, such as its number of users.
    """
    canvas = Canvas(label)
    canvas.name_axes(axes.x, axes.y, LEFT, BOTTOM, 5.0 if notes else 20.0)
    ticks = axis_ticks(
        0.0, max((bar.high for bars in groups.values() for bar in bars), default=0.0), axes.is_share
    )
    scale = (HEIGHT - TOP - BOTTOM) / ticks[-1]
    _horizontal_grid(canvas, [(tick, HEIGHT - BOTTOM - tick * scale) for tick in ticks])
    group_width = (WIDTH - LEFT - RIGHT) / len(groups)
    for position, (name, bars) in enumerate(groups.items()):
        start = LEFT + position * group_width + group_width * 0.12
        step = group_width * 0.76 / len(bars)
        for index, bar in enumerate(bars):
            _bar(canvas, bar, start + index * step, step, scale)
        middle = LEFT + (position + 0.5) * group_width
        canvas.add("text", name, x=middle, y=HEIGHT - BOTTOM + 16, text_anchor="middle", class_="label")
        if notes:
            canvas.add(
                "text", notes[position], x=middle, y=HEIGHT - BOTTOM + 31, text_anchor="middle", class_="tick"
            )
    return canvas.render()


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]], label: str, axes: Axes, styles: Sequence[str]
) -> Markup:
    """Draw lines over a common horizontal axis.

    Args:
        lines: points `(x, y)` per line; the key is the line's name. There is at least one point.
        label: what the chart shows, for screen readers.
        axes: names of the axes.
        styles: CSS class of each line.
    """
    canvas = Canvas(label)
    points = [point for line in lines.values() for point in line]
    x_ticks = axis_ticks(0.0, max(x for x, _ in points))
    y_ticks = axis_ticks(min(y for _, y in points), max(y for _, y in points), axes.is_share)
    x_scale = (WIDTH - LEFT - RIGHT) / (x_ticks[-1] - x_ticks[0])
    y_scale = (HEIGHT - TOP - BOTTOM) / (y_ticks[-1] - y_ticks[0])

    def to_canvas(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x_ticks[0]) * x_scale, HEIGHT - BOTTOM - (y - y_ticks[0]) * y_scale

    _horizontal_grid(canvas, [(tick, to_canvas(0, tick)[1]) for tick in y_ticks])
    for tick in x_ticks:
        x = to_canvas(tick, y_ticks[0])[0]
        canvas.add("text", f"{tick:g}", x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle", class_="tick")
    canvas.name_axes(axes.x, axes.y, LEFT, BOTTOM, 20.0)
    for (name, line), style in zip(lines.items(), styles, strict=True):
        corners = [to_canvas(x, y) for x, y in line]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in corners)
        canvas.add("polyline", points=path, class_=f"line {style}", tip=name)
        if len(line) <= 60:
            for (x, y), (position, value) in zip(corners, line, strict=True):
                tip = f"{name}, {axes.x} {position:g}: {value:.4f}"
                canvas.add("circle", cx=x, cy=y, r=2.5, class_=f"dot {style}", tip=tip)
    return canvas.render()


def usage_chart(counts: Sequence[int], label: str) -> Markup:
    """Draw the items per code, codes sorted by use, with a dashed line at equal use.

    Args:
        counts: items of each code.
        label: what the chart shows, for screen readers.
    """
    width, height, left, bottom = 240.0, 132.0, 44.0, 36.0
    canvas = Canvas(label, width, height)
    canvas.name_axes("codes, most used first", "items", left, bottom)
    ordered = sorted(counts, reverse=True)
    base, top = height - bottom, 8.0
    peak, step = max(ordered), (width - left) / len(ordered)
    scale = (base - top) / peak
    corners = [f"{left:g},{base:g}"]
    for index, count in enumerate(ordered):
        y = base - count * scale
        corners += [f"{left + index * step:.2f},{y:.2f}", f"{left + (index + 1) * step:.2f},{y:.2f}"]
    canvas.add("polygon", points=" ".join([*corners, f"{width:g},{base:g}"]), class_="area")
    even = base - scale * sum(ordered) / len(ordered)
    canvas.add("line", x1=left, x2=width, y1=even, y2=even, class_="even")
    for text, y in (("0", base), (f"{peak:,}", top)):
        canvas.add("text", text, x=left - 5, y=y + 4, text_anchor="end", class_="tick")
    for text, x, anchor in (("1", left, "start"), (f"{len(ordered):,}", width, "end")):
        canvas.add("text", text, x=x, y=base + 14, text_anchor=anchor, class_="tick")
    return canvas.render()


def code_tree(
    sids: NDArray[np.int32],
    groups: NDArray[np.int64],
    names: Sequence[str],
    styles: Sequence[str],
    label: str,
) -> Markup:
    """Draw the first three levels of semantic IDs as an icicle: one row per level, one cell per prefix.

    A cell's width is the number of its items. Its colour is that of its most frequent group, paler (`p1`, `p0`) if
    the group has less than 80 % or 50 % of the items. The cells under one prefix are next to each other, ordered by
    group and size. Cells too narrow to distinguish are merged.

    Args:
        sids: int32 `[items, levels]`.
        groups: each item's group, int64 `[items]`.
        names: names of the groups; empty if there is one group without a name.
        styles: CSS class of each group.
        label: what the chart shows, for screen readers.
    """
    levels = min(3, sids.shape[1])
    canvas = Canvas(label, TREE_LEFT + TREE_COLUMNS, levels * TREE_ROW + TREE_BOTTOM)
    canvas.name_axes(
        f"all {len(sids):,} items, those of a prefix side by side",
        "level",
        TREE_LEFT,
        TREE_BOTTOM,
        size=TREE_TEXT,
    )
    cells = [_Cells.of(sids[:, : level + 1], groups, len(styles)) for level in range(levels)]
    order = np.lexsort([row.rank[row.of_item] for row in reversed(cells)])
    shown = order[((np.arange(TREE_COLUMNS) + 0.5) / TREE_COLUMNS * len(sids)).astype(np.int64)]
    for level, row in enumerate(cells):
        y = level * TREE_ROW
        canvas.add("text", level_letter(level), x=TREE_LEFT - 22, y=y + TREE_ROW / 2 + 6, class_="label")
        for style, path in _tree_row(row, row.of_item[shown], styles, y).items():
            canvas.add("path", d=path, class_=f"cell {style}")
    _tree_tips(canvas, sids, cells[0], shown, names)
    return canvas.render()


@dataclass(frozen=True)
class _Cells:
    """The cells of one row: all prefixes of one length.

    Attributes:
        of_item: int64 `[items]`, the cell of each item.
        size: int64 `[cells]`, number of items.
        group: int64 `[cells]`, the most frequent group.
        share: float64 `[cells]`, share of that group.
        rank: int64 `[cells]`, position in the order by group and size.
    """

    of_item: NDArray[np.int64]
    size: NDArray[np.int64]
    group: NDArray[np.int64]
    share: NDArray[np.float64]
    rank: NDArray[np.int64]

    @classmethod
    def of(cls, prefixes: NDArray[np.int32], groups: NDArray[np.int64], count: int) -> _Cells:
        of_item = np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1)
        table = np.bincount(of_item * count + groups, minlength=(int(of_item.max()) + 1) * count)
        table = table.reshape(-1, count)
        size, group = table.sum(axis=1), table.argmax(axis=1)
        rank = np.empty(len(size), np.int64)
        rank[np.lexsort((-size, group))] = np.arange(len(size))
        return cls(of_item, size, group, table.max(axis=1) / size, rank)

    def style(self, cell: int, styles: Sequence[str]) -> str:
        return f"{styles[self.group[cell]]} p{int(self.share[cell] >= 0.5) + int(self.share[cell] >= 0.8)}"


def _tree_row(cells: _Cells, columns: NDArray[np.int64], styles: Sequence[str], y: float) -> dict[str, str]:
    """For each style, the SVG path of one row's rectangles: runs of columns with the same look."""
    wide = cells.size[columns] / cells.size.sum() * TREE_COLUMNS >= TREE_WIDE
    look = [cells.style(cell, styles) for cell in columns.tolist()]
    changes = [
        i
        for i in range(1, len(look))
        if look[i] != look[i - 1] or (columns[i] != columns[i - 1] and (wide[i] or wide[i - 1]))
    ]
    paths: dict[str, list[str]] = {}
    for start, end in zip([0, *changes], [*changes, len(look)], strict=True):
        gap = 0.5 if wide[end - 1] else 0.0
        width = f"{end - start - gap:g}"
        piece = f"M{TREE_LEFT + start:g} {y + 1:g}h{width}v{TREE_ROW - 2:g}h-{width}z"
        paths.setdefault(look[start], []).append(piece)
    return {style: "".join(pieces) for style, pieces in sorted(paths.items())}


def _tree_tips(
    canvas: Canvas, sids: NDArray[np.int32], cells: _Cells, shown: NDArray[np.int64], names: Sequence[str]
) -> None:
    """Add tooltips to the cells of the first level that are wide enough to point at."""
    columns = cells.of_item[shown]
    starts = np.flatnonzero(np.r_[True, columns[1:] != columns[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(columns)], strict=True):
        if end - start < TREE_WIDE:
            continue
        cell = columns[start]
        tip = f"a {sids[shown[start], 0]}: {cells.size[cell]:,} items"
        if names:
            tip += f", {100 * cells.share[cell]:.0f}% {names[cells.group[cell]]}"
        canvas.add(
            "rect", x=TREE_LEFT + start, y=0, width=end - start, height=TREE_ROW, class_="touch", tip=tip
        )


LEAST_SPAN = 1e-9
"""Difference of values below which an axis takes them as the same."""


LEAST_SHARE = 0.01
"""Least span of an axis of shares."""


def axis_ticks(low: float, high: float, is_share: bool = False) -> list[float]:
    """Return at most seven round values; the first is at most `low`, the last is at least `high`.

    The axis of shares, whose values are all the same, is from 0 to 1, so that none goes beyond 1. Another one spans
    at least `LEAST_SHARE`: a smaller difference is none to look at, and its labels would be long.
    """
    span = high - low
    if is_share and LEAST_SPAN <= span < LEAST_SHARE:
        low = max(0.0, min((low + high - LEAST_SHARE) / 2, 1.0 - LEAST_SHARE))
        high = low + LEAST_SHARE
        span = LEAST_SHARE
    if span < LEAST_SPAN and is_share:
        low, high, span = 0.0, 1.0, 1.0
    if span < LEAST_SPAN:
        span = abs(high) if abs(high) >= LEAST_SPAN else 1.0
        high = low + span
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= span / 5 * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _horizontal_grid(canvas: Canvas, ticks: Sequence[tuple[float, float]]) -> None:
    for value, y in ticks:
        canvas.add("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        canvas.add("text", f"{value:g}", x=LEFT - 7, y=y + 4, text_anchor="end", class_="tick")


def _bar(canvas: Canvas, bar: Bar, x: float, step: float, scale: float) -> None:
    base, middle = HEIGHT - BOTTOM, x + step / 2
    tip = f"{bar.name}: {format_estimate(bar.value, (bar.low, bar.high))}"
    height = bar.value * scale
    canvas.add(
        "rect", x=x + 1, y=base - height, width=step - 2, height=height, class_=f"bar {bar.style}", tip=tip
    )
    top, bottom = base - bar.high * scale, base - bar.low * scale
    cap = min(4.0, step / 5)
    path = (
        f"M{middle:.2f} {top:.2f}V{bottom:.2f}"
        f"M{middle - cap:.2f} {top:.2f}h{2 * cap:.2f}M{middle - cap:.2f} {bottom:.2f}h{2 * cap:.2f}"
    )
    canvas.add("path", d=path, class_="whisker")
