"""Templates: Jinja sources that are rendered into segments of text and slots for the data's values.

A template never sees item text, user attributes or reviews. Fields render as private markers. The rendered
string is split at the markers, so that text, titles and semantic IDs reach the encoder as separate segments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, Literal

from jinja2 import StrictUndefined, TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from llmrec.config import Section
from llmrec.data.tables.described import EVENT_FIELDS
from llmrec.errors import UserError, did_you_mean

Role = Literal["history", "target", "user", "candidates"]
_MARK = re.compile("\ue000([a-z]+):([0-9]+):([^\ue000\ue001]+)\ue001")
_LEFT_OVER = re.compile("[\ue000\ue001]")
_UNREADABLE = "a field is spliced in as it is: no filter can change it, and no condition can read it"
_CALLED = {
    "history": "an item of the history",
    "target": "the target",
    "candidates": "a candidate",
    "user": "the user",
}


class Template(Section):
    """One wording of a task.

    Attributes:
        id: name within its file.
        split: `unseen` excludes the wording from training.
        language: language of the wording; a recipe selects the templates of one language, or all.
        tree: promises that the text before the history depends neither on the target nor on the history's
            length, so that all targets of a user share one trunk; `load_task` checks the promise.
        system: the system message.
        text: the user message.
        answer: the text that the model learns.
        end: `false` omits the end token. An answer that directly continues the history may be followed by the end
            or by the next item of a longer history, and a model cannot know which.
        needs: fields that a dataset may lack; without them the template is switched off.
        target_in_text: whether the text may name the target of a history (a query made of its fields).
    """

    id: str
    split: Literal["seen", "unseen"] = "seen"
    language: Literal["en", "zh"] = "en"
    tree: bool = False
    system: str | None = None
    text: str
    answer: str = "{{ target.sid }}"
    end: bool = True
    needs: list[str] = Field(default=[])
    target_in_text: bool = False


@dataclass(frozen=True)
class Fields:
    """Fields that a dataset has.

    Attributes:
        item: fields of the items.
        user: fields of the users.
        event: fields of the interactions, a subset of `EVENT_FIELDS`.
    """

    item: frozenset[str] = frozenset({"sid", "title"})
    user: frozenset[str] = frozenset()
    event: frozenset[str] = frozenset()

    def missing(self, needs: Iterable[str]) -> list[str]:
        """Return the needed fields that the data lacks; a user field is written `user.age`."""
        return [need for need in needs if need not in self.names()]

    def names(self) -> frozenset[str]:
        """Return the names of all fields, as `needs` writes them."""
        return self.item | self.event | {f"user.{name}" for name in self.user}

    def plus(self, needs: Iterable[str]) -> Fields:
        """Return these fields and the needed ones."""
        needs = frozenset(needs)
        users = {need for need in needs if need.startswith("user.")}
        event = needs & set(EVENT_FIELDS)
        return Fields(
            self.item | (needs - users - event),
            self.user | {need.removeprefix("user.") for need in users},
            self.event | event,
        )


@dataclass(frozen=True)
class Slot:
    """A place in a rendered template that the data fills.

    Attributes:
        role: whose field it is.
        index: index of the item. History items count from 0, and the target follows them. Candidates count from 0.
            The user has index 0.
        name: name of the field.
    """

    role: Role
    index: int
    name: str


Segment = str | Slot


@dataclass(frozen=True)
class TemplateScope:
    """The names that a template may use when it is rendered.

    Attributes:
        history: number of history items; None if the template may not name `history`.
        target: whether the template may name `target`.
        user: whether the template may name `user`.
        candidates: number of candidates; 0 if the template may not name `candidates`.
        position: index of the target among the candidates; None outside answers.
    """

    history: int | None = None
    target: bool = False
    user: bool = False
    candidates: int = 0
    position: int | None = None

    def names(self, fields: Fields) -> dict[str, Any]:
        """Return the variables of a template: views whose fields are markers, lists of views, and the position."""
        items = fields.item | fields.event
        names: dict[str, Any] = {}
        if self.history is not None:
            names["history"] = [_View("history", i, items) for i in range(self.history)]
        if self.target:
            names["target"] = _View("target", self.history or 0, items)
        if self.user:
            names["user"] = _View("user", 0, fields.user)
        if self.candidates:
            names["candidates"] = [_View("candidates", i, fields.item) for i in range(self.candidates)]
        if self.position is not None:
            names["position"] = self.position
        return names


class _View:
    """The fields of an item or a user, as a template sees them: each is a marker."""

    def __init__(self, role: Role, index: int, fields: frozenset[str]) -> None:
        self._role = role
        self._index = index
        self._fields = fields

    def __getattr__(self, name: str) -> _Field:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._fields:
            hint = did_you_mean(name, sorted(self._fields), "there are")
            raise UserError(f"{_CALLED[self._role]} has no field {name!r} ({hint})")
        return _Field(f"\ue000{self._role}:{self._index}:{name}\ue001")

    def __str__(self) -> str:
        raise UserError(f"{_CALLED[self._role]} is no text: name a field of it, as in {{{{ target.title }}}}")


class _Field:
    """A field, as a template sees it: a marker that can be written and joined with other text, but not be read."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: Any) -> _Field:
        return _Field(self._text + other) if isinstance(other, str) else self._added(self, other)

    def __radd__(self, other: Any) -> _Field:
        return _Field(other + self._text) if isinstance(other, str) else self._added(other, self)

    @staticmethod
    def _added(first: Any, second: Any) -> _Field:
        if isinstance(first, _Field) and isinstance(second, _Field):
            return _Field(first._text + second._text)
        raise UserError("a field can be added to a str only")

    def _refuse(self, *args: Any) -> Any:
        raise UserError(_UNREADABLE)

    __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse


