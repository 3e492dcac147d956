"""Prints tables on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def show(table: Table) -> None:
    """Print a compact table. Figures are never truncated; a narrow terminal wraps the lines."""
    table.box = box.SIMPLE_HEAD
    table.padding = (0, 1)
    table.pad_edge = False
    table.collapse_padding = True
    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(width=max(console.width, needed)).print(table)
