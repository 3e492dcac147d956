"""Joins rows of a target and the items before it, as files made for training have them, to one log.

Such files hold a row for each target: the user, the last items before it, the target. The rows of a user overlap.
They are joined to one sequence, in which every interaction stands once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import polars as pl

from llmrec.data.split import KNOWN, LABELS
from llmrec.data.tables import read
from llmrec.data.tables.described import PART, Table
from llmrec.data.tables.explode import as_list, list_kind
from llmrec.data.tables.notes import tell
from llmrec.data.tables.read import TableFile
from llmrec.errors import UserError


class Target(NamedTuple):
    """One row of such a file.

    Attributes:
        history: items before the target, oldest first; possibly only the last of them.
        item: the target.
        part: part of the split, an index into `split.LABELS`.
    """

    history: list[str]
    item: str
    part: int


class JoinedUser:
    """One user's interactions in order, joined from rows.

    Attributes:
        items: the items, oldest first.
        parts: part of each item; `KNOWN` if it stands before a held-out target and is no target in any row.
        findings: number of rows that did not continue the sequence, by what was done with them.
    """

    def __init__(self, rows: Sequence[Target]) -> None:
        """Join the rows of one user: those of earlier parts first, in each part from the shortest history on."""
        self.items: list[str] = []
        self.parts: list[int] = []
        self.findings: Counter[str] = Counter()
        for part in sorted({row.part for row in rows}):
            mine = [row for row in rows if row.part == part]
            if _is_backwards(mine):
                mine.reverse()
            for row in sorted(mine, key=lambda row: len(row.history)):
                self._add(row)

    def _add(self, row: Target) -> None:
        history, known = row.history, len(self.items)
        if known >= len(history) and self.items[known - len(history) :] == history:
            self._append([], row)
        elif (place := self._place(row)) is not None:
            self._mark(place, row.part)
        elif known and history[-known:] == self.items:
            self._prepend(history[:-known], row)
        else:
            shared = next(
                size for size in range(min(known, len(history)), -1, -1) if self._ends_with(history[:size])
            )
            if known:
                self.findings["gap" if shared else "apart"] += 1
            self._append(history[shared:], row)

    def _ends_with(self, items: list[str]) -> bool:
        return self.items[len(self.items) - len(items) :] == items

    def _place(self, row: Target) -> int | None:
        """Return where the row's target stands, if its history and it are in the sequence already."""
        piece = [*row.history, row.item]
        starts = range(len(self.items) - len(piece), -1, -1)
        found = next((at for at in starts if self.items[at : at + len(piece)] == piece), None)
        return None if found is None else found + len(row.history)

    def _mark(self, place: int, part: int) -> None:
        before = self.parts[place]
        if before == KNOWN:
            self.parts[place] = part
        elif before != part:
            self.findings["two parts"] += 1
            self.parts[place] = max(before, part)

    def _append(self, history: list[str], row: Target) -> None:
        self.items += [*history, row.item]
        self.parts += [_before(row.part)] * len(history) + [row.part]

    def _prepend(self, history: list[str], row: Target) -> None:
        self.items[:0] = history
        self.parts[:0] = [_before(row.part)] * len(history)
        self._append([], row)


def _is_backwards(rows: Sequence[Target]) -> bool:
    """Whether a user's latest target comes first, as some projects write it."""
    pairs = list(pairwise(rows))
    return sum(a.history[-1:] == [b.item] for a, b in pairs) > sum(
        b.history[-1:] == [a.item] for a, b in pairs
    )


def _before(part: int) -> int:
    """Return the part of an item before a target. Before a training target everything may be trained on."""
    return part if part == 0 else KNOWN


_TOLD = {
    "two parts": "targets belong to two parts; the later part keeps them",
    "gap": "rows leave items out between them and the rows before",
    "apart": "rows share no item with the rows before of their user; their order is that of the file",
}


def joined(parts: list[TableFile], table: Table, words: dict[str, int]) -> TableFile:
    """Join the files of a log whose column `history` holds the items before `item`.

    Args:
        parts: the files, in order; their column `PART`, if there is one, names the part of each row.
        table: the card's description of the log.
        words: name of a part → index into `split.LABELS`.

    Returns:
        One frame with the columns `user`, `item` and, if the files have it, `PART`, ordered by user.

    Raises:
        UserError: a history that is no list, an empty id, or a part that has no name.
    """
    users: dict[str, list[Target]] = {}
    has_parts = PART in parts[0].frame.collect_schema()
    for part in parts:
        for user, item, history, label in _rows(part, table, words).iter_rows():
            users.setdefault(user, []).append(Target(history, item, label))
    columns: dict[str, list[str]] = {"user": [], "item": [], PART: []}
    findings: Counter[str] = Counter()
    for user, rows in users.items():
        sequence = JoinedUser(rows)
        findings += sequence.findings
        columns["user"] += [user] * len(sequence.items)
        columns["item"] += sequence.items
        columns[PART] += [LABELS[label] for label in sequence.parts]
    count = sum(map(len, users.values()))
    name = parts[0].path.name
    tell(name, f"{count:,} rows with histories read as {len(columns['item']):,} interactions")
    for key, text in _TOLD.items():
        if findings[key]:
            tell(name, f"{findings[key]:,} {text}")
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return replace(parts[0], frame=(frame if has_parts else frame.drop(PART)).lazy(), has_entries=True)


def _rows(part: TableFile, table: Table, words: dict[str, int]) -> pl.DataFrame:
    """Return `user: str, item: str, history: list[str], part: u8` of one file, checked."""
    schema = part.frame.collect_schema()
    kind = list_kind(part, "history", schema["history"], table)
    if kind is None:
        raise UserError(
            f"{part.path}: column {table.columns['history']!r} (history) holds no lists; "
            "for lists without brackets, write what separates their entries into the card: "
            "`split_on: {history: SEPARATOR}`"
        )
    history = as_list("history", kind, schema["history"], table)
    frame = part.frame.with_columns(history).with_columns(
        *(read.identifier(pl.col(name), schema[name], table.missing) for name in ("user", "item")),
        pl.col("history").list.eval(read.as_identifier(pl.element(), table.missing)).fill_null([]),
    )
    if PART in schema:
        frame = frame.with_columns(read.part_code(pl.col(PART), schema[PART], words))
    else:
        frame = frame.with_columns(pl.lit(0, pl.UInt8).alias(PART))
    checked = replace(part, frame=frame)
    for name, problem in (("user", "an empty user id"), ("item", "an empty item id"), (PART, "no part")):
        place = read.first_bad([checked], pl.col(name).is_null(), name)
        if place is not None:
            raise UserError(f"{place[:200]}: {problem} (column {table.columns.get(name, name)!r})")
    place = read.first_bad([checked], pl.col("history").list.contains(None), "history")
    if place is not None:
        raise UserError(f"{place[:200]}: an empty item id in a history")
    return frame.select("user", "item", "history", PART).collect(engine="streaming")
