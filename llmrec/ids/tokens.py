"""Spelling of codes as tokens: `<a_0>` … `<b_0>` …, one letter a level."""

from __future__ import annotations

from string import ascii_lowercase


def level_letter(level: int) -> str:
    """Letter of a level: `a` for level 0, `b` for level 1, …"""
    return ascii_lowercase[level]


def sid_token(level: int, code: int) -> str:
    """Token of a code: `<a_0>` for code 0 of level 0."""
    return f"<{level_letter(level)}_{code}>"
