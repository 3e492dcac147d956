"""The base class of all recipe sections, and validation with one-line errors."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmrec.config.former_keys import FORMER_KEYS
from llmrec.errors import UserError, did_you_mean

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def validate(model: type[Model], tree: Any, where: str) -> Model:
    """Validate a mapping against a schema, with all errors in one line.

    Raises:
        UserError: lists each bad key as `key: problem`, with the nearest valid key.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_explain(model, e) for e in error.errors())
        raise UserError(f"{where}: {problems}") from None


def _explain(model: type[BaseModel], error: Any) -> str:
    location, sections = _follow(model, [str(part) for part in error["loc"]])
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        if key in FORMER_KEYS:
            return FORMER_KEYS[key].message()
        valid = sorted({name for section in sections for name in section.model_fields})
        return f"unknown key {key!r} ({did_you_mean(location[-1], valid)})"
    if error["type"] == "missing":
        return f"{key}: required, but missing"
    if error["type"] == "union_tag_invalid":
        kinds = [kind.strip("' ") for kind in error["ctx"]["expected_tags"].split(",")]
        kind = error["ctx"]["tag"]
        return f"{key}.kind: no {kind!r} ({did_you_mean(kind, kinds)})"
    problem = error["msg"].removeprefix("Value error, ")
    value = repr(error["input"])
    shown = "" if not key else f" (found {value if len(value) <= 60 else value[:57] + '...'})"
    return f"{key + ': ' if key else ''}{problem}{shown}"


def _follow(model: type[BaseModel], path: list[str]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the keys of pydantic's path to an error, and the sections that could hold the last key.

    If a section has several kinds, pydantic's path contains the kind after the key. It is no key of the recipe.
    """
    keys: list[str] = []
    sections = [model]
    for part in path:
        kinds = {_kind(section): section for section in sections}
        if len(sections) > 1 and part in kinds:
            sections = [kinds[part]]
            continue
        keys.append(part)
        owner = next((section for section in sections if part in section.model_fields), None)
        if owner is not None:
            sections = _sections_in(owner.model_fields[part].annotation) or sections
    return keys, sections


def _kind(section: type[BaseModel]) -> str:
    field = section.model_fields.get("kind")
    return str(field.annotation.__args__[0]) if field is not None and field.annotation is not None else ""


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = getattr(annotation, "__args__", ())
    return [section for part in parts for section in _sections_in(part)]
