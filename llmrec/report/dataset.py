"""Prints a dataset as the data stage reads it: for `llmrec init` and `llmrec validate`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table as Screen
from rich.text import Text

from llmrec.data.guess.reading import Understood
from llmrec.data.source import Dataset
from llmrec.data.tables import read
from llmrec.data.tables.described import EVENT_FIELDS, Interactions, Table
from llmrec.data.tables.notes import quiet, short
from llmrec.data.words import plain
from llmrec.report.screen import show

_WIDTH = 40
_FIELDS = ("title", "categories", "brand", "price", "description")


def print_tables(dataset: Dataset, scratch: Path | None) -> None:
    """Print each table of a card: its files, what their columns mean, and what nothing tells.

    Args:
        dataset: the card's tables and their files.
        scratch: folder for rewritten copies of the files, whose other columns are then named; None opens no file.

    Raises:
        UserError: an unreadable or empty file.
    """
    tables = {"interactions": dataset.interactions, "items": dataset.items, "users": dataset.users}
    for name, located in tables.items():
        if located is not None:
            table, files = located
            names = ", ".join(path.name for path in files[:3]) + (", …" if len(files) > 3 else "")
            count = f" ({len(files)} files)" if len(files) > 1 else ""
            print(f"{name}: {shown(names)}{count}{shown(_joined(dataset)) if name == 'interactions' else ''}")
            print(f"  {shown(', '.join(_meanings(table)))}")
            unused = [] if scratch is None else _unused(table, files[0], scratch)
            if scratch is not None and isinstance(table, Interactions) and table.join is not None:
                unused += _unused(table.join, dataset.joined[0], scratch, table)
            if unused:
                print(f"  not used: {shown(', '.join(unused))}")
    missing = _missing(dataset)
    if missing:
        print(f"not described: {'; '.join(missing)}")


def _meanings(table: Table) -> Iterable[str]:
    yield from (f"{meaning} = {column}" for meaning, column in table.columns.items())
    yield from (f"{meaning} = {len(columns)} columns of 0 and 1" for meaning, columns in table.flags.items())


def _joined(dataset: Dataset) -> str:
    """Say which files are joined to the log, and by which columns."""
    join = dataset.interactions[0].join
    if join is None:
        return ""
    names = ", ".join(path.name for path in dataset.joined[:3]) + (", …" if len(dataset.joined) > 3 else "")
    return f", joined to {names} by {' = '.join(dict.fromkeys(join.keys))}"


def _unused(table: Table, path: Path, scratch: Path, log: Interactions | None = None) -> list[str]:
    """Return the columns of a file that no meaning of the card is read from; `log` is what its table is joined to."""
    if table.header is not True or table.format_of(path) == "sequences":
        return []
    used, looked_for = (log or table).columns_read(), table.columns_read()
    if log is not None and log.join is not None:
        looked_for = {log.join.keys[1]}
        used |= looked_for | {name.removeprefix(read.PREFIX) for name in used if name.startswith(read.PREFIX)}
    elif isinstance(table, Interactions) and table.join is not None:
        looked_for = {table.join.keys[0]}
        used |= looked_for
    with quiet():
        names = read.column_names(table, path, scratch, looked_for)
    used |= {name.partition(".")[0] for name in used}  # a column of objects, of which a field is used
    return [name for name in names if name not in used]


def _missing(dataset: Dataset) -> list[str]:
    """Return what later stages could use, and no column of the card tells."""
    log = dataset.interactions[0].columns
    events = ", ".join(name for name in EVENT_FIELDS if name not in log)
    described = set() if dataset.items is None else {*dataset.items[0].columns, *dataset.items[0].flags}
    fields = ", ".join(name for name in _FIELDS if name not in described)
    parts = [events, f"of the items {fields}" if fields else "", "" if dataset.users is not None else "users"]
    return [part for part in parts if part]


def print_rows(understood: Understood) -> None:
    """Print the first rows as the data stage reads them."""
    table = Screen(title=None)
    for name in understood.head.columns:
        table.add_column(name, justify="right" if name in ("rating", "price") else "left")
    for row in understood.head.rows():
        table.add_row(*(Text(_cell(value)) for value in row))
    print()
    show(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        value = " | ".join(map(str, value))
    if isinstance(value, float):
        value = f"{value:g}" if value == round(value) else f"{value:.2f}"
    return short(shown("" if value is None else value), _WIDTH)


def print_counts(understood: Understood) -> None:
    """Print the numbers of users, items and interactions, and what they leave out."""
    repeats = understood.dropped.get("deduplicate", 0)
    print(
        f"{understood.users:,} users, {understood.items:,} items, {understood.interactions:,} interactions"
        + (f" ({repeats:,} repeats of a user, item and time left out)" if repeats else "")
    )
    if understood.interactions > understood.items * understood.users:
        print(
            f"a user has {understood.interactions / understood.users:,.0f} interactions on average, more than there "
            "are items: is the column of `user` in the card that of the users?"
        )
    if understood.short_users:
        print(
            f"{understood.short_users:,} users have fewer than 3 interactions: they train, but are not tested"
        )
    if understood.item_report:
        described = understood.items - understood.item_report.get("without_metadata", 0)
        unchosen = understood.item_report.get("without_interactions", 0)
        print(
            f"{described:,} of {understood.items:,} items are described"
            + (
                f"; {unchosen:,} more items of the file have no interaction and are left out"
                if unchosen
                else ""
            )
        )
    if understood.untitled:
        share = understood.untitled_interactions / max(1, understood.interactions)
        print(
            f"{understood.untitled:,} of {understood.items:,} items, with {share:.1%} of the interactions, have no "
            "title: prompts and semantic IDs from text call them `item <id>`"
        )
    if understood.same_title:
        print(
            f"{understood.same_title:,} items have the title of another item; in the card, a template of two columns "
            'tells them apart: `title: "{name} ({size})"`'
        )


def shown(text: object) -> str:
    """Return text of the files without control characters."""
    return plain(text, 400)
