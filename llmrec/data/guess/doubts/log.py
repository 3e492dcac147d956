"""What a user should know of a guessed log: times that are not understood, ids that were damaged or are personal."""

from __future__ import annotations

from llmrec.data.guess import names
from llmrec.data.guess.columns import Column
from llmrec.data.guess.interactions import LogGuess
from llmrec.data.tables.notes import short

_MANY = 0.2
_DOUBTFUL = 1.5
"""Score below which a name may mean something else: a session, a kind of user."""
_RETURNED = (
    r"(?i)retour|return|refund|cancel|storn|rückgabe|annul|rembours|devuelt|rimbors|reso\b|geannuleerd|declined|"
    r"failed"
)
_MOST_STATES = 50
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
        if _is_doubtful(role, column) and (role == "item" or not names.is_personal(column.name))
    ]
    notes += _returned(log)
    return notes if "time" in log.columns else [*notes, _no_times(log)]


def _returned(log: LogGuess) -> list[str]:
    """Return lines about rows that say, by a state such as `returned`, that the user did not keep the item."""
    notes = []
    for column in log.sheet.columns:
        if column in log.columns.values() or column.is_number or not 1 < column.distinct <= _MOST_STATES:
            continue
        found = column.values.filter(column.values.str.contains(_RETURNED))
        if 0 < len(found) < len(column.values):
            share, state = len(found) / len(column.values), str(found[0])
            notes.append(
                f"{log.sheet.path}: {share:.0%} of the rows have a {column.name!r} such as {short(state, 30)!r}, and "
                f"count as chosen; to leave them out, map `event: {column.name}` and name the others in "
                "`filters.events`"
            )
    return notes


def _is_doubtful(role: str, column: Column) -> bool:
    """Whether a name may mean something else than a user or an item, such as a session or a title."""
    score = column.score(role)
    return 0 < score < _DOUBTFUL or (role == "item" and not score and column.score("title") >= _DOUBTFUL)


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
