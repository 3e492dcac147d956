"""What text means: words for nothing, entities and tags of HTML, lists as text, prices.

Cards, `llmrec items --add` and imports read their values by these rules; docs/data.md lists them.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

TITLE_LIMIT = 512
TEXT_LIMIT = 4096
MISSING = ("None", "NULL", "null", "\\N", "NA", "N/A", "nan", "NaN")
"""Words that mean a missing value unless a card says otherwise."""
_RAW_FACTOR = 4
"""Number of raw characters that are read per character of a limit.

It is above 1, because unescaping shortens text. It bounds the time that very long texts take.
"""
_LONGEST_LIST = 1 << 20
# Control characters, byte order marks, replacement characters of failed decoding, and marks that change the direction
# of text.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\ufeff\ufffd\u202a-\u202e\u2066-\u2069]")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_PROGRAM = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_INLINE = "a|abbr|b|big|code|em|font|i|s|small|span|strong|sub|sup|tt|u"
_BLOCK = (
    "article|blockquote|body|br|button|center|dd|div|dl|dt|footer|form|h[1-6]|head|header|hr|html|iframe|img|input|"
    "label|li|link|main|meta|nav|noscript|ol|option|p|pre|script|section|select|style|table|tbody|td|tfoot|th|thead|"
    "title|tr|ul|video"
)
# Only names of HTML are tags: `<a_12>` and `<|im_end|>` are text.
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)


class Clean(NamedTuple):
    """Clean text, and the changes that were made to it.

    Attributes:
        text: the clean text; None if nothing is left.
        unescaped: whether HTML entities were replaced.
        control_characters: whether control characters were removed.
        clipped: whether the text was cut to the limit.
        markup: whether HTML tags or comments were removed.
    """

    text: str | None
    unescaped: bool = False
    control_characters: bool = False
    clipped: bool = False
    markup: bool = False


def clean_text(raw: str | None, limit: int) -> Clean:
    """Unescape HTML entities, drop HTML tags, comments and control characters, collapse whitespace, clip.

    Text that only looks like markup (`<a_12>`, `<|im_end|>`) stays, because text is data.

    Args:
        raw: any text, or None.
        limit: maximum number of characters; longer text is cut and ends in `…`.
    """
    if raw is None:
        return Clean(None)
    start = raw[: limit * _RAW_FACTOR]
    was_unescaped = had_control = had_markup = False
    text, before = start, None
    # What one step removes may leave something for another: `&lt;b&gt;`, `<<b>b>`.
    while text != before:
        before = text
        plain = unescape(text)
        spaced = " ".join(plain.split())
        visible = _INVISIBLE.sub("", spaced)
        bare = without_markup(visible)
        was_unescaped |= plain != text
        had_control |= visible != spaced
        had_markup |= bare != visible
        text = " ".join(bare.split())
    clipped = len(text) > limit or len(raw) > len(start)
    if clipped and text:
        text = text[: limit - 1].rstrip() + "…"
    return Clean(text or None, was_unescaped, had_control, clipped, had_markup)


def plain(text: object, limit: int) -> str:
    """Return text in one line without markup and control characters, at most `limit` characters of it."""
    return clean_text(str(text), limit).text or ""


def unescape(text: str) -> str:
    """Replace HTML entities until none is left: `&amp;amp;` becomes `&`."""
    while "&" in text:
        unescaped = html.unescape(text)
        if unescaped == text:
            break
        text = unescaped
    return text


def without_markup(text: str) -> str:
    """Remove HTML comments, scripts, styles and tags. A tag that separates words, such as `<br>`, becomes a space."""
    if "<" not in text or ">" not in text:
        return text
    if "-->" in text:
        text = _COMMENT.sub(" ", text)
    if "</" in text:
        text = _PROGRAM.sub(" ", text)
    return _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", text))


def is_missing(value: Any, missing: Sequence[str] = MISSING) -> bool:
    """Whether a value is none: null, NaN, an empty text, or one of the words for it."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str) and ((stripped := value.strip()) == "" or stripped in missing)


def labels(value: Any, separator: str | None = None, missing: Sequence[str] = MISSING) -> list[str]:
    """Return the distinct labels of a nested list, of a list as text, or of separated text, as a flat list.

    `[["Beauty", "Makeup"], ["Beauty", "Nails"]]` gives Beauty, Makeup, Nails.

    Args:
        value: list, text or None.
        separator: separator of labels in a text; None if a text is one label.
        missing: words that are no label.
    """
    return list(dict.fromkeys(_flat(list_of(value), separator, missing)))


def list_of(value: Any) -> Any:
    """Return the list that a text is, in JSON or as Python writes it; return any other value unchanged."""
    parsed = _parsed(value, "[]")
    return parsed if isinstance(parsed, list) else value


def object_of(value: Any) -> dict[str, Any] | None:
    """Return the object that a text is, in JSON or as Python writes it; None for other values."""
    parsed = _parsed(value, "{}")
    return parsed if isinstance(parsed, dict) else None


