"""The tables of a dataset as its card describes them: files, how they are written, and what their columns mean."""

from __future__ import annotations

import codecs
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from llmrec.config import Part, Section
from llmrec.data.words import MISSING
from llmrec.errors import UserError, did_you_mean, nearest_name

Format = Literal["csv", "jsonl", "loose_jsonl", "parquet", "sequences", "blocks"]
_ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
"""A column in a template of several."""
FILE_NAME, FILE_FOLDER = "file.name", "file.folder"
"""Columns that every file has: its name without the ending, and that of its folder."""
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
EVENT_FIELDS = ("time", "rating", "event", "review", "summary")
"""Optional meanings of an interaction's columns, besides `user` and `item`."""
PART = "part"
"""Meaning of the column that names the part of a given split; a card names it by `split.column`."""
TIME_UNITS = ("s", "ms", "us", "ns", "excel")
"""Units of numbers that `time_format` can name: since 1970, or days as spreadsheets count them."""


def _canonical_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError("no such encoding (try utf-8, latin-1, cp1252)") from None


def _within_a_line(text: str) -> str:
    if not text or "\r" in text or "\n" in text:
        raise ValueError("expected characters within a line")
    return text


def _single(text: str) -> str:
    if len(text) != 1:
        raise ValueError("expected one character")
    return text


_Characters = Annotated[str, AfterValidator(_within_a_line)]
_Character = Annotated[_Characters, AfterValidator(_single)]


def columns_in(text: str) -> list[str]:
    """Return the columns that a card names for a meaning: one, or those of a template (`"{title} ({year})"`)."""
    return PLACEHOLDER.findall(text) or [text]


class Table(Section):
    """One table of a dataset: its files, their format, and the meaning of its columns.

    Attributes:
        path: file or glob, relative to the dataset's folder; of the log also one for each part of a given split:
            `{train: …, valid: …, test: …}`.
        format: format of the files; null derives it from the file's ending. `loose_jsonl` is one Python dict a line,
            `sequences` one line `user item item …` a user, with the columns `user` and `item`. `blocks` are a line
            `item:` and below it lines of CSV that belong to the item, which is the first column of `header`.
        separator: separator of `csv` files, of one or more characters (`::`). null: the one with which the first line
            has the columns that the card names; a comma (a tab for `.tsv`) is tried first, then `;`, tab, `|`, `::`.
        header: whether the first line names the columns; or a list of the names if no line does.
        skip: number of lines above the header line, or above the first row, that are no part of the table.
        encoding: encoding of the text; any name that Python knows. null: that of the byte order mark, else UTF-8,
            else cp1252.
        quote: character around values that contain a separator; null if quotes are plain text.
        escape: character before a quote or separator that is plain text, such as a backslash; null if there is none,
            and two quotes inside a quoted value stand for one.
        rest: whether the last column of `csv` files takes the rest of the line, separators included; quotes are plain
            text then (`quote: null`).
        columns: meaning → column name, or a template of several columns (`"{title} ({year})"`). `file.name` is the
            name of the file, without its ending, and `file.folder` that of its folder.
        missing: words that mean a missing value, in every column; an empty value always does.
        without_id: rows without an id are an error (`error`), or are dropped and counted (`drop`).
        split_on: meaning → separator, for columns that hold a list as text.
        flags: meaning → columns of 0 and 1; the value is the list of the columns that hold 1.
    """

    path: str | dict[Part, str]
    format: Format | None = None
    separator: _Characters | None = None
    header: bool | list[str] = True
    skip: Annotated[int, Field(ge=0)] = 0
    encoding: Annotated[str, AfterValidator(_canonical_encoding)] | None = None
    quote: _Character | None = '"'
    escape: _Character | None = None
    rest: bool = False
    columns: dict[str, str]
    missing: list[str] = Field(default=list(MISSING))
    without_id: Literal["error", "drop"] = "error"
    split_on: dict[str, str] = Field(default={})
    flags: dict[str, list[str]] = Field(default={})

    @model_validator(mode="after")
    def _check_path(self) -> Table:
        if isinstance(self.path, dict) and not isinstance(self, Interactions):
            raise ValueError("path: only the log has files of the parts train, valid and test")
        if isinstance(self.path, dict) and "train" not in self.path:
            raise ValueError("path: the part train is needed")
        return self

    @model_validator(mode="after")
    def _check_blocks(self) -> Table:
        if self.format == "blocks" and not (isinstance(self.header, list) and len(self.header) > 1):
            raise ValueError("format blocks needs `header`, such as [item, user, rating, time]")
        return self

    @model_validator(mode="after")
    def _check_split_on(self) -> Table:
        unknown = sorted(set(self.split_on) - set(self.columns))
        if unknown:
            hint = did_you_mean(unknown[0], list(self.columns), "there are")
            raise ValueError(f"split_on: {unknown[0]!r} is not among columns ({hint})")
        signs = [sign for sign in (self.separator, self.quote, self.escape) if sign is not None]
        if len(set(signs)) < len(signs):
            raise ValueError("separator, quote and escape must differ")
        if self.rest and (self.separator is None or self.quote is not None or self.escape is not None):
            raise ValueError(
                "rest: quotes are plain text in the rest of a line; set `separator` and `quote: null`"
            )
        return self

    def columns_read(self) -> set[str]:
        """Return all columns of its files that the table is read from."""
        wanted = {column for text in self.columns.values() for column in columns_in(text)}
        return wanted.union(*self.flags.values())

    def columns_in_rows(self) -> set[str]:
        """Return the columns that each row has one value of: those of the id. Others may hold lists."""
        ids = (self.columns[meaning] for meaning in ("item", "user") if meaning in self.columns)
        return {column for text in ids for column in columns_in(text)}

    def format_of(self, path: Path) -> Format:
        """Return the format of one of this table's files.

        Raises:
            UserError: neither the card nor the file's ending gives the format.
        """
        ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        file_format = self.format or _ENDINGS.get(ending.lower())
        if ending.lower() in _SPREADSHEETS:
            raise UserError(f"{path}: a spreadsheet; export it as CSV")
        if file_format is None:
            raise UserError(
                f"{path}: the ending {ending!r} does not tell the format; write `format: csv` (or jsonl, parquet) "
                "into the card"
            )
        return file_format


