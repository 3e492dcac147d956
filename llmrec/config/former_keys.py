"""Recipe keys of earlier versions, and the keys that replace them. A finished run's recipe is upgraded on reading."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FormerKey:
    """A dotted key that has been renamed.

    Attributes:
        old: the former key.
        new: the present key.
        values: former value → present value; empty if the values are unchanged.
    """

    old: str
    new: str
    values: Mapping[Any, Any] = field(default_factory=dict)

    def message(self) -> str:
        """Return the error text for a recipe with the former key."""
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
        FormerKey("sft.distillation.mask_seen", "data.mask_seen"),
        # Of a run with both, the value by which its lists were made counts: the later one.
        FormerKey("decode.mask_seen", "data.mask_seen"),
    )
}
"""Former keys by name, in the order in which `upgrade` renames them."""


def upgrade(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finished run's recipe with its former keys renamed. A recipe without former keys is unchanged."""
    recipe = deepcopy(dict(tree))
    for key in FORMER_KEYS.values():
        section, name = _section(recipe, key.old)
        if name in section:
            value = section.pop(name)
            target, new_name = _section(recipe, key.new)
            target[new_name] = key.values.get(value, value) if key.values else value
    return recipe


def _section(recipe: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a dotted key, and the key's last part; an empty mapping if there is none."""
    *path, name = key.split(".")
    section: Any = recipe
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else {}), name
