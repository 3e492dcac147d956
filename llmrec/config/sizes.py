"""Settings that follow from the size of the data: `auto` in a recipe, a number once the data stage has counted.

docs/own-data.md describes the rules and the measurements behind them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmrec import layout
from llmrec.config.section import Section
from llmrec.files import read_json

AUTO = "auto"
LONG = 40
"""Mean number of interactions from which users have long histories."""
STEPS_PER_EPOCH = 150
"""Optimizer steps of an epoch that `sft.batch` aims at."""


class DataSize(Section):
    """Counts of a dataset after its filters.

    Attributes:
        users: number of users.
        items: number of items.
        interactions: number of interactions.
    """

    users: int
    items: int
    interactions: int

    @classmethod
    def counted(cls, run: Path) -> DataSize | None:
        """Return the counts of a run's data stage; None if it has not counted."""
        report = run / layout.DATA_REPORT
        if not report.is_file():
            return None
        counts = read_json(report)["counts"]
        return cls(**{name: counts[name] for name in cls.model_fields})

    @property
    def per_user(self) -> float:
        """Mean number of a user's interactions."""
        return self.interactions / max(self.users, 1)


def _history(size: DataSize, tree: Mapping[str, Any]) -> int:
    """Items that a prompt shows: 50 where users have long histories, else 20."""
    return 50 if size.per_user >= LONG else 20


def _levels(size: DataSize, tree: Mapping[str, Any]) -> int:
    """Codes of a SID: one where a code of the item's own follows, else as few as give every item its own path."""
    if tree["ids"].get("collisions") == "own_code":
        return 1
    return 2 if size.items <= 40_000 else 3


def _batch(size: DataSize, tree: Mapping[str, Any]) -> int:
    """Trees of a step: a power of two from 4 to 64 that gives about `STEPS_PER_EPOCH` steps."""
    trees = size.users * max(1.0, (size.per_user - 2) / tree["data"]["history"])
    return int(min(64, max(4, 2 ** round(math.log2(max(trees / STEPS_PER_EPOCH, 1))))))


def _epochs(size: DataSize, tree: Mapping[str, Any]) -> int:
    """Passes over the data: fewer where users have long histories, because each holds more targets."""
    return 12 if size.per_user >= LONG else 24


RULES: dict[str, Callable[[DataSize, Mapping[str, Any]], Any]] = {
    "data.history": _history,
    "ids.quantizer.levels": _levels,
    "sft.batch": _batch,
    "sft.epochs": _epochs,
}
"""Dotted key → the rule for its value. A rule may read the values of keys above it in a recipe's tree."""


def take_auto(tree: Any) -> Any:
    """Return a recipe's keys without those that are `auto` and have a rule; the key `auto` lists them.

    The defaults stand in for them until the data is counted.
    """
    if not isinstance(tree, dict):
        return tree
    waiting = [key for key in RULES if _value(tree, key) == AUTO]
    for key in waiting:
        tree = _without(tree, key.split("."))
    return tree | {"auto": [*tree.get("auto", []), *waiting]} if waiting else tree


def check_keys(keys: list[str]) -> list[str]:
    """Return the keys if all of them have a rule.

    Raises:
        ValueError: one has none; the message lists those that have.
    """
    unknown = [key for key in keys if key not in RULES]
    if unknown:
        raise ValueError(f"no rule for {', '.join(unknown)}; keys that may be `auto`: {', '.join(RULES)}")
    return keys


def set_auto(tree: dict[str, Any], size: DataSize) -> None:
    """Set numbers for all keys that a whole recipe's tree lists under `auto`, in place, and empty the list."""
    for key, rule in RULES.items():
        if key in tree["auto"]:
            *parents, last = key.split(".")
            section = tree
            for part in parents:
                section = section[part]
            section[last] = rule(size, tree)
    tree["auto"] = []


def _value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _without(tree: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """Return a copy of a tree without the key at a path that it has."""
    first, *rest = parts
    if not rest:
        return {key: value for key, value in tree.items() if key != first}
    return tree | {first: _without(tree[first], rest)}
