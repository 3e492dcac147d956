"""The title as an item's ID (Hua et al., How to index item IDs for recommendation foundation models, 2023)."""

from __future__ import annotations

from llmrec.config.tokenizers import TitleConfig
from llmrec.ids.textual import shortest_distinct, values
from llmrec.ids.tokenizer import Signals


def fit(signals: Signals, config: TitleConfig, seed: int) -> list[str]:
    """The first words of each title, `[items]` distinct texts.

    If two texts are equal, they take more words, up to twice as many: first of the title, then of the brand, then of
    the categories, starting with the last, which is usually the narrowest. Texts that are still equal get a number.
    The text of an item without words is its item id.

    Args:
        signals: provides the item table.
        config: initial number of words.
        seed: not used, since nothing is random.
    """
    items = signals.items
    rows, starts = [], []
    for title, brand, categories in zip(
        values(items, "title"), values(items, "brand"), values(items, "categories"), strict=True
    ):
        words = " ".join(title).split()
        starts.append(min(len(words), config.words))
        used = {word.casefold() for word in words}
        more = dict.fromkeys(" ".join([*brand, *reversed(categories)]).split())
        rows.append(words + [word for word in more if word.casefold() not in used])
    return shortest_distinct(rows, starts, 2 * config.words, items["item_id"].to_list())
