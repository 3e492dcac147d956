"""Draw README's figure from committed results: NDCG@10 by system with 95 % intervals, test users of two datasets.

    python eval/figure.py            # writes docs/figures/ndcg.svg
    python eval/figure.py other.svg

The figures are those of README's tables. To show others, edit `PANELS`. The same files give the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from llmrec.report.plots import axis_ticks

ROOT = Path(__file__).resolve().parents[1]
RESULTS, FIGURE = ROOT / "eval/results", ROOT / "docs/figures/ndcg.svg"
METRIC = "ndcg@10"


class Source(NamedTuple):
    """Where the figures of one system are.

    Attributes:
        label: name of the system in the figure.
        file: file in `eval/results/`.
        keys: keys that lead to a mapping with `ndcg@10` and `intervals`, with `/` between them; a number is a place
            in a list.
        is_ours: whether the system is our language model alone, which is drawn in colour.
    """

    label: str
    file: str
    keys: str
    is_ours: bool = False


OPPONENTS = {
    "mixture": "mixture",
    "succession": "sequential rules",
    "recent_knn": "item-kNN, recency",
    "sasrec_plus": "SASRec, averaged",
    "sasrec_ce": "SASRec",
    "sasrec_bce": "SASRec, binary",
    "item_knn": "item-kNN",
    "popularity": "popularity",
}
"""System → label, in the order of a panel."""


def _model(label: str, file: str) -> Source:
    return Source(label, file, "metrics/test/sft", is_ours=True)


def _opponents(file: str, without: str = "") -> tuple[Source, ...]:
    return tuple(
        Source(label, file, f"metrics/test/{name}") for name, label in OPPONENTS.items() if name != without
    )


PANELS = {
    "MovieLens-100K": (
        _model("llmrec quickstart", "quickstart.json"),
        _model("llmrec, SmolLM2", "movielens-smollm2.json"),
        *_opponents("quickstart.json", without="sasrec_plus"),
    ),
    "Amazon Beauty": (
        _model("llmrec beauty-tiny", "beauty-own-code.json"),
        _model("llmrec, SmolLM2", "beauty-smollm2.json"),
        _model("llmrec (SASRec)", "beauty-sasrec-teacher.json"),
        _model("llmrec, no teacher", "beauty-untaught-own-code.json"),
        *_opponents("beauty-tiny.json"),
    ),
}

WIDTH, TOP, ROW, BOTTOM = 800, 62, 25, 46
LABELS, PLOT, VALUES = 138, 196, 46  # the columns of a panel
MARGIN = 8
PANEL = LABELS + PLOT + VALUES
# An image on a page does not know the page's colours, so it brings a background of its own.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f; }
.paper { fill: #f6f8fa; } .grid { stroke: #d0d7de; } .tick { font-size: 11px; fill: #57606a; }
.head { font-size: 15px; font-weight: 600; } .other { stroke: #6e7781; fill: #6e7781; }
.ours { stroke: #bc4c00; fill: #bc4c00; } text.ours, text.other { stroke: none; }
text.ours { font-weight: 600; } text.other { fill: #24292f; }
@media (prefers-color-scheme: dark) {
text, text.other { fill: #e6edf3; } .paper { fill: #1c2128; } .grid { stroke: #3d444d; } .tick { fill: #9da7b1; }
.other { stroke: #9da7b1; fill: #9da7b1; } .ours, text.ours { stroke: #ffa657; fill: #ffa657; }
text.ours, text.other { stroke: none; }
}
"""


class Row(NamedTuple):
    """One system: its value, the ends of its interval, and the number of users."""

    source: Source
    value: float
    low: float
    high: float
    users: int


def read_rows(sources: tuple[Source, ...]) -> list[Row]:
    """Read the figures of one panel, best first.

    Raises:
        KeyError: a file has no such key.
    """
    rows = []
    for source in sources:
        node: Any = json.loads((RESULTS / source.file).read_text("utf-8"))
        for key in source.keys.split("/"):
            node = node[int(key)] if isinstance(node, list) else node[key]
        rows.append(Row(source, node[METRIC], *node["intervals"][METRIC], node["users"]))
    return sorted(rows, key=lambda row: -row.value)


def short(value: float) -> str:
    """Format a figure as the tables do: `.0518`."""
    return f"{value:.4f}".removeprefix("0")


def draw(panels: dict[str, list[Row]]) -> str:
    """Draw the panels side by side, as the text of an SVG file."""
    height = TOP + ROW * max(len(rows) for rows in panels.values()) + BOTTOM
    size = {"width": str(WIDTH), "height": str(height), "viewBox": f"0 0 {WIDTH} {height}"}
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img"})
    ET.SubElement(root, "title").text = "NDCG@10 by system, with 95 % intervals"
    ET.SubElement(root, "desc").text = ". ".join(_described(name, rows) for name, rows in panels.items())
    ET.SubElement(root, "style").text = STYLE
    _add(root, "rect", "paper", width=WIDTH, height=height, rx=8)
    for number, (name, rows) in enumerate(panels.items()):
        _draw_panel(root, name, rows, MARGIN if number == 0 else WIDTH - MARGIN - PANEL)
    ours = (
        "Orange: our language model alone. Bars: 95 % intervals over users. Each dataset has its own scale."
    )
    _add(root, "text", "tick", ours, x=WIDTH / 2, y=height - 10, text_anchor="middle")
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def _described(name: str, rows: list[Row]) -> str:
    return f"{name}: " + ", ".join(f"{row.source.label} {short(row.value)}" for row in rows)


def _draw_panel(root: ET.Element, name: str, rows: list[Row], left: float) -> None:
    start, bottom = left + LABELS, TOP + ROW * len(rows)
    ticks = axis_ticks(0.0, max(row.high for row in rows))
    scale = PLOT / ticks[-1]
    _add(root, "text", "head", name, x=start, y=26)
    _add(root, "text", "tick", f"NDCG@10, all {rows[0].users:,} test users", x=start, y=44)
    digits = max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)
    for tick in ticks:
        x, text = start + tick * scale, f"{tick:.{digits}f}".removeprefix("0") if tick else "0"
        _add(root, "line", "grid", x1=x, x2=x, y1=TOP - 6, y2=bottom)
        _add(root, "text", "tick", text, x=x, y=bottom + 15, text_anchor="middle")
    for place, row in enumerate(rows):
        y, style = TOP + ROW * (place + 0.5), "ours" if row.source.is_ours else "other"
        _add(root, "text", style, row.source.label, x=start - 10, y=y + 4.5, text_anchor="end")
        low, high = start + row.low * scale, start + row.high * scale
        ends = "".join(f"M{x:.2f} {y - 5:g}v10" for x in (low, high))
        _add(root, "path", style, d=f"M{low:.2f} {y:g}H{high:.2f}{ends}", stroke_width=1.5)
        _add(root, "circle", style, cx=start + row.value * scale, cy=y, r=4 if row.source.is_ours else 3)
        _add(root, "text", style, short(row.value), x=start + PLOT + VALUES, y=y + 4.5, text_anchor="end")


def _add(root: ET.Element, tag: str, style: str, text: str | None = None, **attributes: float | str) -> None:
    named = {
        key.replace("_", "-"): value if isinstance(value, str) else f"{round(value, 2):g}"
        for key, value in attributes.items()
    }
    ET.SubElement(root, tag, {"class": style, **named}).text = text


def render() -> str:
    """Return the figure of the committed results."""
    return draw({name: read_rows(sources) for name, sources in PANELS.items()})


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(), "utf-8")
    print(target)
