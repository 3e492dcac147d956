"""What the values of a column say: ids, times, numbers, lists, prices, text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import polars as pl

from llmrec.data.guess import names
from llmrec.data.tables import read
from llmrec.data.tables.notes import quiet
from llmrec.data.tables.read import TableFile
from llmrec.data.times.reading import LATEST, TWO_DIGITS, Reading, are_positions, derived_unit, reading
from llmrec.data.words import MISSING, list_of, object_of, prices
from llmrec.errors import UserError

CLEAR = 2.5
"""Score from which a column's name says what it is."""
_POINT = r"\.0$"
_NUMBER = r"^[-+]?\d+(?:[.,]\d+)?$"
_CLOCK = r"^\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?$"
_EARLY = 631_152_000
_DAYS_OF_EXCEL = (32_874, 73_050)
_SIGNS = ("&gt;", ">", "|", ";", " / ", "/", ",")
_NEVER_IN_LABELS = ("&gt;", ">", "|", ";")
_FEW = 200
_MOST_FIELDS = 50
_DEEPEST = 4
"""Most fields of an object, and levels of objects in objects, that are looked at."""
_LONGEST_ID = 64
_LONGEST_CODE = 128
"""Characters of a hash or an address; a text of that length has spaces."""


@dataclass(frozen=True)
class TimeReading:
    """How the data stage reads a column as times.

    Attributes:
        share: share of the values that it reads as a time between 1990 and 2100.
        is_doubtful: whether day and month could be the other way round.
        seconds: the times since 1970, one a row; null for a value that is no time.
        has_clock: whether some times are not at midnight.
        are_positions: whether the values are small whole numbers, an order and no times.
    """

    share: float
    is_doubtful: bool
    seconds: pl.Series
    has_clock: bool
    are_positions: bool


