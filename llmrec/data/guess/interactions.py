"""Guesses the log: its table, and the columns of user, item, time, rating and event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import polars as pl

from llmrec.data.guess import names
from llmrec.data.guess.choices import Choose, Question, choose_among
from llmrec.data.guess.columns import CLEAR, Column, depends_on, is_one_to_one
from llmrec.data.guess.doubts.no_log import nothing_fits
from llmrec.data.guess.files import listed_columns
from llmrec.data.guess.sheets import Sheet
from llmrec.data.tables.notes import short
from llmrec.errors import UserError

_DAY = 86_400
_FEW_LEVELS = 20
_LIST_SIGNS = (" ", ",", ";", "|")


@dataclass(frozen=True)
class LogGuess:
    """The log and what its columns mean.

    Attributes:
        sheet: its table.
        columns: meaning → column.
        clock: column of the clock, if day and clock stand in two columns.
        split_on: meaning → sign, for lists that are written as text.
    """

    sheet: Sheet
    columns: dict[str, Column]
    clock: Column | None = None
    split_on: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pair:
    sheet: Sheet
    user: Column
    item: Column
    score: float

    @property
    def is_named(self) -> bool:
        """Whether the names of both columns say what they are, or the file names none."""
        is_named = self.user.score("user") >= CLEAR and self.item.score("item") >= CLEAR
        return is_named or not self.user.has_name


def guess_log(sheets: list[Sheet], choose: Choose) -> LogGuess:
    """Choose the log among the tables, and its columns.

    Raises:
        UserError: no table has a user and an item in a row.
    """
    pairs = {sheet.path: pairs_of(sheet, sheets) for sheet in sheets}
    best = [each[0] for each in pairs.values() if each]
    if not best:
        raise UserError(nothing_fits(sheets))
    totals = [pair.score + names.log_bonus(pair.sheet.path) + _extras(pair) for pair in best]
    options = [
        short(f"{pair.sheet.path} ({_rows(pair.sheet)}: {listed_columns(pair.sheet.found)})", 120)
        for pair in best
    ]
    question = Question("several files", "the log of who chose what", options, 0, "interactions.path")
    # Views and purchases are different things to learn, so files come near each other sooner than columns do.
    sheet = best[choose_among(choose, question, totals, margin=1)].sheet
    pair = _chosen_pair(sheet, pairs[sheet.path], choose)
    columns = {"user": pair.user, "item": pair.item}
    split_on = {"item": sign} if (sign := _sign_of_items(pair.item)) else {}
    time = _time(sheet, pair, choose)
    clock = None
    if time is not None:
        columns["time"] = time
        clock = _clock(sheet, time)
    columns |= _levels(sheet, [*columns.values(), *([clock] if clock else [])])
    return LogGuess(sheet, columns, clock, split_on)


def _rows(sheet: Sheet) -> str:
    number = len(sheet.found.rows)
    return f"{number:,} rows" if sheet.found.is_whole else f"more than {number:,} rows"


def _extras(pair: _Pair) -> float:
    """Return how much the other columns speak for a log: times and ratings."""
    others = [column for column in pair.sheet.columns if column not in (pair.user, pair.item)]
    has_time = any(_time_score(column) >= 1 for column in others)
    has_level = any(column.score("rating") >= 2 or column.score("event") >= 2 for column in others)
    return 0.3 * has_time + 0.3 * has_level


def pairs_of(sheet: Sheet, sheets: list[Sheet]) -> list[_Pair]:
    """Return pairs of a user's and an item's column, the likeliest first."""
    others = [other for other in sheets if other is not sheet]
    users = {column.name: _user_score(column, sheet, others) for column in sheet.columns}
    items = {column.name: _item_score(column, sheet, others) for column in sheet.columns}
    pairs = []
    for user in sheet.columns:
        for item in sheet.columns:
            user_score, item_score = users[user.name], items[item.name]
            if user is item or user_score is None or item_score is None:
                continue
            if user.is_entry and not item.is_entry:
                continue
            if not user.is_unique or item.is_list or item.is_entry or _sign_of_items(item):
                pairs.append(_Pair(sheet, user, item, user_score + item_score))
    return sorted(pairs, key=lambda pair: -pair.score)


def _common(column: Column, role: str, sheet: Sheet) -> float | None:
    """Return how well a column can be a role's id by its name and values; None if it cannot."""
    score = column.score(role)
    other = max(column.score(name) for name in names.ROLES if name not in (role, "title", "clock"))
    if other > score or (column.is_time and score < 1):
        return None
    if not column.is_unique:
        score += 0.5
    if not column.has_name:
        place = 0 if role == "user" else 1
        score += 0.2 * (sheet.columns[place] is column)
        score -= 1.5 * (column.distinct < 10 and column.distinct < 0.1 * len(column.values))
    return score


