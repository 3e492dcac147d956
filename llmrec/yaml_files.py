"""Reads users' YAML safely (no repeated keys, `1e-4` is a number), and applies `key.sub=value` overrides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from llmrec.errors import UserError
from llmrec.files import cause_of


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = "is no plain value" if isinstance(key, list | dict) else "is written twice"
            if isinstance(key, list | dict) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} {problem}", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads 1e-4 as a string, but recipes write learning rates like this.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML safely; `where` names the source in error messages.

    Raises:
        UserError: the text is not YAML, or repeats a key.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {_fault(error)}") from None


def _fault(error: Exception) -> str:
    """What is wrong, and in which line and column; without what was read of it, which may be long."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return (
            cause_of(error)
            if isinstance(error, RecursionError)
            else "a character or value that YAML does not allow"
        )
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from a file.

    Raises:
        UserError: the file is missing, unreadable, not YAML, or not a mapping.
    """
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    return value


def apply_overrides(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Apply `key.sub=value` strings (values parsed as YAML) to a copy of a nested mapping.

    Raises:
        UserError: a malformed override.
    """
    tree = _copy(tree)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"override {text!r}: write key.sub=value, for example sft.lr=1e-4")
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            child = node.get(part)
            node[part] = child if isinstance(child, dict) else {}
            node = node[part]
        node[last] = parse_yaml(value, f"override {key}") if value else None
    return tree


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value