def _parsed(value: Any, brackets: str) -> Any:
    """Return what a text in brackets is, in JSON or as a literal of Python; None for other values."""
    if not isinstance(value, str) or len(value) > _LONGEST_LIST:
        return None
    text = value.strip()
    if not (text.startswith(brackets[0]) and text.endswith(brackets[1])):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _flat(value: Any, separator: str | None, missing: Sequence[str]) -> Iterator[str]:
    """Yield the clean labels of a nested list in order."""
    if isinstance(value, list):
        for inner in value:
            yield from _flat(inner, separator, missing)
    elif not is_missing(value, missing):
        text = str(value)
        for piece in text.split(separator) if separator else [text]:
            label = clean_text(piece, TITLE_LIMIT).text
            if not is_missing(label, missing) and label is not None:
                yield label


def joined(value: Any, missing: Sequence[str] = MISSING) -> str | None:
    """Join a list of texts, or such a list as text, to one text; return other text unchanged."""
    if isinstance(value, str):
        parts = list_of(value)
        # `[1984]` is a title; a list of texts is a list.
        if not isinstance(parts, list) or not all(isinstance(part, str | None) for part in parts):
            return value
        value = parts
    if isinstance(value, list):
        return " ".join(str(part) for part in value if not is_missing(part, missing))
    return value


_NOT_A_PRICE = re.compile(r"[{}<>=;#%]")
_LONGEST_PRICE = 100
_MINUS = re.compile(r"[-−]\s*(?:[$€£¥₹]|[A-Z]{1,3}\$?)?\s*$")
_NUMBER = re.compile(r"\d{1,3}(?: \d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,'’]\d+)*(?:[eE][+-]?\d+)?|[.,]\d+")


class Prices(NamedTuple):
    """Amounts of a column of prices.

    Attributes:
        amounts: one amount a value; None for a missing value, and for one that holds no amount.
        unread: number of values that are present and hold no amount.
        decimal: sign before the cents, `.` or `,`.
        doubtful: first value whose only sign could stand before cents or after thousands; None if there is none.
        is_sure: whether other values tell which of the two it is.
    """

    amounts: list[float | None]
    unread: int
    decimal: str
    doubtful: str | None
    is_sure: bool


def prices(values: Sequence[Any], decimal: str | None = None, missing: Sequence[str] = MISSING) -> Prices:
    """Read the first amount of each value.

    The last of two different signs stands before the cents: `1.299,00` is 1299, `1,299.00` too. A sign that occurs
    once and not before exactly three digits stands before the cents: `12,99`. A sign that occurs more than once
    separates thousands. In `1.299` the sign could be either: then the column's other values decide, else the sign
    before the cents is a point. A negative amount, a percentage, program text and a text without a number are none.

    Args:
        values: numbers or texts.
        decimal: sign before the cents, `.` or `,`; None derives it.
        missing: words that mean a missing value.
    """
    numbers = [None if is_missing(value, missing) else _number(value) for value in values]
    present = sum(not is_missing(value, missing) for value in values)
    signs = [_decimal_sign(number) for number in numbers if number is not None]
    evidence = {sign: signs.count(sign) for sign in ".,"}
    chosen = decimal or ("," if evidence[","] > evidence["."] else ".")
    amounts = [None if number is None else _amount(number, chosen) for number in numbers]
    doubtful = next((number for number in numbers if number and _decimal_sign(number) == "?"), None)
    is_sure = decimal is not None or evidence[","] != evidence["."]
    return Prices(amounts, present - sum(amount is not None for amount in amounts), chosen, doubtful, is_sure)


def _number(value: Any) -> str | None:
    """Return the first number of a price as it is written; None if the value is no price."""
    text = plain(value, 2 * _LONGEST_PRICE)
    if len(text) > _LONGEST_PRICE or _NOT_A_PRICE.search(text):
        return None
    match = _NUMBER.search(text)
    if match is None or _MINUS.search(text[: match.start()]):
        return None
    return match[0].replace(" ", "'").replace("’", "'")


def _decimal_sign(number: str) -> str | None:
    """Return the sign before the cents of a number; `?` if it could separate thousands; None if there is none."""
    points, commas = number.count("."), number.count(",")
    if points and commas:
        return max(".,", key=number.rindex)
    if points + commas != 1 or "e" in number.lower():
        return None
    sign = "." if points else ","
    whole, _, rest = number.partition(sign)
    if "'" in whole or len(rest) != 3 or len(whole) > 3 or whole in ("", "0"):
        return sign
    return "?"


def _amount(number: str, decimal: str) -> float | None:
    """Return the value of a number; None if its signs make no sense."""
    if "e" in number.lower():
        return float(number.replace(",", ".")) if number.count(",") + number.count(".") <= 1 else None
    sign = _decimal_sign(number)
    if sign == "?":
        sign = decimal if decimal in number else None
    whole, _, cents = number.rpartition(sign) if sign else (number, "", "")
    parts = re.split(r"[.,']", whole)
    has_groups = len(parts[-1]) == 3 and all(len(part) in (2, 3) for part in parts[1:]) and len(parts[0]) <= 3
    if (len(parts) > 1 and not has_groups) or (cents and not cents.isdigit()):
        return None
    return float(f"{''.join(parts) or 0}.{cents or 0}")