class Join(Table):
    """A second table of the log, such as the orders of order lines: its columns stand beside those of the log.

    Every row of the log gets the row of this table with the same value in a column of each. Where both have a column
    of one name, the log's is meant, and `joined.NAME` is this table's.

    Attributes:
        by: column of the log, whose values this table has under the same name; or `{column of the log: column here}`.
        columns: none; `interactions.columns` may name the columns of both.
    """

    by: Annotated[str | dict[str, str], Field(min_length=1)]
    columns: dict[str, str] = Field(default={}, max_length=0)

    @field_validator("by")
    @classmethod
    def _one_pair(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(value, dict) and len(value) != 1:
            raise ValueError("give one column of the log and its column here: {order_id: id}")
        return value

    @property
    def keys(self) -> tuple[str, str]:
        """The column of the log, and that of this table."""
        if isinstance(self.by, str):
            return self.by, self.by
        ((log, here),) = self.by.items()
        return log, here


class Interactions(Table):
    """The interaction log: columns `user`, `item`, and optional `time`, `rating`, `event`, `review`, `summary`.

    `review` and `summary` are texts that the user wrote. They stay text, so they take memory while they are read.
    `history` is a list of the items before `item`; a row is then one target with what came before, as in files that
    are made for training. Rows of a user are joined to one sequence, which takes memory too.
    `time` may be a list of two columns: a day, and a clock time or milliseconds.

    Attributes:
        join: a second table whose columns may be named too, such as the orders of order lines.
        time_format: format of the times, or several, in the codes of strptime (`%d/%m/%Y %H:%M`); or the unit of
            numbers since 1970: `s`, `ms`, `us`, `ns`; or `excel`, the days of spreadsheets. null derives it.
        pattern: meaning of `user` or `item` → regular expression for the whole value, whose group is the id
            (`(.+)-1`). A row, or an entry of a list, that does not match is no interaction: left out and counted.
        times: rows without a time, or with one that stands for none (negative, before 1970, 1970-01-01 00:00, after
            2100), are an error (`error`), or are dropped and counted (`drop`).
    """

    join: Join | None = None
    time_format: str | list[str] | None = None
    pattern: dict[Literal["user", "item"], str] = Field(default={})
    times: Literal["error", "drop"] = "error"

    def columns_in_rows(self) -> set[str]:
        """Return all columns: a row is one interaction."""
        return self.columns_read()

    def time_formats(self) -> list[str]:
        """Return the formats of the times; none if they are to be derived."""
        return [self.time_format] if isinstance(self.time_format, str) else list(self.time_format or [])

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, value: dict[str, str]) -> dict[str, str]:
        for expression in value.values():
            try:
                groups = re.compile(expression).groups
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression: {error}") from None
            if groups != 1:
                raise ValueError(f"{expression!r} needs one group, the id")
        return value

    @field_validator("columns", mode="before")
    @classmethod
    def _two_columns_of_time(cls, value: Any) -> Any:
        """Turn `time: [day, clock]` into a template of both."""
        time = value.get("time") if isinstance(value, dict) else None
        if not isinstance(time, list):
            return value
        if len(time) != 2:
            raise ValueError("time: give one column, or two: a day, and a clock time or milliseconds")
        return value | {"time": " ".join(f"{{{name}}}" for name in time)}

    @field_validator("time_format")
    @classmethod
    def _known_formats(cls, value: str | list[str] | None) -> str | list[str] | None:
        formats = [value] if isinstance(value, str) else value or []
        units = [form for form in formats if form in TIME_UNITS]
        if units and len(formats) > 1:
            raise ValueError(f"{units[0]!r} is a unit of numbers, and stands alone")
        for form in set(formats) - set(units):
            _check_format(form)
        return value

    @field_validator("columns")
    @classmethod
    def _meanings(cls, value: dict[str, str]) -> dict[str, str]:
        meanings = ("user", "item", "history", *EVENT_FIELDS)
        unknown = sorted(set(value) - set(meanings))
        if unknown:
            raise ValueError(f"{unknown[0]!r} has no meaning here ({did_you_mean(unknown[0], meanings)})")
        beside = sorted(set(value) & set(EVENT_FIELDS))
        if "history" in value and beside:
            raise ValueError(f"{beside[0]!r} is unknown for the items of `history`; leave one of the two out")
        return _require(value, "user", "item")

    def with_part(self, column: str) -> Interactions:
        """Return this table with a column that names the part of a given split (`PART`)."""
        return self.model_copy(update={"columns": self.columns | {PART: column}})


