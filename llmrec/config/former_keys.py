"""Recipe keys of earlier versions: the keys of today, and finished runs' recipes read under them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FormerKey:
    """A dotted key that has been renamed.

    Attributes:
        old: the key as it was.
        new: the key as it is.
        values: old value → new value, where these have changed too.
    """

    old: str
    new: str
    values: Mapping[Any, Any] = field(default_factory=dict)

    def message(self) -> str:
        """What a recipe with the old key is told."""
        values = ", ".join(f"{str(old).lower()}: {new}" for old, new in self.values.items())
        return f"{self.old} is now {self.new}" + (f" ({values})" if values else "")


PROMPTS = {True: "history_end", False: "training_targets"}
FORMER_KEYS = {
    key.old: key
    for key in (
        FormerKey("sft.distil", "sft.distillation"),
        FormerKey("sft.distillation.ahead", "sft.distillation.synthetic_items"),
        FormerKey("pairs.ahead", "pairs.prompts", PROMPTS),
        FormerKey("grpo.ahead", "grpo.prompts", PROMPTS),
        FormerKey("grpo.zero_signal", "grpo.zero_variance"),
        FormerKey("dpo.sft", "dpo.sft_weight"),
    )
}
"""In the order in which `upgrade` renames them."""


def upgrade(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a finished run with its former keys renamed; a recipe of today comes back as it is."""
    recipe = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for key in FORMER_KEYS.values():
        section, name = _section(recipe, key.old)
        if name in section:
            value = section.pop(name)
            target, new_name = _section(recipe, key.new)
            target[new_name] = key.values.get(value, value) if key.values else value
    return recipe


def _section(recipe: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted key, and the key's last part; an empty mapping where there is none."""
    *path, name = key.split(".")
    section: Any = recipe
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else {}), name
