"""The base class of all recipe sections, and validation with one-line errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

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
from llmrec.errors import UserError, did_you_mean

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]

BY_CONTENT = "by_content"
"""Key of a serialization context: of a path, only the last part is given (`Recipe.value_at`)."""


def _written(path: str, info: SerializationInfo) -> str:
    return assets.last_part(path) if info.context and info.context.get(BY_CONTENT) else path


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
    """Validate a mapping against a schema, with all errors in one line.

    Args:
        model: the schema.
        tree: the mapping.
        where: the file, for the message.
        finished: whether the mapping is the recipe of a finished run, which can be used without the user's own code.

    Raises:
        UserError: lists each bad key as `key: problem`, with the nearest valid key.
    """
    try:
        return model.model_validate(tree, context={"finished": finished})
    except ValidationError as error:
        problems = "; ".join(_explain(model, tree, e) for e in error.errors())
        raise UserError(f"{where}: {problems}") from None


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
    error = PydanticCustomError(_EXPLAINED, "{message}", {"message": message})
    return ValidationError.from_exception_data(
        "recipe", [InitErrorDetails(type=error, loc=location, input=value)]
    )


_EXPLAINED = "explained"


def _explain(model: type[BaseModel], tree: Any, error: Any) -> str:
    location, sections = [str(part) for part in error["loc"]], _sections_at(model, tree, error["loc"])
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        if key in FORMER_KEYS:
            return FORMER_KEYS[key].message()
        valid = sorted({name for section in sections for name in section.model_fields})
        return f"unknown key {key!r} ({did_you_mean(location[-1], valid)})"
    if error["type"] == "missing":
        return f"{key}: required, but missing"
    problem = error["msg"].removeprefix("Value error, ")
    value = repr(error["input"])
    shown = f" (found {value if len(value) <= 60 else value[:57] + '...'})"
    if not key or error["type"] == _EXPLAINED:
        shown = ""
    return f"{key + ': ' if key else ''}{problem}{shown}"


def _sections_at(model: type[BaseModel], tree: Any, location: Sequence[str | int]) -> list[type[BaseModel]]:
    """Return the sections that could hold the last key of an error's location."""
    sections, value = [model], tree
    for part in location[:-1]:
        value = _inside(value, part)
        owner = next((section for section in sections if part in section.model_fields), None)
        if owner is not None:
            inner = _sections_in(owner.model_fields[str(part)].annotation)
            sections = inner or sections
        sections = [
            section.section_for(value) if issubclass(section, Section) else section for section in sections
        ]
    return sections


def _inside(value: Any, part: str | int) -> Any:
    """Return the value of a key in a mapping or list; None if there is none."""
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    return [section for inner in arguments for section in _sections_in(inner)]