class Column:
    """A column's name and its first values."""

    def __init__(
        self, name: str, raw: pl.Series, has_name: bool = True, is_field: bool = False, is_entry: bool = False
    ) -> None:
        """Hold a column.

        Args:
            name: its name in the file.
            raw: its first values, as the reader gives them.
            has_name: whether the file names it; else the name is a number that says nothing.
            is_field: whether it is a field of the objects in another column.
            is_entry: whether these are in a list, so that it has a value for each of them.
        """
        self.name, self.raw, self.has_name = name, raw, has_name
        self.is_field, self.is_entry = is_field, is_entry

    def score(self, role: str) -> float:
        """Return how clearly the name says that the column has a role, 0 to 3."""
        if not self.has_name:
            return 0
        whole = names.score(role, self.name)
        # Of `customer.id` both names say what it is; `properties.product_id` counts less than a column `product_id`.
        return max(whole, names.score(role, self.name.rpartition(".")[2]) - 0.2) if self.is_field else whole

    @cached_property
    def values(self) -> pl.Series:
        """The values that are present, as ids: text without missing words."""
        if isinstance(self.raw.dtype, pl.List | pl.Array | pl.Struct):
            lists = [value for value in self.raw.to_list() if value is not None]
            return pl.Series(self.name, [json.dumps(value, default=str) for value in lists], dtype=pl.String)
        frame = pl.DataFrame({"value": self.raw})
        text = frame.select(read.identifier(pl.col("value"), self.raw.dtype, list(MISSING)))[
            "value"
        ].drop_nulls()
        return text.str.replace(_POINT, "") if self.has_point else text

    @cached_property
    def has_point(self) -> bool:
        """Whether ids are written as `7.0`, as pandas does where one is missing."""
        is_id = max(self.score("user"), self.score("item")) >= CLEAR or names.is_bare_id(self.name)
        if self.raw.dtype != pl.String or not is_id:
            return False
        present = self.raw.drop_nulls().str.strip_chars()
        return bool(
            cast(float, present.filter(present != "").str.contains(rf"^\d+{_POINT}").mean() or 0) > 0.95
        )

    @cached_property
    def distinct(self) -> int:
        """Number of different values."""
        return self.values.n_unique()

    @property
    def is_empty(self) -> bool:
        """Whether no value is present."""
        return not len(self.values)

    @property
    def is_unique(self) -> bool:
        """Whether hardly a value occurs twice, as in the key of a table; a messy table repeats some."""
        return not self.is_empty and self.distinct > 0.8 * len(self.values)

    def _share(self, pattern: str) -> float:
        return 0 if self.is_empty else cast(float, self.values.str.contains(pattern).mean())

    @cached_property
    def is_number(self) -> bool:
        """Whether nearly all values are numbers."""
        return self._share(_NUMBER) > 0.95

    @cached_property
    def has_decimals(self) -> bool:
        """Whether the values are numbers, some with decimals."""
        return self.is_number and self._share(r"[.,]\d") > 0

    @cached_property
    def is_clock(self) -> bool:
        """Whether the values are times of the day, `14:05`."""
        return self._share(_CLOCK) > 0.95

    @cached_property
    def is_list(self) -> bool:
        """Whether the values are lists, by their type or as text."""
        few = self.values.head(_FEW)
        return len(few) > 0 and all(isinstance(list_of(value), list) for value in few)

    @cached_property
    def is_object(self) -> bool:
        """Whether the values are objects: `{"id": 7}`."""
        few = [value for value in self.raw.head(_FEW) if value is not None]
        return bool(few) and all(isinstance(value, dict) or object_of(value) is not None for value in few)

    @cached_property
    def length(self) -> float:
        """Mean number of characters of a value."""
        return 0 if self.is_empty else cast(float, self.values.str.len_chars().mean())

    @cached_property
    def is_text(self) -> bool:
        """Whether the values are words, and no numbers, lists, addresses or codes of digits."""
        if self.is_empty or self.is_number or self.is_list or self.is_object or self.is_time:
            return False
        return self._share(r"[^\W\d_]{2}") > 0.6 and self._share(r"^(?:https?://|[\w.+-]+@[\w-]+\.)") < 0.5

    @cached_property
    def is_count(self) -> bool:
        """Whether the values are whole numbers without large gaps, as in the key of a table that counts its rows."""
        numbers = self.values.cast(pl.Int64, strict=False)
        return not self.is_empty and not numbers.null_count() and cast(int, numbers.max()) < 2 * self.distinct

    @property
    def can_be_id(self) -> bool:
        """Whether the values can be ids: short or without spaces, no amounts, no lists."""
        is_short = self.length < _LONGEST_ID or (self.length <= _LONGEST_CODE and not self._share(r"\s"))
        is_amount = self.has_decimals and max(self.score("user"), self.score("item")) < CLEAR
        return self.distinct > 1 and is_short and not (is_amount or self.is_list or self.is_object)

    @cached_property
    def time(self) -> TimeReading | None:
        """How the data stage reads the values as times; None if they are none."""
        if self.is_empty or self.raw.dtype == pl.Boolean or self.length > 80:
            return None
        frame = pl.LazyFrame({"time": self.raw})
        part = TableFile(Path(self.name), Path(self.name), frame)
        try:
            with quiet():
                formats = ["excel"] if self.is_of_excel else []
                how = reading(pl.col("time"), [part], formats, list(MISSING), has_clock=False)
                read_as = frame.select(how.values.alias("time")).collect()["time"]
        except (UserError, pl.exceptions.PolarsError):
            return None
        if TWO_DIGITS in how.name and self.has_name and self.score("time") < 1:
            return None  # 10.2.14 may be a version, too
        return _time_reading(how, read_as, len(self.values))

    @cached_property
    def is_of_excel(self) -> bool:
        """Whether the values are days of a spreadsheet between 1990 and 2100, `45296.75`, in a column of times."""
        if self.score("time") < CLEAR or not self.is_number:
            return False
        days = self.values.cast(pl.Float64, strict=False)
        return not days.null_count() and bool(days.is_between(*_DAYS_OF_EXCEL).all())

    @property
    def is_time(self) -> bool:
        """Whether the values are dates, or numbers since 1970; small numbers may be anything."""
        return self.time is not None and not self.time.are_positions

    @cached_property
    def list_sign(self) -> str | None:
        """The sign between the labels of a list that is written as text; None if values are single labels."""
        if self.is_list or self.is_empty:
            return None
        for sign in _SIGNS:
            having = self.values.filter(self.values.str.contains(sign, literal=True))
            if len(having) < 0.3 * len(self.values):
                continue
            pieces = {piece.strip() for value in self.values for piece in value.split(sign)}
            if sign in _NEVER_IN_LABELS or len(pieces) < self.distinct:
                return sign
        return None

    @cached_property
    def decimal(self) -> str | None:
        """Sign before the cents of prices; None if the values are no prices."""
        amounts = prices(self.values.head(ROWS_OF_PRICES).to_list())
        is_price = not self.is_empty and amounts.unread < 0.5 * min(len(self.values), ROWS_OF_PRICES)
        return amounts.decimal if is_price else None

    @cached_property
    def objects(self) -> list[dict[str, Any] | None]:
        """The objects that the column holds: one a row, None where it is missing, or those of its lists."""
        if self.is_list:
            lists = [list_of(value) for value in self.values]
            return [entry for entries in lists for entry in entries or [] if isinstance(entry, dict)]
        values = self.raw.to_list()
        return [value if isinstance(value, dict) else object_of(value) for value in values]

    @cached_property
    def nested(self) -> list[str]:
        """Names of the fields, if the values are objects or lists of objects: `items` holds `[{"item_id": …}]`."""
        if not self.is_object and not self.is_list:
            return []
        fields: Counter[str] = Counter()
        for entry in self.objects[:_FEW]:
            fields.update(list(entry or {}))
        return [name for name, _ in fields.most_common(_MOST_FIELDS) if re.fullmatch(r"[\w $]+", name)]

    def fields(self, levels: int = _DEEPEST) -> Iterator[Column]:
        """Yield columns of the fields of the objects, and of the objects in them, down to so many levels."""
        if not levels:
            return
        is_entry = self.is_entry or self.is_list
        for name in self.nested:
            values = [None if entry is None else _text(entry.get(name)) for entry in self.objects]
            raw = pl.Series(name, values, dtype=pl.String)
            field = Column(f"{self.name}.{name}", raw, is_field=True, is_entry=is_entry)
            # A list in a list has no row for each entry.
            if not (is_entry and field.is_list):
                yield field
                yield from field.fields(levels - 1)

    def examples(self, count: int = 5) -> list[str]:
        """Return the most frequent values, with how often they occur: `view (900)`."""
        return [f"{value} ({often:,})" for value, often in Counter(self.values).most_common(count)]


