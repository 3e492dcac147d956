"""A few keywords as an item's ID, after IDGenRec (Tan et al., Towards LLM-RecSys alignment with textual ID
learning, SIGIR 2024).

In the paper, a language model is trained with the recommender to write an item's keywords. This is the untrained
variant: tf-idf (Spärck Jones 1972) chooses the keywords.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from llmrec.config import Positive
from llmrec.ids.textual import shortest_distinct, values
from llmrec.ids.tokenizer import Signals, TextTokenizer

_WORD = re.compile(r"\w+(?:['’.&-]\w+)*")


class KeywordsTokenizer(TextTokenizer):
    """A few distinctive words of the item, chosen by tf-idf (after IDGenRec, without its training)."""

    words: Positive = 4

    def fit(self, signals: Signals, seed: int) -> list[str]:
        """The most distinctive words of each item, in descending order of weight; `[items]` distinct texts.

        Words of the title and categories are weighted first. Words of the description follow for items that need
        more, because a typing error there would get the largest weight. If two texts are equal, they take more words,
        up to twice as many, and then a number. The text of an item without words is its item id.

        Args:
            signals: provides the item table.
            seed: not used, since nothing is random.
        """
        items = signals.items
        names = [
            " ".join([*title, *categories])
            for title, categories in zip(values(items, "title"), values(items, "categories"), strict=True)
        ]
        described = [" ".join(text) for text in values(items, "description")]
        rows = []
        for first, second in zip(ranked(names), ranked(described), strict=True):
            used = {word.casefold() for word in first}
            rows.append(first + [word for word in second if word.casefold() not in used])
        starts = [self.words] * len(rows)
        return shortest_distinct(rows, starts, 2 * self.words, items["item_id"].to_list())


def ranked(texts: list[str]) -> list[list[str]]:
    """Distinct words of each text in descending order of tf · ln(N / df); equal weights keep the order of the text.

    Words that differ only in case count as equal, and are written as at their first occurrence.
    """
    spelt: list[dict[str, str]] = []
    counts: list[Counter[str]] = []
    for text in texts:
        words = _WORD.findall(text)
        spelt.append({word.casefold(): word for word in reversed(words)})
        counts.append(Counter(word.casefold() for word in words))
    uses = Counter(word for count in counts for word in count)
    idf = {word: math.log(len(texts) / use) for word, use in uses.items()}
    return [
        [spelling[word] for word in sorted(count, key=lambda word: -count[word] * idf[word])]
        for spelling, count in zip(spelt, counts, strict=True)
    ]
