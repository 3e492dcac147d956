"""Textual IDs: a short text of its own for each item, which the base model spells in its own tokens."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import polars as pl


def values(items: pl.DataFrame, column: str) -> list[list[str]]:
    """Texts of a column of strings or of lists of strings, `[items]` lists; empty ones where the table lacks it."""
    if column not in items.columns:
        return [[] for _ in range(len(items))]
    rows = (value if isinstance(value, list) else [value] for value in items[column].to_list())
    return [[str(part) for part in row if part is not None] for row in rows]


def shortest_distinct(
    words: Sequence[Sequence[str]], starts: Sequence[int], most: int, names: Sequence[str]
) -> list[str]:
    """Texts of an item's first words, longer only where another item's would be the same.

    Items that share a text each take their next word, all at once, until no two are the same or there are no
    more words to take; those left get a number. Texts that differ in upper and lower case alone count as the
    same, since a tokenizer may fold case. `most` bounds the longest ID, which all decoding must reach for.

    Args:
        words: for each item, its words in the order in which they are taken.
        starts: for each item, how many to begin with; at least one is taken.
        most: words an item may take.
        names: item ids, the text of items without words.
    """
    empty = sum(not own for own in words)
    if empty:
        print(f"ids: {empty} items have no words; their item ids stand in for them", file=sys.stderr)
    chosen = [own[:most] or [name] for own, name in zip(words, names, strict=True)]
    taken = [min(max(1, start), len(own)) for own, start in zip(chosen, starts, strict=True)]
    texts = [" ".join(own[:count]) for own, count in zip(chosen, taken, strict=True)]
    while True:
        uses = Counter(map(str.casefold, texts))
        growing = [
            row
            for row, text in enumerate(texts)
            if uses[text.casefold()] > 1 and taken[row] < len(chosen[row])
        ]
        if not growing:
            return _numbered(texts)
        for row in growing:
            taken[row] += 1
            texts[row] = " ".join(chosen[row][: taken[row]])


def _numbered(texts: list[str]) -> list[str]:
    """Texts with a number behind all but the first of those that are the same."""
    taken = {text.casefold() for text in texts}
    last: dict[str, int] = {}
    found = []
    for text in texts:
        key, name = text.casefold(), text
        if key in last:
            while name.casefold() in taken:
                last[key] += 1
                name = f"{text} {last[key]}"
            taken.add(name.casefold())
        else:
            last[key] = 1
        found.append(name)
    return found
