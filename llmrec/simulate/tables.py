"""Tables of a simulated user's agreement with real users, and of what it takes from systems' lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from llmrec.metrics.statistics import format_estimate
from llmrec.simulate.agreement import FINDS, HIT, SIMULATOR, TAKES, WITH, WITHOUT


def agreement_table(figures: Mapping[str, Any], model: str, users: int, items: int) -> Table:
    """How often the held-out item of a slate is found, by the simulated user, by systems and by chance.

    Args:
        figures: the result of `llmrec.simulate.agreement.agreement`.
        model: the language model.
        users: number of users.
        items: number of items of a slate.
    """
    found = figures[FINDS]
    table = Table(title=f"agreement with {users:,} users: the held-out item among {items - 1} never touched")
    for column in ("", "finds it", "simulator − this"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(f"simulator, {escape(model)}", _shown(found[SIMULATOR]), "")
    for system, gap in found["differences"].items():
        table.add_row(escape(system), _shown(found[system]), _shown(gap, signed=True))
    table.add_row("chance", f"{found['chance']:.4f}", "")
    return table


def finds_line(figures: Mapping[str, Any]) -> str:
    """Return how often the simulated user finds the held-out item, beside chance, in one line."""
    found = figures[FINDS]
    return f"agreement: finds the held-out item {_plain(found[SIMULATOR])}, chance {found['chance']:.4f}"


def takes_line(figures: Mapping[str, Any]) -> str:
    """Return how often the simulated user takes something with and without the held-out item, in one line."""
    taken = figures[TAKES]
    return (
        f"agreement: takes an item in {_plain(taken[WITH])} with the held-out item, in {_plain(taken[WITHOUT])} "
        f"without it; difference {_plain(taken['difference'], signed=True)}, chance 0"
    )


def use_table(figures: Mapping[str, Any], items: int) -> Table:
    """What the simulated user takes from systems' lists, beside the real hits.

    Args:
        figures: the result of `llmrec.simulate.agreement.use`.
        items: number of first items of each list that are offered.
    """
    ((first, gaps),) = figures["differences"].items()
    table = Table(title=f"the first {items} items of each list")
    for column in ("", "simulated click rate", f"real HR@{items}"):
        table.add_column(column, justify="right" if column else "left")
    for system, entry in figures["systems"].items():
        table.add_row(escape(system), _shown(entry[TAKES]), _shown(entry[HIT]))
    for other, gap in gaps.items():
        cells = (_shown(gap[name], signed=True) for name in (TAKES, HIT))
        table.add_row(escape(f"{first} − {other}"), *cells)
    return table


def read_line(quality: Mapping[str, Any]) -> str:
    """Return one line about how well the answers could be read.

    Args:
        quality: the result of `llmrec.simulate.agreement.read_quality`.
    """
    how = f"{quality['log_probs']:.0%} of {quality['asked']:,} answers read by log-probabilities"
    mass = (
        ""
        if quality["mass"] is None
        else f", in which the letters have {quality['mass']:.1%} of the probability"
    )
    return f"{how}{mass}; {quality['unparsable']:,} name no option, and count as taking nothing"


def _plain(entry: Mapping[str, Any], signed: bool = False) -> str:
    """Return a figure with its interval."""
    return format_estimate(entry["value"], entry["interval"], signed=signed)


def _shown(entry: Mapping[str, Any], signed: bool = False) -> str:
    """Return a figure with its interval, for a cell of a table."""
    return escape(_plain(entry, signed))