def _user_score(column: Column, sheet: Sheet, others: list[Sheet]) -> float | None:
    if not column.can_be_id:
        return None
    score = _common(column, "user", sheet)
    joined = max((_share(column, other, "user") for other in others), default=0)
    if score is None or (column.has_name and column.score("user") == 0 and joined < 0.5):
        return None
    return score + joined


def _item_score(column: Column, sheet: Sheet, others: list[Sheet]) -> float | None:
    if not (column.can_be_id or (column.is_list and not column.nested) or _sign_of_items(column)):
        return None
    if (
        column.is_unique
        and not (column.is_list or _sign_of_items(column))
        and len(column.values) > _FEW_LEVELS
    ):
        return None
    score = _common(column, "item", sheet)
    joined = max((_share(column, other, "item") for other in others), default=0)
    if score is None:
        return None
    is_named = not column.has_name or column.score("item") > 0
    return score + 1.5 * joined if is_named or joined >= 0.5 or _is_only_title(column, sheet) else None


def _is_only_title(column: Column, sheet: Sheet) -> bool:
    """Whether a column holds titles, and no other column of its table could hold items: a title is then their id."""
    rivals = [other for other in sheet.columns if other is not column and other.score("item") >= 0.6]
    return column.score("title") >= CLEAR and column.is_text and not rivals


def _share(column: Column, other: Sheet, role: str) -> float:
    """Return the share of a column's values that are keys of another table, if that may describe the role."""
    is_file, is_other = names.is_user_file(other.path), names.is_item_file(other.path)
    if role == "item":
        is_file, is_other = is_other, is_file
    if is_other and not is_file:
        return 0
    best = 0.0
    for key in other.keys:
        is_named = key.score(role) >= 1 or is_file or not key.has_name or key.name == column.name
        if not is_named or (role == "item" and not other.has_words) or (role == "user" and not is_file):
            continue
        if column.is_number and key.is_count and not column.score(role) and column.has_name:
            continue  # any small number is in a table that counts its rows
        # Of a long table only the first rows are known: the same name tells as much.
        known = 0.7 if key.name == column.name and not other.found.is_whole else 0.0
        best = max(best, known, share_found(column.values, key.values))
    return best


def share_found(ids: pl.Series, among: pl.Series) -> float:
    """Return the share of the distinct ids that are among others."""
    distinct = ids.unique()
    return (
        0.0 if distinct.is_empty() else float(distinct.is_in(among.unique().implode()).sum()) / len(distinct)
    )


def _sign_of_items(column: Column) -> str | None:
    """Return the sign between the items of a column such as `basket`, whose values are lists as text."""
    if not column.has_name or column.is_list or column.is_number or column.score("title"):
        return None
    if not {"items", "products", "basket", "history", "sequence", "articles", "movies"} & set(
        names.words_of(column.name)
    ):
        return None
    for sign in _LIST_SIGNS:
        pieces = [piece for value in column.values for piece in value.split(sign)]
        if len(pieces) > 1.5 * len(column.values) and len(set(pieces)) < len(pieces):
            return sign
    return None


def _chosen_pair(sheet: Sheet, pairs: list[_Pair], choose: Choose) -> _Pair:
    """Return the pair of a log's user and item; columns that are the same in other words are no choice."""
    first = pairs[0]
    where = sheet.path
    if not first.user.has_name:
        options = [f"user {_shown(pair.user)}, item {_shown(pair.item)}" for pair in pairs]
        question = Question(where, "the columns of user and item", options, 0, "interactions.header")
        return pairs[choose_among(choose, question, [pair.score for pair in pairs])]
    users = _distinct([pair for pair in pairs if pair.item is first.item], "user")
    question = Question(
        where, "the column of the user", [_shown(p.user) for p in users], 0, "interactions.columns.user"
    )
    user = users[choose_among(choose, question, [pair.score for pair in users])].user
    items = _distinct([pair for pair in pairs if pair.user is user], "item")
    question = Question(
        where, "the column of the item", [_shown(p.item) for p in items], 0, "interactions.columns.item"
    )
    return items[choose_among(choose, question, [pair.score for pair in items])]


