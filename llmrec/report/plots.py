"""Charts as inline SVG: drawn by hand, coloured by the page's style sheet, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from llmrec.ids.tokens import level_letter

WIDTH, HEIGHT = 460.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 12.0, 40.0
# The code tree is drawn in columns: what is thinner than a few of them runs together.
TREE_COLUMNS, TREE_ROW, TREE_LEFT, TREE_WIDE = 1200, 56.0, 14.0, 4


@dataclass(frozen=True)
class Bar:
    """One bar: its value, the ends of its interval, and the CSS class that colours it."""

    name: str
    value: float
    low: float
    high: float
    style: str


class _Canvas:
    """An SVG under construction; every text and attribute is escaped by the serialiser."""

    def __init__(self, label: str, width: float = WIDTH, height: float = HEIGHT) -> None:
        box = f"0 0 {width:g} {height:g}"
        self.root = ET.Element("svg", {"viewBox": box, "role": "img", "aria-label": label})

    def add(
        self, tag: str, text: str | None = None, tip: str | None = None, **attributes: str | float
    ) -> ET.Element:
        named = {
            key.rstrip("_").replace("_", "-"): value if isinstance(value, str) else f"{value:.2f}"
            for key, value in attributes.items()
        }
        element = ET.SubElement(self.root, tag, named)
        element.text = text
        if tip is not None:
            ET.SubElement(element, "title").text = tip
        return element

    def render(self) -> Markup:
        return Markup(ET.tostring(self.root, encoding="unicode"))  # noqa: S704 - escaped by ElementTree


def grouped_bars(groups: Mapping[str, Sequence[Bar]], label: str, notes: Sequence[str] = ()) -> Markup:
    """Groups of bars with interval whiskers.

    Args:
        groups: label of each group and its bars.
        label: what the chart shows, for screen readers.
        notes: a second line under each group's label, such as its number of users.
    """
    canvas = _Canvas(label)
    ticks = axis_ticks(0.0, max((bar.high for bars in groups.values() for bar in bars), default=0.0))
    scale = (HEIGHT - TOP - BOTTOM) / ticks[-1]
    _horizontal_grid(canvas, [(tick, HEIGHT - BOTTOM - tick * scale) for tick in ticks])
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    for position, (name, bars) in enumerate(groups.items()):
        start = LEFT + position * room + room * 0.12
        step = room * 0.76 / len(bars)
        for index, bar in enumerate(bars):
            _bar(canvas, bar, start + index * step, step, scale)
        middle = LEFT + (position + 0.5) * room
        canvas.add("text", name, x=middle, y=HEIGHT - BOTTOM + 16, text_anchor="middle", class_="label")
        if notes:
            canvas.add(
                "text", notes[position], x=middle, y=HEIGHT - BOTTOM + 31, text_anchor="middle", class_="tick"
            )
    return canvas.render()


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], label: str, unit: str) -> Markup:
    """Lines over a common horizontal axis; the class of line number i is `line<i>`.

    Args:
        lines: name and points `(x, y)` of each line, at least one point in all.
        label: what the chart shows, for screen readers.
        unit: name of the horizontal axis.
    """
    canvas = _Canvas(label)
    points = [point for line in lines.values() for point in line]
    across = axis_ticks(0.0, max(x for x, _ in points))
    up = axis_ticks(min(y for _, y in points), max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)
        return right, HEIGHT - BOTTOM - (y - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)

    _horizontal_grid(canvas, [(tick, place(0, tick)[1]) for tick in up])
    for tick in across:
        x = place(tick, up[0])[0]
        canvas.add("text", f"{tick:g}", x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle", class_="tick")
    canvas.add("text", unit, x=(LEFT + WIDTH) / 2, y=HEIGHT - 6, text_anchor="middle", class_="label")
    for index, (name, line) in enumerate(lines.items()):
        placed = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in placed)
        canvas.add("polyline", points=path, class_=f"line line{index}", tip=name)
        if len(line) <= 60:
            for (x, y), (at, value) in zip(placed, line, strict=True):
                tip = f"{name}, {unit} {at:g}: {value:.4f}"
                canvas.add("circle", cx=x, cy=y, r=2.5, class_=f"dot line{index}", tip=tip)
    return canvas.render()


def usage_chart(counts: Sequence[int], label: str) -> Markup:
    """Items per code, codes sorted by use, with a dashed line where equal use would be."""
    width, height = 220.0, 84.0
    canvas = _Canvas(label, width, height)
    ordered = sorted(counts, reverse=True)
    peak, step = max(ordered), width / len(ordered)
    corners = [f"0,{height:g}"]
    for index, count in enumerate(ordered):
        y = height - (height - 4) * count / peak
        corners += [f"{index * step:.2f},{y:.2f}", f"{(index + 1) * step:.2f},{y:.2f}"]
    canvas.add("polygon", points=" ".join([*corners, f"{width:g},{height:g}"]), class_="area")
    even = height - (height - 4) * sum(ordered) / len(ordered) / peak
    canvas.add("line", x1=0.0, x2=width, y1=even, y2=even, class_="even")
    return canvas.render()


def code_tree(
    sids: NDArray[np.int32],
    groups: NDArray[np.int64],
    names: Sequence[str],
    styles: Sequence[str],
    label: str,
) -> Markup:
    """The first three levels of semantic IDs as an icicle: a row a level, a cell a prefix, as wide as its items.

    A cell has the colour of its items' most frequent group, paler (`p1`, `p0`) where that is less than 80 % or
    50 % of them. Cells side by side stand under one prefix, ordered by group and size; those too thin to tell
    apart run together.

    Args:
        sids: int32 `[items, levels]`.
        groups: each item's group, int64 `[items]`.
        names: of the groups; empty says that there is one, which is not named.
        styles: CSS class of each group.
        label: what the chart shows, for screen readers.
    """
    levels = min(3, sids.shape[1])
    canvas = _Canvas(label, TREE_LEFT + TREE_COLUMNS, levels * TREE_ROW)
    cells = [_Cells.of(sids[:, : level + 1], groups, len(styles)) for level in range(levels)]
    order = np.lexsort([found.rank[found.of_item] for found in reversed(cells)])
    shown = order[((np.arange(TREE_COLUMNS) + 0.5) / TREE_COLUMNS * len(sids)).astype(np.int64)]
    for level, found in enumerate(cells):
        letter, y = level_letter(level), level * TREE_ROW
        canvas.add("text", letter, x=0, y=y + TREE_ROW / 2 + 4, class_="label")
        for style, path in _tree_row(found, found.of_item[shown], styles, y).items():
            canvas.add("path", d=path, class_=f"cell {style}")
    _tree_tips(canvas, sids, cells[0], shown, names)
    return canvas.render()


@dataclass(frozen=True)
class _Cells:
    """The prefixes of one length: `of_item` names each item's; the rest is by prefix."""

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
    """For each style, the outline of one row's runs of columns that look the same."""
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
    canvas: _Canvas, sids: NDArray[np.int32], cells: _Cells, shown: NDArray[np.int64], names: Sequence[str]
) -> None:
    """Say what the cells of the first level are, where they are wide enough to point at."""
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


def axis_ticks(low: float, high: float) -> list[float]:
    """Round values, at most seven, whose first and last enclose `low` and `high`."""
    span = high - low
    if span <= 0:
        span = abs(high) or 1.0
        high = low + span
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= span / 5 * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _horizontal_grid(canvas: _Canvas, ticks: Sequence[tuple[float, float]]) -> None:
    for value, y in ticks:
        canvas.add("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        canvas.add("text", f"{value:g}", x=LEFT - 7, y=y + 4, text_anchor="end", class_="tick")


def _bar(canvas: _Canvas, bar: Bar, x: float, step: float, scale: float) -> None:
    base, middle = HEIGHT - BOTTOM, x + step / 2
    tip = f"{bar.name}: {bar.value:.4f} [{bar.low:.4f}, {bar.high:.4f}]"
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
