"""Cleaning of raw item text: HTML entities, control characters, lists, prices."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

TITLE_LIMIT = 512
TEXT_LIMIT = 4096
_RAW_FACTOR = 4
"""Number of raw characters that are read per character of a limit.

It is above 1, because unescaping shortens text. It bounds the time that very long texts take.
"""
# Control characters, byte order marks, replacement characters of failed decoding, and marks that change the direction
# of text.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\ufeff\ufffd\u202a-\u202e\u2066-\u2069]")


class Clean(NamedTuple):
    """Clean text, and the changes that were made to it.

    Attributes:
        text: the clean text; None if nothing is left.
        unescaped: whether HTML entities were replaced.
        control_characters: whether control characters were removed.
        clipped: whether the text was cut to the limit.
    """

    text: str | None
    unescaped: bool = False
    control_characters: bool = False
    clipped: bool = False


def clean_text(raw: str | None, limit: int) -> Clean:
    """Unescape HTML entities, collapse whitespace, drop control characters, clip.

    Text that looks like markup (`<a_12>`, `<|im_end|>`) stays, because text is data.

    Args:
        raw: any text, or None.
        limit: maximum number of characters; longer text is cut and ends in `…`.
    """
    if raw is None:
        return Clean(None)
    start = raw[: limit * _RAW_FACTOR]
    plain = unescape(start)
    spaced = " ".join(plain.split())
    visible = " ".join(_INVISIBLE.sub("", spaced).split())
    clipped = len(visible) > limit or len(raw) > len(start)
    text = visible[: limit - 1].rstrip() + "…" if clipped and visible else visible
    return Clean(text or None, plain != start, visible != spaced, clipped)


def unescape(text: str) -> str:
    """Replace HTML entities until none is left: `&amp;amp;` becomes `&`."""
    while "&" in text:
        unescaped = html.unescape(text)
        if unescaped == text:
            break
        text = unescaped
    return text


def labels(value: Any, separator: str | None = None) -> list[str]:
    """Return the distinct labels of a nested list, of its JSON text, or of separated text, as a flat list.

    `[["Beauty", "Makeup"], ["Beauty", "Nails"]]` gives Beauty, Makeup, Nails.

    Args:
        value: list, text or None.
        separator: separator of labels in a text; None if a text is one label.
    """
    return list(dict.fromkeys(_flat(_from_json(value), separator)))


def _from_json(value: Any) -> Any:
    """Parse a text that is a JSON list; return any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _flat(value: Any, separator: str | None) -> Iterator[str]:
    """Yield the clean labels of a nested list in order."""
    if isinstance(value, list):
        for inner in value:
            yield from _flat(inner, separator)
    elif value is not None:
        text = str(value)
        for piece in text.split(separator) if separator else [text]:
            label = clean_text(piece, TITLE_LIMIT).text
            if label is not None:
                yield label


def joined(value: Any) -> str | None:
    """Join a list of texts, or its JSON text, to one text; return other text unchanged."""
    if isinstance(value, str) and value.startswith(('["', "[]")):
        value = _from_json(value)
    return " ".join(map(str, value)) if isinstance(value, list) else value


def prices(values: pl.Series) -> pl.Series:
    """Return the first amount in each text (`$1,299.00 - $1,499.00` is 1299.0); null if there is none."""
    text = values.cast(pl.String).str.replace_all(",", "", literal=True)
    return text.str.extract(r"(\d+(?:\.\d+)?)").cast(pl.Float32)