ROWS_OF_PRICES = 1_000


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def _time_reading(how: Reading, read_as: pl.Series, present: int) -> TimeReading | None:
    times = read_as.drop_nulls()
    if not len(times):
        return None
    unit = how.unit or derived_unit(times)
    # A code such as 12e240 is a number, too, and far beyond any time.
    seconds = (read_as // unit).cast(pl.Int64, strict=False)
    if how.unit is None and are_positions(times, unit):
        is_order = not times.dtype.is_float() and times.n_unique() > 1
        return TimeReading(1, False, seconds, False, True) if is_order else None
    good = int(seconds.is_between(_EARLY, LATEST).sum())
    if good < 0.5 * present:
        return None
    has_clock = bool((seconds.drop_nulls() % 86_400 != 0).any())
    return TimeReading(good / present, how.is_doubtful, seconds, has_clock, False)


def is_one_to_one(first: pl.Series, second: pl.Series) -> bool:
    """Whether each value of one column stands beside one value of the other, so that either can be the id."""
    pairs = pl.DataFrame({"a": first.cast(pl.String), "b": second.cast(pl.String)}).drop_nulls().unique()
    return len(pairs) > 0 and len(pairs) == pairs["a"].n_unique() == pairs["b"].n_unique()


def depends_on(value: pl.Series, key: pl.Series) -> bool:
    """Whether nearly each value of `key` has one value of another column, as an item has one title."""
    if key.dtype.is_nested() or value.dtype.is_nested() or len(key) != len(value):
        return False
    pairs = pl.DataFrame({"key": key.cast(pl.String), "value": value.cast(pl.String)}).drop_nulls()
    if pairs.is_empty():
        return False
    counts = pairs.group_by("key").agg(pl.len(), pl.col("value").n_unique().alias("values"))
    repeated = counts.filter(pl.col("len") > 1)
    return len(repeated) > 0 and cast(float, (repeated["values"] == 1).mean()) > 0.9
