"""Finds items by id or title: for messages about unknown items, and for `llmrec items RUN --find`."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property

from llmrec.errors import KnownNames, UnknownItemError

LONGEST = 60
"""Number of characters of an id or title that a message shows."""
SEARCHED = 20_000
"""Number of titles that are searched for a message; a larger catalogue is searched by its ids alone."""


def unknown_item(
    what: str,
    item: str,
    items: KnownNames,
    titles: TitleSearch | None = None,
    run: str | None = None,
) -> UnknownItemError:
    """Return the error for an item that is not in a catalogue; it names the nearest item.

    Args:
        what: where the item was given, such as `history`.
        item: the unknown id, or a title that was given in its place.
        items: ids of the catalogue.
        titles: of the items, if they have titles, and no more than `SEARCHED`.
        run: name of the run, whose titles the user may want to search.
    """
    near = items.same(item)
    if near is None and titles is not None:
        near = next(iter(titles.find(item, near=False)), None)
    near = near or items.alike(item)
    hint = ""
    if near is not None:
        title = titles.titles.get(near, near) if titles else near
        hint = f" (did you mean {near!r}{f', {title[:LONGEST]}' if title != near else ''}?)"
    return UnknownItemError(f"{what}: item {item[:LONGEST]!r} is not in the catalogue{hint}", item, near, run)


def find_items(words: str, titles: Mapping[str, str], near: bool = True) -> list[str]:
    """Return the items whose title or id contains all words, the closest titles first.

    Case and accents make no difference.

    Args:
        words: words, separated by spaces.
        titles: item id → title; items that match equally well keep this order.
        near: whether, if no item has all words, each word counts as the nearest word of the titles.
    """
    return TitleSearch(titles).find(words, near)


class TitleSearch:
    """Titles prepared for many searches.

    Args:
        titles: item id → title; items that match equally well keep this order.

    Attributes:
        titles: as given.
    """

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.titles = titles
        self._plain = {item: _plain(f"{title} {item}") for item, title in titles.items()}
        self._titles = {item: _plain(title) for item, title in titles.items()}

    def find(self, words: str, near: bool = True) -> list[str]:
        """Return the items that `find_items` describes."""
        wanted = _plain(words).split()
        if not wanted:
            return []
        found = self._with_all(wanted)
        if near and not found:
            wanted = [self._words.nearest(word) or word for word in wanted]
            found = self._with_all(wanted)
        query = " ".join(wanted)

        def distance(item: str) -> tuple[bool, bool]:
            return self._titles[item] != query and item != words, not self._plain[item].startswith(query)

        return sorted(found, key=distance)

    def _with_all(self, words: Sequence[str]) -> list[str]:
        return [item for item, text in self._plain.items() if all(word in text for word in words)]

    @cached_property
    def _words(self) -> KnownNames:
        return KnownNames(sorted({part for text in self._plain.values() for part in text.split()}))


def _plain(text: str) -> str:
    """Return a text without accents and differences of case, its words separated by one space."""
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    return " ".join(bare.casefold().split())
