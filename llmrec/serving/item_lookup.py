"""Items of a served run by semantic ID, and by words of their titles."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from llmrec.catalogue.lookup import TitleSearch
from llmrec.errors import InvalidRequestError
from llmrec.recommend.trained_run import TrainedRun


class ItemLookup:
    """Looks up a run's items; what it needs is built at the first question.

    Args:
        served: the run.
    """

    def __init__(self, served: TrainedRun) -> None:
        self._served = served

    def by_sid(self, sid: str) -> dict[str, Any]:
        """Return the item that has a semantic ID, retired ones included.

        Args:
            sid: the ID as the model writes it: `<a_3><b_17><c_201>`; of a textual ID, its words.

        Returns:
            As `describe`.

        Raises:
            InvalidRequestError: no item has this ID.
        """
        tokens = self._served.tokenizer.encode(sid, add_special_tokens=False)
        end = self._served.catalogue.end
        if end is not None and tokens[-1:] != [end]:
            tokens.append(end)
        item = self._items.get(tuple(tokens))
        if item is None:
            raise InvalidRequestError(f"no item has the semantic ID {sid[:60]!r}")
        return self.describe(item)

    def search(self, words: str, k: int) -> list[dict[str, Any]]:
        """Return at most `k` items with all words in title or id, the closest titles first, without retired ones."""
        return [self.describe(item) for item in self._search.find(words)[:k]]

    def describe(self, item: str) -> dict[str, Any]:
        """Return `item_id`, `title` and `sid` of an item; `retired` if it is no longer recommended."""
        about = {"item_id": item, "title": self._served.title_of(item), "sid": self._sids[item]}
        return about | ({"retired": True} if item in self._served.catalogue.retired else {})

    @cached_property
    def _tokens(self) -> dict[str, list[int]]:
        return self._served.catalogue.item_tokens()

    @cached_property
    def _items(self) -> dict[tuple[int, ...], str]:
        """SID tokens → item; of a retired item and a later one with the same ID, the later one."""
        retired = self._served.catalogue.retired
        order = sorted(self._tokens, key=lambda item: item not in retired)
        return {tuple(self._tokens[item]): item for item in order}

    @cached_property
    def _sids(self) -> dict[str, str]:
        end = self._served.catalogue.end
        rows = ([token for token in row if token != end] for row in self._tokens.values())
        texts = self._served.tokenizer.batch_decode(list(rows))
        return dict(zip(self._tokens, texts, strict=True))

    @cached_property
    def _search(self) -> TitleSearch:
        catalogue = self._served.catalogue
        here = (item for item in catalogue.items if item not in catalogue.retired)
        return TitleSearch({item: self._served.title_of(item) for item in here})
