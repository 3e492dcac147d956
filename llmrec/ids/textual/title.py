"""The title as an item's ID (Hua et al., How to index item IDs for recommendation foundation models, 2023)."""

from __future__ import annotations

from llmrec.config import Positive
from llmrec.ids.textual import shortest_distinct, values
from llmrec.ids.tokenizer import Signals, TextTokenizer


class TitleTokenizer(TextTokenizer):
    """The title's first words, in the base model's own tokens; up to twice as many where two are the same."""

    words: Positive = 12

    def fit(self, signals: Signals, seed: int) -> list[str]:
        """The first words of each title, `[items]` distinct texts.

        Where two are the same they take more words, up to twice as many: of the title, then of the brand and the
        categories (the last, as a rule the finest, first). What is left gets a number. An item without any word goes
        by its item id.

        Args:
            signals: gives the item table.
            seed: not used: nothing is drawn.
        """
        items = signals.items
        rows, starts = [], []
        for title, brand, categories in zip(
            values(items, "title"), values(items, "brand"), values(items, "categories"), strict=True
        ):
            own = " ".join(title).split()
            starts.append(min(len(own), self.words))
            known = {word.casefold() for word in own}
            more = dict.fromkeys(" ".join([*brand, *reversed(categories)]).split())
            rows.append(own + [word for word in more if word.casefold() not in known])
        return shortest_distinct(rows, starts, 2 * self.words, items["item_id"].to_list())
