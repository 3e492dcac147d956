"""Spelling of codes as tokens: `<a_0>` … `<b_0>` …, one letter a level; and the spellings of other projects."""

from __future__ import annotations

import re
from string import ascii_lowercase

MARKS = ("<|sid_begin|>", "<|sid_end|>")
"""What OpenOneRec writes around a semantic ID."""
_TOKEN = re.compile(r"<(?:s_|item_)?([a-z])_([0-9]{1,7})>")


def level_letter(level: int) -> str:
    """Letter of a level: `a` for level 0, `b` for level 1, …"""
    return ascii_lowercase[level]


def sid_token(level: int, code: int) -> str:
    """Token of a code: `<a_0>` for code 0 of level 0."""
    return f"<{level_letter(level)}_{code}>"


def other_spellings(token: str) -> tuple[str, ...]:
    """Return how other projects spell a token `<a_0>`: `<s_a_0>` (OpenOneRec) and `<item_a_0>`."""
    return f"<s_{token[1:]}", f"<item_{token[1:]}"


def parse_token(token: str) -> tuple[str, int] | None:
    """Return the letter and the code of a token in any of the spellings; None if it is none."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match[1], int(match[2]))


def split_tokens(text: str) -> list[str]:
    """Return the tokens of a semantic ID that is written as one text; the text itself if it is none."""
    found = re.findall(r"<[^<>]+>", text)
    return found if "".join(found) == "".join(text.split()) else [text]
