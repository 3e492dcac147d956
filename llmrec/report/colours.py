"""Colours of systems: a system has the same colour in every run, whatever else is compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = {
    "sft": ("#2456b8", "#7fa8ff"),
    "dpo": ("#8b55a8", "#c194dc"),
    "grpo": ("#b3445e", "#e5849b"),
    "zero_shot": ("#5a6f8c", "#93a9c9"),
    "popularity": ("#8c929b", "#868d97"),
    "item_knn": ("#c0782c", "#e0a15c"),
    "recent_knn": ("#a08a12", "#d1bd4e"),
    "succession": ("#8a5a3c", "#c19371"),
    "text_knn": ("#5b7a1f", "#a9c46a"),
    "user_knn": ("#9c6b1e", "#d9b06b"),
    "ease": ("#4a5fa0", "#9aabe0"),
    "als": ("#6a4c93", "#b197d6"),
    "bpr": ("#94507a", "#d195b9"),
    "mult_vae": ("#4d7f86", "#8fc0c7"),
    "gru4rec": ("#a34f2a", "#e09a78"),
    "bert4rec": ("#3c6e9e", "#86b6e2"),
    "sasrec_bce": ("#17808f", "#5cc3d1"),
    "sasrec_ce": ("#2e8b72", "#5fc3a5"),
    "sasrec_plus": ("#1f6b3a", "#79c48f"),
    "mixture": ("#7d2f2f", "#d98a7f"),
}
"""System → its colour on light and on dark paper."""


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
