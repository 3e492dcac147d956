"""Validation of a recipe with overrides: what is wrong with an override is said of it, not of the recipe's file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, get_origin

from pydantic import BaseModel

from llmrec.config.former_keys import FORMER_KEYS
from llmrec.config.section import (
    Key,
    Model,
    Section,
    explain_each,
    inside,
    sections_at,
    sections_in,
    validation_errors,
)
from llmrec.errors import InvalidValuesError, close_name, shortened

SUGGESTED = 3
"""Largest number of keys that a message suggests."""
SHOWN = 60
"""Number of characters of an override that a message shows."""
FIRST_SECTION = "sft"
"""Section in which a key of no known section is looked for first."""
CLOSE = 0.7
"""Least likeness of the name of a section to one without a dot: nearly all of these are meant as deeper keys."""


def validate_overridden(
    model: type[Model], tree: dict[str, Any], where: str, overrides: Sequence[str]
) -> Model:
    """Validate a mapping against a schema, as `validate` does, and say which errors are those of overrides.

    Args:
        model: the schema.
        tree: the mapping, with the overrides applied.
        where: the file, for the message.
        overrides: the `key=value` texts.

    Raises:
        InvalidValuesError: each bad key, with the nearest valid key at any depth if an override has it.
    """
    valid, errors = validation_errors(model, tree)
    if valid is not None:
        return valid
    problems = explain_each(partial(sections_at, model), tree, errors)
    unknown = {_dotted(key) for key, error in problems.items() if error.is_unknown}
    keys = list(_all_keys(model, tree)) if unknown else []
    found: list[tuple[str, str]] = []
    for key, problem in problems.items():
        name = _dotted(key)
        owner = next((text for text in reversed(overrides) if _is_within(name, _key_of(text))), None)
        inner = [text for text in overrides if _is_within(_key_of(text), name)]
        if problem.is_unknown and (owner or inner):
            text = owner or inner[-1]
            found.append((f"override {shortened(text, SHOWN)}", _unknown_key(name, _key_of(text), keys)))
        elif owner is not None:
            found.append(("", f"override {problem.sentence}"))
        else:
            found.append(
                (f"{where} with {shortened(' '.join(inner), SHOWN)}" if inner else where, problem.sentence)
            )
    raise InvalidValuesError.of_places(found)


def nearest_keys(name: str, keys: Sequence[str]) -> list[str]:
    """Return the dotted keys that an unknown one may be a mistake of, the most likely first; at most `SUGGESTED`.

    A key in another section with the same last word goes before one of its own section that is alike, which goes
    before one elsewhere that is alike.
    """
    section, _, last = name.rpartition(".")

    def in_order(found: list[str]) -> list[str]:
        return sorted(found, key=unlikeness)[:SUGGESTED]

    def unlikeness(key: str) -> tuple[bool, float]:
        is_elsewhere = not section and not key.startswith(f"{FIRST_SECTION}.")
        return is_elsewhere, -difflib.SequenceMatcher(None, name, key).ratio()

    same = [key for key in keys if _last(key) == last]
    if same:
        return in_order(same)
    siblings = [_last(key) for key in keys if key.rpartition(".")[0] == section]
    near = close_name(last, siblings)
    if near is not None and (section or difflib.SequenceMatcher(None, last, near).ratio() >= CLOSE):
        return [f"{section}.{near}" if section else near]
    first = close_name(last, [_last(key) for key in keys if key.rpartition(".")[0] == FIRST_SECTION])
    elsewhere = first or close_name(last, list(dict.fromkeys(map(_last, keys))))
    return in_order([key for key in keys if _last(key) == elsewhere])


def _unknown_key(name: str, given: str, keys: Sequence[str]) -> str:
    """Say that a key is unknown, with what it may be meant for: a former key's new name, near keys, or its siblings.

    Args:
        name: the first part of the key that the schema does not know.
        given: the key of the override, which may be longer or shorter.
        keys: all keys.
    """
    former = FORMER_KEYS.get(given) or FORMER_KEYS.get(name)
    if former is not None:
        return former.message()
    name = max(name, given, key=len)
    near = nearest_keys(name, keys)
    if near:
        *others, last = map(repr, near)
        return f"unknown key {name!r} (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)"
    section = name.rpartition(".")[0]
    siblings = [key for key in keys if key.rpartition(".")[0] == section] or [
        key for key in keys if "." not in key
    ]
    return f"unknown key {name!r} (known: {', '.join(siblings)})"


def _all_keys(model: type[BaseModel], tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a schema that an override can set, sections included, in the schema's order."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if get_origin(field.annotation) in (list, tuple):
            continue  # an override replaces a list as a whole
        value = inside(tree, name)
        for section in sections_in(field.annotation):
            inner = section.section_for(value) if issubclass(section, Section) else section
            yield from _all_keys(inner, value, f"{prefix}{name}.")


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))


def _key_of(override: str) -> str:
    return override.partition("=")[0]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _is_within(key: str, section: str) -> bool:
    """Whether a dotted key is another or one of its inner keys; every key is within the empty one."""
    return not section or f"{key}.".startswith(f"{section}.")
