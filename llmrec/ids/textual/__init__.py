"""Textual IDs: a distinct short text for each item, spelt in the base model's own tokens."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import polars as pl


def values(items: pl.DataFrame, column: str) -> list[list[str]]:
    """Texts of a column of strings or of lists of strings: one list an item, empty if the column is missing."""
    if column not in items.columns:
        return [[] for _ in range(len(items))]
    rows = (value if isinstance(value, list) else [value] for value in items[column].to_list())
    return [[str(part) for part in row if part is not None] for row in rows]


def shortest_distinct(
    words: Sequence[Sequence[str]], starts: Sequence[int], most: int, names: Sequence[str]
) -> list[str]:
    """Distinct texts, each made of an item's first words; a text has more words only if it would not be distinct.

    All items that share a text take their next word, until all texts are distinct or the items have no more words.
    The remaining items get a number. Texts that differ only in case count as equal, since a tokenizer may fold case.
    `most` limits the longest ID, on which the number of decoding steps depends.

    Args:
        words: for each item, its words in the order of use.
        starts: for each item, the initial number of words; at least one is taken.
        most: maximum number of words of a text.
        names: item ids, used as texts of items without words.
    """
    empty = sum(not item_words for item_words in words)
    if empty:
        print(f"ids: {empty} items have no words; their item ids are used instead", file=sys.stderr)
    chosen = [item_words[:most] or [name] for item_words, name in zip(words, names, strict=True)]
    counts = [min(max(1, start), len(row)) for row, start in zip(chosen, starts, strict=True)]
    texts = [" ".join(row[:count]) for row, count in zip(chosen, counts, strict=True)]
    while True:
        uses = Counter(map(str.casefold, texts))
        ambiguous = [
            row
            for row, text in enumerate(texts)
            if uses[text.casefold()] > 1 and counts[row] < len(chosen[row])
        ]
        if not ambiguous:
            return _numbered(texts)
        for row in ambiguous:
            counts[row] += 1
            texts[row] = " ".join(chosen[row][: counts[row]])


def _numbered(texts: list[str]) -> list[str]:
    """Make texts distinct by appending a number to all but the first of equal texts."""
    taken = {text.casefold() for text in texts}
    last: dict[str, int] = {}
    distinct = []
    for text in texts:
        key, name = text.casefold(), text
        if key in last:
            while name.casefold() in taken:
                last[key] += 1
                name = f"{text} {last[key]}"
            taken.add(name.casefold())
        else:
            last[key] = 1
        distinct.append(name)
    return distinct
