"""The title as an item's ID (Hua et al., How to index item IDs for recommendation foundation models, 2023)."""

from __future__ import annotations

from llmrec.config import Positive
from llmrec.ids.textual import shortest_distinct, values
from llmrec.ids.tokenizer import Signals, TextTokenizer


class TitleTokenizer(TextTokenizer):
    """First words of the title, in the base model's own tokens; up to twice as many if two texts are equal."""

    words: Positive = 12

    def fit(self, signals: Signals, seed: int) -> list[str]:
        """The first words of each title, `[items]` distinct texts.

        If two texts are equal, they take more words, up to twice as many: first of the title, then of the brand, then
        of the categories, starting with the last, which is usually the narrowest. Texts that are still equal get a
        number. The text of an item without words is its item id.

        Args:
            signals: provides the item table.
            seed: not used, since nothing is random.
        """
        items = signals.items
        rows, starts = [], []
        for title, brand, categories in zip(
            values(items, "title"), values(items, "brand"), values(items, "categories"), strict=True
        ):
            words = " ".join(title).split()
            starts.append(min(len(words), self.words))
            used = {word.casefold() for word in words}
            more = dict.fromkeys(" ".join([*brand, *reversed(categories)]).split())
            rows.append(words + [word for word in more if word.casefold() not in used])
        return shortest_distinct(rows, starts, 2 * self.words, items["item_id"].to_list())
