"""What a user should know of a guessed log: times that are not understood, ids that were damaged or are personal."""

from __future__ import annotations

from llmrec.data.guess import names
from llmrec.data.guess.interactions import LogGuess
from llmrec.data.tables.notes import short

_MANY = 0.2
_DOUBTFUL = 1.5
"""Score below which a name may mean something else: a session, a kind of user."""
_ROUNDED = r"^\d(?:[.,]\d+)?E\+\d+$"


def doubts(log: LogGuess) -> list[str]:
    """Return lines for the user about the log's columns."""
    notes = []
    for role in ("user", "item"):
        column = log.columns[role]
        rounded = column.values.filter(column.values.str.contains(_ROUNDED))
        if len(rounded):
            notes.append(
                f"{log.sheet.path}: {len(rounded):,} ids in {column.name!r}, such as {rounded[0]!r}, were rounded by "
                "a spreadsheet, so that several may be one now; export the column as text"
            )
    user = log.columns["user"]
    absent = 1 - len(user.values) / max(len(user.raw), 1)
    if absent > _MANY:
        notes.append(
            f"{log.sheet.path}: {absent:.0%} of the rows have no {user.name!r} and are dropped; if it stands only on "
            "the first line of each order, fill it down first (`ffill` of pandas)"
        )
    if user.has_name and names.is_personal(user.name):
        notes.append(
            f"{log.sheet.path}: {user.name!r} may name a person, and is the only id of users; every file of the run "
            "holds it, unless you put a number in its place"
        )
    notes += [
        f"{log.sheet.path}: {column.name!r} is taken for the id of {role}s, as no other column is named like one"
        for role, column in ((role, log.columns[role]) for role in ("user", "item"))
        if 0 < column.score(role) < _DOUBTFUL and not names.is_personal(column.name)
    ]
    return notes if "time" in log.columns else [*notes, _no_times(log)]


def _no_times(log: LogGuess) -> str:
    """Return the line for a log without times, with the column that is named like one."""
    named = [c for c in log.sheet.columns if c.has_name and c.score("time") >= 2 and not c.is_empty]
    named = [column for column in named if column not in log.columns.values() and not column.is_clock]
    order = "its rows" if len(log.sheet.found.files) == 1 else "its rows, file after file by name,"
    if not named:
        return f"{log.sheet.path}: no column of times, so the order of {order} is the order of each user's choices"
    first = max(named, key=lambda column: column.score("time"))
    return (
        f"{log.sheet.path}: {first.name!r} ({short(first.values[0], 40)}) is not understood as a time, so the order "
        f"of {order} is the order of each user's choices; if it is one, add `time` and `time_format` to the card"
    )
