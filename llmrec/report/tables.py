"""A run's metrics as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from llmrec.evaluate.summary import order_by_metric, systems_of
from llmrec.report.verdict import shown_cutoff


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
    for system in order_by_metric(systems, f"ndcg@{shown_cutoff(metrics['protocol'])}"):
        values = systems[system]
        cells = [_emphasised(values[name], best[name]) for name in names]
        table.add_row(system, *cells, str(values["users"]), str(values["invalid"]))
    return table


def _emphasised(value: float, best: float) -> str:
    return f"[bold]{value:.4f}[/bold]" if value == best > 0 else f"{value:.4f}"
