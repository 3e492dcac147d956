"""What systems are called where people read: by a title, from which the key of the recipe can be told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llmrec.config.registry import SYSTEMS

TITLES = {
    "sft": "SFT model",
    "dpo": "DPO model",
    "grpo": "GRPO model",
    "zero_shot": "untuned base",
}


def system_titles(systems: Sequence[str], protocol: dict[str, Any]) -> dict[str, str]:
    """Return what each system is called; runs of earlier versions do not name their baselines.

    A title that does not hold the key is followed by it, because recipes, tables and options name systems by their
    keys: `sequential rules (succession)`, but `item-kNN`.
    """
    named = {name: baseline["title"] for name, baseline in protocol.get("baselines", {}).items()}
    shipped = {name: SYSTEMS.load(name).title for name in systems if name in SYSTEMS.shipped}
    titles = TITLES | shipped | named
    return {name: with_key(name, titles.get(name, name)) for name in systems}


def with_key(key: str, title: str) -> str:
    """Return a title, with the key behind it unless the title holds it."""
    if _letters(key) in _letters(title):
        return title
    return f"{title[:-1]}; {key})" if title.endswith(")") else f"{title} ({key})"


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
