"""Fills rendered templates: constants encoded once, and slots that look their tokens up.

Token ids of item fields, user fields and short event fields are cached as they first come up; what users
wrote (`review`, `summary`) comes back too seldom to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from llmrec.data.card import EVENT_FIELDS
from llmrec.data.log import TEXT_FIELDS
from llmrec.errors import UserError
from llmrec.text.prompts import Role, Segment
from llmrec.text.tokens import TextEncoder

UNKNOWN = "?"
_LACKING: list[int] = []


class MissingFieldError(Exception):
    """The data lacks what a template says of one target or user; such a sample is left out and counted."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class _PromptContext(Protocol):
    @property
    def items(self) -> Sequence[str]: ...
    @property
    def user(self) -> str | None: ...
    @property
    def events(self) -> Mapping[str, Sequence[str | None]]: ...
    @property
    def candidates(self) -> Sequence[str]: ...


class TemplatePart:
    """A piece of a rendered template: always the same tokens, or a slot (subclasses).

    Attributes:
        index: of the slot, as `llmrec.text.prompts.Slot` counts.
    """

    __slots__ = ("_ids", "index")

    def __init__(self, ids: list[int], index: int = 0) -> None:
        self._ids = ids
        self.index = index

    def read(self, case: _PromptContext) -> Sequence[int]:
        """Token ids of this piece for a case."""
        return self._ids


class _Slot(TemplatePart):
    """A slot; where the data has nothing, `fallback` stands, or, without it, the sample is left out."""

    __slots__ = ("_find", "_name")

    def __init__(self, index: int, name: str, find: Callable[..., Any], fallback: list[int] | None) -> None:
        super().__init__(fallback or _LACKING, index)
        self._name = name
        self._find = find

    def _checked(self, found: Sequence[int] | None) -> Sequence[int]:
        if found:
            return found
        if self._ids is _LACKING:
            raise MissingFieldError(self._name)
        return self._ids


class _ItemSlot(_Slot):
    __slots__ = ()

    def read(self, case: _PromptContext) -> Sequence[int]:
        return self._checked(self._find(case.items[self.index]))


class _CandidateSlot(_Slot):
    __slots__ = ()

    def read(self, case: _PromptContext) -> Sequence[int]:
        return self._checked(self._find(case.candidates[self.index]))


class _UserSlot(_Slot):
    __slots__ = ()

    def read(self, case: _PromptContext) -> Sequence[int]:
        return self._checked(self._find(case.user))


class _EventSlot(_Slot):
    __slots__ = ()

    def read(self, case: _PromptContext) -> Sequence[int]:
        values = case.events.get(self._name)
        text = None if values is None else values[self.index]
        return self._checked(self._find(text) if text else None)


class _Column(dict[Any, Any]):
    """Id → tokens of one field, encoded when first asked for; None where there is no such text."""

    def __init__(self, encode: Callable[[str], list[int]], name: str, rows: Mapping[str, Mapping[str, str]]):
        super().__init__()
        self._encode, self._name, self._rows = encode, name, rows

    def __missing__(self, key: Any) -> list[int] | None:
        text = self._rows.get(key, {}).get(self._name)
        ids = self[key] = self._encode(text) if text else None
        return ids


class Filler:
    """Turns segments of rendered templates into parts, and parts into token ids.

    Args:
        text: encodes text as data.
        items: item id → text fields.
        item_tokens: item id → its SID tokens.
        users: user id → text fields.
    """

    def __init__(
        self,
        text: TextEncoder,
        items: Mapping[str, Mapping[str, str]],
        item_tokens: Mapping[str, Sequence[int]],
        users: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._text = text
        self._tables = {"item": items, "user": users}
        self._sids = item_tokens
        self._columns: dict[tuple[str, str], _Column] = {}
        self._unknown = text(UNKNOWN)

    def fill(self, parts: Sequence[TemplatePart], case: _PromptContext) -> list[int]:
        """Token ids of a whole template.

        Raises:
            MissingFieldError: nothing is known for a slot of the target or the user.
            UserError: an item has no semantic ID.
        """
        ids: list[int] = []
        for part in parts:
            ids += part.read(case)
        return ids

    def part(self, segment: Segment) -> TemplatePart:
        """A segment, ready to be read."""
        if isinstance(segment, str):
            return TemplatePart(self._text(segment))
        role, index, name = segment.role, segment.index, segment.name
        fallback = self._unknown if role in ("history", "candidates") else None
        if name in EVENT_FIELDS and role in ("history", "target"):
            find: Callable[..., Any] = self._text.encode_uncached if name in TEXT_FIELDS else self._text
            return _EventSlot(index, name, find, fallback)
        if role == "user":
            return _UserSlot(index, f"user.{name}", self._column("user", name).__getitem__, fallback)
        find = self._sid if name == "sid" else self._column("item", name).__getitem__
        return _CLASSES[role](index, name, find, fallback)

    def _column(self, table: str, name: str) -> _Column:
        key = (table, name)
        if key not in self._columns:
            self._columns[key] = _Column(self._text, name, self._tables[table])
        return self._columns[key]

    def _sid(self, item: str) -> Sequence[int]:
        try:
            return self._sids[item]
        except KeyError:
            raise UserError(f"item {item!r} has no semantic ID in this run") from None


_CLASSES: dict[Role, type[_Slot]] = {
    "history": _ItemSlot,
    "target": _ItemSlot,
    "candidates": _CandidateSlot,
}
