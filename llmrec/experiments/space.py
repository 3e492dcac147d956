"""What a sweep searches: keys of a recipe with a range or with choices, as they are written on the command line."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmrec.errors import UserError

LOG_RATIO = 10
"""A range whose ends are above 0 and at least this far apart, as a ratio, is searched on a logarithmic scale."""
DIGITS = 3
"""Significant digits of a number that is drawn from a range, so that a command can be read and typed."""
MOST_CHECKED = 64
"""Number of combinations that are validated before anything runs."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_OPEN, _CLOSE = "[{", "]}"


@dataclass(frozen=True)
class Choices:
    """A key that takes one of some values.

    Attributes:
        key: dotted key of the recipe.
        texts: the values, as in an override.
    """

    key: str
    texts: tuple[str, ...]

    def written(self) -> str:
        """Return the setting as on the command line."""
        return f"{self.key}={','.join(self.texts)}"

    def describe(self) -> str:
        """Return the values in words."""
        return f"{', '.join(self.texts[:-1])} or {self.texts[-1]}"

    def as_json(self) -> dict[str, Any]:
        """Return the choices as JSON data."""
        return {"key": self.key, "choices": list(self.texts)}

    def samples(self) -> tuple[str, ...]:
        """Return the values to validate: all of them."""
        return self.texts

    def text_of(self, value: str | float) -> str:
        """Return a drawn value as in an override."""
        return str(value)


@dataclass(frozen=True)
class Range:
    """A key that takes a number between two ends, both included.

    Attributes:
        key: dotted key of the recipe.
        low: lower end.
        high: upper end.
        is_whole: whether only whole numbers are taken: both ends are written as such.
    """

    key: str
    low: float
    high: float
    is_whole: bool

    def written(self) -> str:
        """Return the setting as on the command line."""
        return f"{self.key}={self.text_of(self.low)}..{self.text_of(self.high)}"

    @property
    def is_log(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        return self.low > 0 and self.high / self.low >= LOG_RATIO

    def describe(self) -> str:
        """Return the range in words."""
        kind = "whole numbers" if self.is_whole else "numbers"
        scale = "logarithmic" if self.is_log else "linear"
        return f"{kind} from {self.text_of(self.low)} to {self.text_of(self.high)}, {scale} scale"

    def as_json(self) -> dict[str, Any]:
        """Return the range as JSON data."""
        scale = {"whole": self.is_whole, "logarithmic": self.is_log}
        return {"key": self.key, "low": self.low, "high": self.high, **scale}

    def samples(self) -> tuple[str, ...]:
        """Return the values to validate: both ends, and one between them that is whole only if all are."""
        between = math.sqrt(self.low * self.high) if self.is_log else (self.low + self.high) / 2
        if not self.is_whole and between.is_integer():
            between += (self.high - between) / math.pi
        return tuple(self.text_of(value) for value in (self.low, between, self.high))

    def text_of(self, value: str | float) -> str:
        """Return a drawn value as in an override."""
        number = self.round(float(value))
        return str(int(number)) if self.is_whole else f"{number!r}"

    def round(self, value: float) -> float:
        """Return the nearest value that a trial may have."""
        nearest = float(round(value)) if self.is_whole else float(f"{value:.{DIGITS}g}")
        return min(max(nearest, self.low), self.high)


Parameter = Choices | Range


def split_settings(settings: Sequence[str]) -> tuple[list[str], list[Parameter]]:
    """Separate the overrides that all trials have from the keys that are searched.

    `a..b` is a range. `x,y,z` are choices; a comma within brackets or quotes is part of a value.

    Raises:
        UserError: a setting without a key, a key that stands twice, or a range or choices that are none.
    """
    fixed: list[str] = []
    parameters: list[Parameter] = []
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(
                f"{text!r}: write KEY=VALUE, KEY=LOW..HIGH or KEY=VALUE,VALUE; for example sft.lr=1e-4..1e-3"
            )
        parameter = _parameter(key, value)
        if parameter is None:
            fixed.append(text)
        else:
            parameters.append(parameter)
    keys = [text.partition("=")[0] for text in settings]
    for parameter in parameters:
        if keys.count(parameter.key) > 1:
            raise UserError(f"{parameter.key}: stands {keys.count(parameter.key)} times; give it once")
    return fixed, parameters


def combinations(parameters: Sequence[Parameter]) -> Iterator[dict[str, str]]:
    """Yield values of all keys to validate before anything runs: each sample of each key, then of all together.

    At most `MOST_CHECKED` combinations are yielded after those of single keys.
    """
    samples = {parameter.key: parameter.samples() for parameter in parameters}
    first = {key: values[0] for key, values in samples.items()}
    for key, values in samples.items():
        for value in values:
            yield first | {key: value}
    for together in itertools.islice(itertools.product(*samples.values()), MOST_CHECKED):
        yield dict(zip(samples, together, strict=True))


def _parameter(key: str, value: str) -> Parameter | None:
    """Return what is searched at a key; None if the value is a single one."""
    written = _RANGE.fullmatch(value.strip())
    if written is not None:
        return _range(key, *written.groups())
    texts = _split(value)
    if len(texts) == 1:
        return None
    if not all(texts):
        raise UserError(f"{key}={value}: a choice between two commas is empty")
    if len(set(texts)) < len(texts):
        raise UserError(f"{key}={value}: name each choice once")
    return Choices(key, tuple(texts))


def _range(key: str, low: str, high: str) -> Range:
    ends = float(low), float(high)
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
        raise UserError(f"{key}={low}..{high}: the first end must be below the second")
    is_whole = all(re.fullmatch(r"[-+]?\d+", end) for end in (low, high))
    if is_whole and ends[1] - ends[0] == 1:
        raise UserError(
            f"{key}={low}..{high}: no whole number lies between; write {key}={low},{high} for these two, "
            f"or {key}={low}.0..{high}.0 for all numbers"
        )
    return Range(key, *ends, is_whole)


def _split(value: str) -> list[str]:
    """Split a value at its commas, except those within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in value:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in _OPEN) - (sign in _CLOSE)
        if sign == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]