def _distinct(pairs: list[_Pair], role: str) -> list[_Pair]:
    """Return pairs without those whose column only repeats that of the first, value by value."""
    first = getattr(pairs[0], role)
    return [
        pair
        for pair in pairs
        if (column := getattr(pair, role)) is first
        or column.is_list
        or first.is_list
        or len(column.raw) != len(first.raw)
        or not is_one_to_one(column.raw, first.raw)
    ]


def _shown(column: Column) -> str:
    values = ", ".join(repr(value)[1:-1] for value in column.values.head(3))
    return short(f"{repr(column.name)[1:-1]} ({values}, …; {column.distinct:,} different)", 90)


def _time_score(column: Column) -> float:
    """Return how well a column can be the time of an interaction; below 1 it cannot."""
    named, time = column.score("time"), column.time
    if time is None or column.score("rating") > named:
        return 0
    if time.are_positions:
        return named - 0.5 if named >= 2 else float(names.is_sequence(column.name))
    is_number = column.is_number and named == 0 and column.has_name
    return 0 if is_number else named + time.share + 0.1 * time.has_clock


def _time(sheet: Sheet, pair: _Pair, choose: Choose) -> Column | None:
    others = [column for column in sheet.columns if column not in (pair.user, pair.item)]
    fitting = sorted((c for c in others if _time_score(c) >= 1), key=lambda c: -_time_score(c))
    if not fitting:
        return None
    # Of columns with the same days that with the clock is the time; the others say nothing else, and some say less.
    alike = [column for column in fitting if _same_days(column, fitting[0])]
    alike = [column for column in alike if len(column.values) >= 0.98 * len(alike[0].values)]
    first = max(alike, key=_fineness)
    rivals = [first, *(column for column in fitting if column not in alike)]
    question = Question(
        sheet.path,
        "the column of the time",
        [_shown(column) for column in rivals],
        0,
        "interactions.columns.time",
    )
    return rivals[choose_among(choose, question, [_time_score(fitting[0]), *map(_time_score, rivals[1:])])]


def _fineness(column: Column) -> tuple[bool, int, bool]:
    """Return what tells a precise time from a coarse one."""
    seconds = column.time.seconds if column.time else pl.Series([], dtype=pl.Int64)
    return bool(column.time and column.time.has_clock), seconds.n_unique(), column.is_number


def _same_days(one: Column, other: Column) -> bool:
    if one.time is None or other.time is None or len(one.raw) != len(other.raw):
        return False
    days = [column.time.seconds // _DAY for column in (one, other) if column.time]
    same = ((days[0] - days[1]).abs() <= 1).drop_nulls()
    return len(same) > 0 and cast(float, same.mean()) > 0.95


def _clock(sheet: Sheet, time: Column) -> Column | None:
    """Return the column of the clock, if the time has only days and another column a time of the day."""
    if time.time is None or time.time.has_clock or time.time.are_positions:
        return None
    clocks = [column for column in sheet.columns if column.is_clock and column.score("clock") >= 2]
    return clocks[0] if len(clocks) == 1 else None


def _levels(sheet: Sheet, used: list[Column]) -> dict[str, Column]:
    """Return the columns of rating and event, if there are any."""
    free = [
        column
        for column in sheet.columns
        if column not in used and not column.is_empty and not column.is_entry
    ]
    found = {}
    ratings = [column for column in free if column.is_number and _rating_score(column) >= 2]
    if ratings:
        found["rating"] = max(ratings, key=_rating_score)
    events = [
        column
        for column in free
        if column.score("event") >= 2
        and not column.is_number
        and 1 < column.distinct <= 50
        and column.length < 40
    ]
    if events:
        found["event"] = max(events, key=lambda column: column.score("event"))
    return found


def _rating_score(column: Column) -> float:
    if column.has_name:
        return column.score("rating")
    return 2 * (column.distinct <= _FEW_LEVELS and column.distinct > 1 and column.length <= 4)


def title_in_log(log: LogGuess) -> Column | None:
    """Return a column of the log that holds the items' titles: each item has one, and it is named like a title.

    `Product` beside `Product SKU` is a title, too.
    """
    item = log.columns["item"]
    free = [column for column in log.sheet.columns if column not in log.columns.values()]
    for role, least, longest in (("title", 2, 300), ("description", 1, 120), ("item", CLEAR, 120)):
        fitting = [c for c in free if c.score(role) >= least and c.is_text and c.length < longest]
        fitting = [column for column in fitting if depends_on(column.raw, item.raw)]
        if role == "item":  # and no artist, of whom there are several tracks
            fitting = [column for column in fitting if column.distinct > 0.5 * item.distinct]
        if fitting:
            return max(fitting, key=lambda column: column.score(role))
    return item if item.is_text and item.score("title") >= 2 else None
