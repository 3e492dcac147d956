"""The base class of all recipe sections, and validation with errors in our words.

What pydantic says of an invalid value is about its schemas; here each error becomes what was expected at a key, and
what was found.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from llmrec import assets, layout
from llmrec.config.former_keys import FORMER_KEYS
from llmrec.errors import InvalidValuesError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]

EXPLAINED = "explained"
"""Type of an error whose message is complete."""
SHOWN = 60
"""Number of characters of a value that a message shows."""
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys with values",
    "model": "keys with values",
    "finite_number": "a finite number",
    "none_required": "null",
    "path": "a path",
    "invalid_key": "text as a key",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "at most {}"),
    "string_too_short": ("min_length", "text"),
    "too_short": ("min_length", "at least {} entries"),
    "too_long": ("max_length", "at most {} entries"),
}


_TYPES = ("int", "float", "str", "bool", "none")
"""Names by which pydantic tells the types of a key apart that allows several."""
Key = tuple[str | int, ...]
SectionsAt = Callable[[Any, Key], list[type[BaseModel]]]

BY_CONTENT = "by_content"
"""Key of a serialization context: of a path, only the last part is given (`Recipe.value_at`)."""


def _written(path: str, info: SerializationInfo) -> str:
    return assets.last_part(path) if info.context and info.context.get(BY_CONTENT) else path


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            "expected letters, digits, dots, hyphens and underscores, the first a letter or digit"
        )
    return name


PlainName = Annotated[str, AfterValidator(_plain_name)]
"""A name that can be a folder's."""

# Values that can be paths are made absolute when a recipe is read, so that a run's recipe works from any folder.
_Path = PlainSerializer(_written, return_type=str)
LocalPath = Annotated[str, AfterValidator(assets.absolute_path), _Path]
"""Path of a file or folder."""
ShippedName = Annotated[str, AfterValidator(assets.absolute_file), _Path]
"""Name of a shipped YAML file, or the path of another."""
ModelSource = Annotated[str, AfterValidator(assets.absolute_model), _Path]
"""A model: a hub id, a local path, or `pypi:…`."""
RunName = Annotated[str, AfterValidator(layout.absolute_run), _Path]
"""A run: its name or folder."""
Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def section_for(cls, value: Any) -> type[Section]:
        """Return the class that reads a value: this one, unless a key of the value names another class."""
        return cls


def validate(model: type[Model], tree: Any, where: str, finished: bool = False) -> Model:
    """Validate a mapping against a schema, with all errors told at once.

    Args:
        model: the schema.
        tree: the mapping.
        where: the file, for the message.
        finished: whether the mapping is the recipe of a finished run, which can be used without the user's own code.

    Raises:
        InvalidValuesError: each bad key as `key: problem`, with the nearest valid key.
    """
    valid, errors = validation_errors(model, tree, finished)
    if valid is not None:
        return valid
    raise InvalidValuesError.of(where, explain(partial(sections_at, model), tree, errors))


def validation_errors(
    model: type[Model], tree: Any, finished: bool = False
) -> tuple[Model | None, list[ErrorDetails]]:
    """Return a mapping as its schema reads it, or None and pydantic's errors; `finished` as in `validate`."""
    try:
        return model.model_validate(tree, context={"finished": finished}), []
    except ValidationError as error:
        return None, error.errors()


def may_lack_code(info: ValidationInfo) -> bool:
    """Whether a user's own code may be missing, because the recipe belongs to a finished run."""
    return bool(info.context and info.context.get("finished"))


def located_error(location: tuple[str, ...], message: str, value: Any) -> ValidationError:
    """Return an error for a validator to raise. Its message is shown without the value.

    Args:
        location: keys below the key that the validator reads.
        message: the problem and its remedy.
        value: the invalid value.
    """
    error = PydanticCustomError(EXPLAINED, "{message}", {"message": message})
    return ValidationError.from_exception_data(
        "recipe", [InitErrorDetails(type=error, loc=location, input=value)]
    )


def sections_at(model: type[BaseModel], tree: Any, location: Sequence[str | int]) -> list[type[BaseModel]]:
    """Return the sections that could hold the last key of an error's location."""
    sections, value = [model], tree
    for part in location[:-1]:
        value = inside(value, part)
        owner = next((section for section in sections if part in section.model_fields), None)
        if owner is not None:
            inner = sections_in(owner.model_fields[str(part)].annotation)
            sections = inner or sections
        sections = [
            section.section_for(value) if issubclass(section, Section) else section for section in sections
        ]
    return sections


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a type allows, those in a list or a union included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    return [section for inner in arguments for section in sections_in(inner)]


@dataclass(frozen=True)
class _Problem:
    """One error of a schema.

    Attributes:
        key: keys of the value, from the outermost.
        is_branch: whether the schema allows several types there, of which the error is about one.
        error: the error.
    """

    key: Key
    is_branch: bool
    error: ErrorDetails


