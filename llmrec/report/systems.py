"""How systems are shown: by a title that holds the key of the recipe, in a colour that is the same in every run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec import layout
from llmrec.config.registry import SYSTEMS
from llmrec.files import read_json
from llmrec.recommend.model_names import SFT

TITLES = {
    "sft": "SFT model",
    "dpo": "DPO model",
    "grpo": "GRPO model",
    "zero_shot": "untuned base",
    "tiger": "TIGER",
}
COLOURS = {
    "sft": ("#1d4fd7", "#6f9bff"),
    "dpo": ("#8b2fa3", "#cf8bf5"),
    "grpo": ("#e0359f", "#ff7fd0"),
    "zero_shot": ("#2f3e52", "#d5dbe6"),
    "popularity": ("#8a8f98", "#868c96"),
    "item_knn": ("#dd7300", "#ff9d3c"),
    "recent_knn": ("#a38c00", "#ecd63c"),
    "succession": ("#6e4119", "#b98555"),
    "text_knn": ("#62a01a", "#b4ec5a"),
    "user_knn": ("#af5a71", "#a55066"),
    "ease": ("#241254", "#6d46d8"),
    "als": ("#6f7c3c", "#94a550"),
    "bpr": ("#541235", "#edabce"),
    "mult_vae": ("#7c6293", "#7c6293"),
    "gru4rec": ("#ca2b55", "#ca2b55"),
    "bert4rec": ("#156515", "#197619"),
    "sasrec_bce": ("#1497b3", "#3fd6f2"),
    "sasrec_ce": ("#0a5a46", "#2aa582"),
    "sasrec_plus": ("#17a06a", "#8df5c0"),
    "hstu": ("#b98166", "#c4c79f"),
    "tiger": ("#141504", "#666a48"),
    "mixture": ("#c0201a", "#ff6a5c"),
}
"""System → its colour on light and on dark paper; each can be told from all others, and from the paper."""


@dataclass(frozen=True)
class Style:
    """A system's CSS class, and its colours on light and on dark paper."""

    name: str
    light: str
    dark: str


def style_of(system: str) -> Style:
    """Return the style of a system; a system of your own has a hue that follows from its name."""
    if system in COLOURS:
        return Style(f"c-{system}", *COLOURS[system])
    digest = hashlib.sha256(system.encode()).hexdigest()
    hue = int(digest[:8], 16) % 360
    return Style(f"c-{digest[:10]}", f"hsl({hue} 45% 42%)", f"hsl({hue} 50% 68%)")


def styles_of(systems: Iterable[str]) -> list[Style]:
    """Return the styles of several systems."""
    return [style_of(system) for system in systems]


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


def shown_model(run: Path, models: Sequence[str]) -> str | None:
    """Return the model whose lists the report shows: the gate's winner, else SFT, else the first of `models`."""
    winner = read_json(run / layout.GATE)["winner"] if (run / layout.GATE).is_file() else SFT
    return winner if winner in models else next(iter(models), None)
