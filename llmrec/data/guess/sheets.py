"""A table of a folder, with its columns and the fields of the objects in them."""

from __future__ import annotations

from functools import cached_property
from itertools import chain, islice

import polars as pl

from llmrec.data.guess.columns import CLEAR, Column
from llmrec.data.guess.files import FoundTable
from llmrec.data.guess.layout import is_made_up

_MOST_COLUMNS = 200


class Sheet:
    """A table with its columns."""

    def __init__(self, found: FoundTable) -> None:
        """Hold a table."""
        self.found = found
        readable = [name for name in found.columns if found.rows[name].dtype not in (pl.Binary, pl.Object)]
        self.columns = [
            Column(name, found.rows[name], has_name=found.has_header and not is_made_up(name))
            for name in readable[:_MOST_COLUMNS]
        ]
        fields = chain.from_iterable(column.fields() for column in list(self.columns))
        self.columns += islice(fields, _MOST_COLUMNS)

    @property
    def path(self) -> str:
        """Path of the table's files, as a card names them."""
        return self.found.path

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)

    @cached_property
    def keys(self) -> list[Column]:
        """Columns that can be the table's key: hardly a value twice."""
        return [column for column in self.columns if column.can_be_id and column.is_unique]

    def named(self, role: str) -> list[Column]:
        """Columns whose name clearly says that they hold a role's ids, and that hold some of them twice."""
        return [column for column in self.columns if column.score(role) >= CLEAR and not column.is_unique]

    @cached_property
    def has_words(self) -> bool:
        """Whether a column holds text, such as titles."""
        return any(column.is_text and column.distinct > 0.5 * len(column.values) for column in self.columns)
