"""A comparison of runs as a table of the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from llmrec.evaluate.compare import Comparison
from llmrec.metrics.statistics import format_estimate

HOLDS = "✓"
"""Mark of a difference that is told from chance."""


def comparison_table(comparison: Comparison) -> Table:
    """Format a comparison as a table: means (± standard deviation over seeds) and paired differences."""
    reference = f"{comparison.against} of the same run" if comparison.against else "the first run"
    paired = [name for name in comparison.metrics if any(name in row.differences for row in comparison.rows)]
    about = f"; Δ against {reference}, paired over the same users" if paired else ""
    table = Table(title=f"{comparison.split} split{about}")
    table.add_column("run")
    table.add_column("system")
    for name in comparison.metrics:
        table.add_column(name.upper(), justify="right")
        if name in paired:
            table.add_column("Δ", justify="right")
    for row in comparison.rows:
        label = row.runs[0] if len(row.runs) == 1 else f"{row.runs[0]} … ({len(row.runs)} seeds)"
        cells = []
        for name in comparison.metrics:
            deviation = f" ± {row.deviations[name]:.4f}" if row.deviations else ""
            cells.append(f"{row.values[name]:.4f}{deviation}")
            if name in paired:
                mark = f" {HOLDS}" if comparison.holds(row, name) else ""
                cells.append(_difference(*row.differences[name]) + mark if name in row.differences else "")
        table.add_row(label, row.system, *cells)
    table.caption = "\n".join([*_legend(comparison, paired), *comparison.cautions]) or None
    return table


def _legend(comparison: Comparison, paired: Sequence[str]) -> list[str]:
    """Say what the mark behind a difference means, and why an interval alone is not enough."""
    count = max((comparison.compared(name) for name in paired), default=0)
    if not count:
        return []
    level = 1 - comparison.confidence
    together = "" if count == 1 else f", although {count} differences were looked at together"
    rule = f"{level:.0%} level" if count == 1 else f"Holm, {level:.0%}"
    if not any(comparison.holds(row, name) for row in comparison.rows for name in paired):
        seen = "the difference" if count == 1 else f"none of the {count} differences"
        return [f"{seen} is {'not ' if count == 1 else ''}told from chance ({rule})"]
    told = f"{HOLDS}: told from chance{together} ({rule})"
    if count == 1:
        return [told]
    luck = f"one in {1 / level:.0f} is, where nothing differs"
    return [told, f"without {HOLDS} an interval beside 0 can be luck: {luck}"]


def _difference(gap: float, low: float, high: float) -> str:
    """A difference with its interval; a word where it is 0 for every user, as for an opponent that two runs share."""
    if gap == low == high == 0:
        return "the same"
    return escape(format_estimate(gap, (low, high), signed=True))
