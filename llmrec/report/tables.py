"""A run's metrics as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from llmrec.evaluate.summary import order_by_metric, shown_cutoff, systems_of
from llmrec.report.groups import beyond_accuracy, compared


def metrics_table(metrics: dict[str, Any], split: str) -> Table:
    """HR and NDCG of every system of a run on one split, the best baseline first; the best value of a column is bold.

    Args:
        metrics: content of `eval/metrics.json`.
        split: `valid` or `test`.

    Raises:
        UserError: the split was not evaluated.
    """
    systems = systems_of(metrics, split, "metrics")
    names = [f"{measure}@{k}" for measure in ("hr", "ndcg") for k in metrics["protocol"]["k"]]
    table = Table(title=f"{split} split, full catalogue")
    table.add_column("system")
    for name in [*names, "users", "invalid"]:
        table.add_column(name.upper() if "@" in name else name, justify="right")
    best = {name: max(values[name] for values in systems.values()) for name in names}
    for system in order_by_metric(systems, f"ndcg@{shown_cutoff(metrics['protocol']['k'])}"):
        values = systems[system]
        cells = [_emphasised(values[name], best[name]) for name in names]
        table.add_row(system, *cells, str(values["users"]), str(values["invalid"]))
    return table


def beyond_table(metrics: dict[str, Any], split: str, k: int) -> Table | None:
    """Metrics of a run's models other than accuracy, beside the baseline with the highest NDCG.

    Args:
        metrics: content of `eval/metrics.json`.
        split: `valid` or `test`.
        k: cutoff of the metrics.

    Returns:
        A row for each metric, and how to read it; None if the run has no such metric.
    """
    rows = beyond_accuracy(metrics, split, k)
    if not rows:
        return None
    systems = compared(metrics, split, k)
    table = Table(title=f"beyond accuracy, {split} split, first {k} items")
    table.add_column("")
    for system in systems:
        table.add_column(system, justify="right")
    table.add_column("how to read it")
    for row in rows:
        cells = [short_figure(row["cells"][system][0]) for system in systems]
        table.add_row(row["title"], *cells, row["reading"])
    return table


def short_figure(value: float | None) -> str:
    """Format a value with three significant digits, whole from 100 on; a missing one is a dash."""
    if value is None:
        return "–"
    return (f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}").replace("-", "−")


def _emphasised(value: float, best: float) -> str:
    return f"[bold]{value:.4f}[/bold]" if value == best > 0 else f"{value:.4f}"