def _not_of_fields(function: Any) -> Callable[..., Any]:
    """Return a filter or test of Jinja that refuses fields, and texts with fields in them."""

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, _Field) or (isinstance(value, str) and _LEFT_OVER.search(value)):
                raise UserError(_UNREADABLE)
        return function(*args, **kwargs)

    return checked


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    for functions in (environment.filters, environment.tests):
        functions.update({name: _not_of_fields(function) for name, function in functions.items()})
    return environment


_ENVIRONMENT = _environment()


@cache
def variables_in(source: str) -> frozenset[str]:
    """Return the variables that a template uses (`history`, `target`, …).

    Raises:
        UserError: a syntax error.
    """
    try:
        return frozenset(find_undeclared_variables(_ENVIRONMENT.parse(source))) - set(_ENVIRONMENT.globals)
    except TemplateError as error:
        raise UserError(str(error)) from None


def uses_history(template: Template) -> bool:
    """Whether a template's text or answer names the history."""
    return "history" in variables_in(template.text) | variables_in(template.answer)


def render(source: str, scope: TemplateScope, fields: Fields) -> list[Segment]:
    """Render a template.

    Args:
        source: Jinja source.
        scope: the names that the template may use.
        fields: fields that the data has.

    Returns:
        Text and slots in order. Adjacent text is one segment.

    Raises:
        UserError: a syntax error, an unknown name or field, or a filter or condition on a field.
    """
    names = scope.names(fields)
    for name in sorted(variables_in(source) - set(names)):
        raise UserError(f"there is no {name!r} here ({did_you_mean(name, sorted(names), 'there are')})")
    try:
        text = _ENVIRONMENT.from_string(source).render(names)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise UserError(str(error)) from None
    return _cut(text)


def _cut(text: str) -> list[Segment]:
    segments: list[Segment] = []
    position = 0
    for match in _MARK.finditer(text):
        if match.start() > position:
            segments.append(text[position : match.start()])
        segments.append(Slot(match[1], int(match[2]), match[3]))  # type: ignore[arg-type]
        position = match.end()
    if position < len(text):
        segments.append(text[position:])
    if any(isinstance(segment, str) and _LEFT_OVER.search(segment) for segment in segments):
        raise UserError(_UNREADABLE)
    return segments


def slots(segments: Sequence[Segment]) -> list[Slot]:
    """Return the slots of a rendered template, in order."""
    return [segment for segment in segments if isinstance(segment, Slot)]


def split_trunk(segments: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
    """Split a rendered prompt after its last history slot into the trunk and the tail."""
    last = max((i for i, s in enumerate(segments) if isinstance(s, Slot) and s.role == "history"), default=-1)
    return list(segments[: last + 1]), list(segments[last + 1 :])


def plain_text(value: Any) -> str | None:
    """Convert a table's value to text for prompts: lists joined by commas, whole numbers without `.0`.

    Returns None for missing values, booleans and types without a text form.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return str(value)
    return f"{value:.7g}" if math.isfinite(value) else None


def row_texts(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, str]]:
    """Convert rows of a table to id → text fields, without missing values.

    Args:
        rows: rows of `data/items.parquet` or `data/users.parquet`.
        key: name of the id column, `item_id` or `user_id`.
    """
    texts = {}
    for row in rows:
        fields = {name: plain_text(value) for name, value in row.items() if name != key}
        texts[row[key]] = {name: text for name, text in fields.items() if text is not None}
    return texts