class Items(Table):
    """Metadata of the items: columns `item`, `title` and any others.

    Later stages use `categories`, `brand`, `price` and `description`.

    Attributes:
        decimal: sign before the cents of a price, `.` or `,`; null: that of the column's prices that leave no doubt,
            else `.`.
    """

    decimal: Literal[".", ","] | None = None

    @field_validator("columns")
    @classmethod
    def _meanings(cls, value: dict[str, str]) -> dict[str, str]:
        return _require(value, "item", "title")


class Users(Table):
    """Attributes of the users: column `user` and any others."""

    @field_validator("columns")
    @classmethod
    def _meanings(cls, value: dict[str, str]) -> dict[str, str]:
        return _require(value, "user")


def _check_format(form: str) -> None:
    """Raise a ValueError unless a date can be read back in this format."""
    moment = datetime(2003, 12, 24, 23, 59, tzinfo=UTC)
    try:
        read = datetime.strptime(moment.strftime(form), form)
    except ValueError:
        read = None
    if read is None or read.date() != moment.date():
        units = ", ".join(TIME_UNITS)
        raise ValueError(f"{form!r} is no format of dates with year, month and day (%Y-%m-%d), nor {units}")


def _require(columns: dict[str, str], *needed: str) -> dict[str, str]:
    for name in needed:
        if name not in columns:
            near = nearest_name(name, [other for other in columns if other not in needed])
            raise ValueError(f"{name!r} is required" + (f" (did you mean it by {near!r}?)" if near else ""))
    for name in ("user_id", "item_id"):
        if name in columns:
            raise ValueError(f"{name!r} is a name that llmrec writes; map {name.removesuffix('_id')!r}")
    return columns