@dataclass(frozen=True)
class ExplainedError:
    """What is wrong with one key.

    Attributes:
        sentence: `key: problem (found value)`.
        is_unknown: whether the schema has no such key.
    """

    sentence: str
    is_unknown: bool


def explain(sections_at: SectionsAt, tree: Any, errors: Sequence[ErrorDetails]) -> list[str]:
    """Describe the errors of a schema, those of a key in one sentence: `key: problem (found value)`.

    Args:
        sections_at: function of the tree and a key that returns the sections which could hold its last part.
        tree: the mapping that was validated.
        errors: pydantic's errors.
    """
    return [error.sentence for error in explain_each(sections_at, tree, errors).values()]


def explain_each(
    sections_at: SectionsAt, tree: Any, errors: Sequence[ErrorDetails]
) -> dict[Key, ExplainedError]:
    """Return the errors of a schema by their keys; the arguments are those of `explain`."""
    problems = [_read(tree, error) for error in errors]
    # Where one of several types fits but for an inner value, the others say nothing.
    outer = {problem.key[:end] for problem in problems for end in range(len(problem.key))}
    by_key: dict[Key, list[ErrorDetails]] = {}
    for problem in problems:
        if not (problem.is_branch and problem.key in outer):
            by_key.setdefault(problem.key, []).append(problem.error)
    return {
        key: ExplainedError(_sentence(key, of_key, sections_at, tree), of_key[0]["type"] == "extra_forbidden")
        for key, of_key in by_key.items()
    }


def inside(value: Any, part: str | int) -> Any:
    """Return the value of a key in a mapping or list; None if there is none."""
    if isinstance(value, Mapping):
        return value.get(part, next((inner for key, inner in value.items() if str(key) == part), None))
    if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _read(tree: Any, error: ErrorDetails) -> _Problem:
    """Separate the keys in an error's location from the names of types."""
    key: list[str | int] = []
    value, is_branch = tree, False
    for part in error["loc"]:
        if _is_key(value, part):
            key.append(part)
            value = inside(value, part)
        elif part != "[key]":
            is_branch = True
    return _Problem(tuple(key), is_branch, error)


def _is_key(value: Any, part: str | int) -> bool:
    """Whether a part of a location is a key of a value; it may have been filled in by a default."""
    if isinstance(part, int) or inside(value, part) is not None:
        return True
    return part.isidentifier() and part.islower() and part not in _TYPES


def _sentence(key: Key, errors: list[ErrorDetails], sections_at: SectionsAt, tree: Any) -> str:
    name, first = ".".join(map(str, key)), errors[0]
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        if name in FORMER_KEYS:
            return FORMER_KEYS[name].message()
        valid = sorted({field for section in sections_at(tree, key) for field in section.model_fields})
        return f"unknown key {name!r} ({did_you_mean(str(key[-1]), valid)})"
    if kind == "missing":
        return f"{name}: required, but missing"
    if kind in (EXPLAINED, "value_error"):
        problem = first["msg"].removeprefix("Value error, ")
        shows = kind != EXPLAINED and not isinstance(value, BaseModel | Mapping)
    else:
        near = _near(value, errors)
        problem = near or f"expected {_any_of(errors)}"
        shows = near is None
    shown = f" (found {shown_value(value)})" if shows else ""
    return f"{name + ': ' if name else ''}{problem}{shown}"


def _near(value: Any, errors: list[ErrorDetails]) -> str | None:
    """Ask whether a text is meant to be one of those that are allowed; None if none is near."""
    if not isinstance(value, str):
        return None
    words = [
        word.strip("'") for error in errors if error["type"] == "literal_error" for word in _choices(error)
    ]
    near = difflib.get_close_matches(value, words, n=1, cutoff=0.5)
    return f"no {value!r} ({did_you_mean(value, near)})" if near else None


def _choices(error: ErrorDetails) -> list[str]:
    """The values that an error says are allowed: `'a', 'b' or 'c'`."""
    return str(error["ctx"]["expected"]).replace(" or ", ", ").split(", ")


def _any_of(errors: list[ErrorDetails]) -> str:
    """What some errors, each of another type, say was expected."""
    texts = [text for error in errors for text in _expectations(error)]
    *others, last = dict.fromkeys(texts)
    return f"{', '.join(others)} or {last}" if others else last


def _expectations(error: ErrorDetails) -> list[str]:
    """What an error says was expected, in a few words; several things where one of them would do."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return _choices(error)
    if kind == "string_type" and error["loc"][-1] == "[key]":
        return [_KINDS["invalid_key"]]
    if kind in _BOUNDS:
        name, text = _BOUNDS[kind]
        return [text.format(f"{context[name]:g}").replace(" 1 entries", " one entry")]
    return [next((text for start, text in _KINDS.items() if kind.startswith(start)), "another value")]


def shown_value(value: Any) -> str:
    """A value as YAML has it, cut to `SHOWN` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = value.isoformat() if isinstance(value, date) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
