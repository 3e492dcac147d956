"""Guesses a card from the files of a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmrec.data.guess.attributes import TableGuess, guess_items, guess_users
from llmrec.data.guess.choices import Choose, Question
from llmrec.data.guess.columns import Column
from llmrec.data.guess.doubts.log import doubts
from llmrec.data.guess.doubts.table import unread
from llmrec.data.guess.files import find_tables
from llmrec.data.guess.interactions import LogGuess, guess_log
from llmrec.data.guess.joins import with_joined_log, with_log_of_people
from llmrec.data.guess.sheets import Sheet
from llmrec.data.tables import sniff
from llmrec.data.tables.described import Table
from llmrec.data.tables.prepare import decoded
from llmrec.data.times.reading import formats_in_order
from llmrec.errors import UserError


@dataclass(frozen=True)
class Guess:
    """What the files of a folder are.

    Attributes:
        folder: the folder.
        log: the log.
        items: the table of the items, if any.
        users: the table of the users, if any.
        pattern: `user` or `item` → what takes the id out of a value such as `7.0`; none if values are ids.
        time_format: formats of the times, if the data stage cannot tell day from month; else none.
        notes: lines for the user about what was taken and left out.
    """

    folder: Path
    log: LogGuess
    items: TableGuess | None
    users: TableGuess | None
    pattern: dict[str, str]
    time_format: list[str]
    notes: list[str]


def guess_folder(folder: Path, choose: Choose, scratch: Path) -> Guess:
    """Look at the files of a folder: which is the log, which describe items and users, what their columns mean.

    Args:
        folder: the folder.
        choose: answers what the files leave open.
        scratch: an empty folder for copies.

    Raises:
        UserError: there is no such folder, or no table in it that can be a log; the message says what to do.
    """
    if not folder.is_dir():
        problem = "a file: give its folder" if folder.is_file() else "no such folder"
        raise UserError(f"{folder}: {problem}")
    tables, left_out = find_tables(folder, scratch)
    if not tables:
        name, why = next(iter(left_out.items()))
        raise UserError(
            f"{folder}: no table in it that can be read ({name}: {why}); CSV, JSON lines and Parquet can be"
        )
    sheets = with_log_of_people(with_joined_log([Sheet(table) for table in tables]), folder)
    log = guess_log(sheets, choose)
    items, item_notes = guess_items(log, sheets, choose, scratch)
    users, user_notes = guess_users(log, items, sheets, choose, scratch)
    notes = [*item_notes, *user_notes, *(items.notes if items else []), *(users.notes if users else [])]
    notes += doubts(log)
    used = [guessed.sheet for guessed in (log, items, users) if guessed is not None]
    notes += [note for sheet in dict.fromkeys(used) for note in unread(sheet.found)]
    notes += _left_out(sheets, used, left_out, notes)
    time_format = _time_format(log, items, choose)
    _name_encodings(used)
    pattern = _patterns(log, {"item": items, "user": users})
    return Guess(folder, log, items, users, pattern, time_format, notes)


def _patterns(log: LogGuess, tables: dict[str, TableGuess | None]) -> dict[str, str]:
    """Return what makes `7` of `7.0` in the log, unless the table that describes these ids writes them so, too."""
    found = {}
    for role, table in tables.items():
        is_alike = table is not None and (table.sheet is log.sheet or table.columns[role].has_point)
        if log.columns[role].has_point and not is_alike:
            found[role] = r"(.+?)(?:\.0)?"
    return found


def _left_out(
    sheets: list[Sheet], used: list[Sheet], left_out: dict[str, str], notes: list[str]
) -> list[str]:
    """Return lines for the files that the card does not use, if nothing was said of them."""
    names = [sheet.path for sheet in sheets if sheet not in used]
    names = [name for name in names if not any(note.startswith(f"{name}: ") for note in notes)]
    lines = [f"{name}: not used{_like(name, sheets, used[0])}" for name in names]
    return lines + [f"{name}: left out, {why}" for name, why in left_out.items() if why != "not a table"]


def _like(name: str, sheets: list[Sheet], log: Sheet) -> str:
    """Return what to do about a file that could be a part of the log, or nothing."""
    columns = next(sheet.found.columns for sheet in sheets if sheet.path == name)
    if set(columns) != set(log.found.columns) or log.found.join is not None:
        return ""
    return ", though it has the columns of the log; `interactions.path` may be a pattern such as sales-*.csv"


def _time_format(log: LogGuess, items: TableGuess | None, choose: Choose) -> list[str]:
    """Return the formats of dates whose day and month could be the other way round; none if there is no doubt."""
    column = log.columns.get("time")
    if column is not None and column.is_of_excel:
        return ["excel"]
    if column is None or column.time is None or not column.time.is_doubtful:
        return []
    # Where a comma stands before cents, or a semicolon between values, dates begin with the day.
    is_european = log.sheet.found.written.get("separator") == ";" or (
        items is not None and items.decimal == ","
    )
    orders = ("day", "month") if is_european or not _is_slashed(column) else ("month", "day")
    options = [f"the {order} first, as in {column.values[0]!r}" for order in orders]
    question = Question(log.sheet.path, "day and month of the times", options, 0, "interactions.time_format")
    chosen = orders[choose(question)]
    return formats_in_order(column.values, "day" if chosen == "day" else "month")


def _is_slashed(column: Column) -> bool:
    return "/" in column.values[0]


def _name_encodings(sheets: list[Sheet]) -> None:
    """Write down the encoding of files of which every row was read, and not as UTF-8."""
    for sheet in sheets:
        found = sheet.found
        is_read = found.is_whole and found.written["format"] == "csv" and "encoding" not in found.written
        if is_read and any(map(_is_cp1252, found.files)):
            sheet.found = replace(found, written=found.written | {"encoding": "cp1252"})


def _is_cp1252(path: Path) -> bool:
    """Whether a file that was read is not in UTF-8; then the reader has read it as cp1252."""
    start = sniff.head(path)
    if sniff.encoding(Table(path=path.name, columns={}), start) != "utf-8":
        return False
    try:
        for _ in decoded(path, "utf-8"):
            pass
    except UserError:
        return True
    return False
