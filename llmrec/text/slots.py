"""Fills rendered templates: constant text is encoded once, and slots look up their tokens.

Token ids of item fields, user fields and short event fields are cached at first use. Texts that users wrote
(`review`, `summary`) are not cached, because they rarely occur twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from llmrec.data.log import TEXT_FIELDS
from llmrec.data.tables.described import EVENT_FIELDS
from llmrec.errors import UserError
from llmrec.text.prompts import Role, Segment
from llmrec.text.tokens import TextEncoder

UNKNOWN = "?"
_LACKING: list[int] = []


class MissingFieldError(Exception):
    """The data lacks a field of a target or user that a template names. Such a sample is skipped and counted."""

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
    """A part of a rendered template: constant tokens, or a slot (subclasses).

    Attributes:
        index: index of the slot, as `llmrec.text.prompts.Slot` counts; 0 for constant tokens.
    """

    __slots__ = ("_ids", "index")

    def __init__(self, ids: list[int], index: int = 0) -> None:
        self._ids = ids
        self.index = index

    def read(self, context: _PromptContext) -> Sequence[int]:
        """Return the token ids of this part for one sample."""
        return self._ids


class _Slot(TemplatePart):
    """A slot. If the data has no value, the slot uses `fallback`; without a fallback the sample is skipped."""

    __slots__ = ("_find", "_name")

    def __init__(self, index: int, name: str, find: Callable[..., Any], fallback: list[int] | None) -> None:
        super().__init__(fallback or _LACKING, index)
        self._name = name
        self._find = find

    def _or_fallback(self, ids: Sequence[int] | None) -> Sequence[int]:
        if ids:
            return ids
        if self._ids is _LACKING:
            raise MissingFieldError(self._name)
        return self._ids


class _ItemSlot(_Slot):
    __slots__ = ()

    def read(self, context: _PromptContext) -> Sequence[int]:
        return self._or_fallback(self._find(context.items[self.index]))


class _CandidateSlot(_Slot):
    __slots__ = ()

    def read(self, context: _PromptContext) -> Sequence[int]:
        return self._or_fallback(self._find(context.candidates[self.index]))


class _UserSlot(_Slot):
    __slots__ = ()

    def read(self, context: _PromptContext) -> Sequence[int]:
        return self._or_fallback(self._find(context.user))


class _EventSlot(_Slot):
    __slots__ = ()

    def read(self, context: _PromptContext) -> Sequence[int]:
        values = context.events.get(self._name)
        text = None if values is None else values[self.index]
        return self._or_fallback(self._find(text) if text else None)


class _Column(dict[Any, Any]):
    """Id → token ids of one field, encoded at first use; None for a row without this text."""

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
        text: encoder of text as data.
        items: item id → text fields.
        item_tokens: item id → token ids of its SID.
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

    def fill(self, parts: Sequence[TemplatePart], context: _PromptContext) -> list[int]:
        """Return the token ids of a whole template.

        Raises:
            MissingFieldError: the data has no value for a slot of the target or the user.
            UserError: an item has no semantic ID.
        """
        ids: list[int] = []
        for part in parts:
            ids += part.read(context)
        return ids

    def part(self, segment: Segment) -> TemplatePart:
        """Convert a segment to a part."""
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
