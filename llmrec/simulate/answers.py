"""What a language model answers: how likely it takes each item of a slate, or none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.simulate.question import LETTERS

_SPACES = " \t\r\n▁Ġ"
"""Spaces, and the signs by which some servers show a space at the start of a token."""
_LETTER = re.compile(rf"\s*([{LETTERS}])\s*(?:[.:)\n]|$)")


@dataclass(frozen=True)
class Answer:
    """An answer to a question about a slate of n items.

    Attributes:
        shares: probability of each item and, at the end, of none of them, n + 1 numbers that add up to 1; of an
            answer without log-probabilities 1 for the option that it names and 0 for all others. None if the answer
            names no option.
        mass: probability of all options together among all possible tokens; None without log-probabilities.
    """

    shares: tuple[float, ...] | None
    mass: float | None = None

    @property
    def takes(self) -> float:
        """Probability that an item of the slate is taken; 0 of an answer that names no option."""
        return 0.0 if self.shares is None else 1.0 - self.shares[-1]

    def finds(self, place: int) -> float:
        """Whether the item at a place is the likeliest of the slate's: 1, 0, or 1 / m if m items are equally likely.

        It is 0 if the answer names none of the items, or no option at all.
        """
        if self.shares is None or max(self.shares[:-1]) == 0:
            return 0.0
        return share_of_best(np.array(self.shares[:-1]), place)


def share_of_best(scores: npt.NDArray[np.floating], place: int) -> float:
    """Return 1 if the score at a place is the highest, 1 / m if m scores are equal to it, and 0 otherwise."""
    best = scores == scores.max()
    return float(best[place] / best.sum())


def read_answer(text: str, first: Mapping[str, float] | None, items: int) -> Answer:
    """Read an answer: by the log-probabilities of its first token if they hold a letter, else by its text.

    Letters that are not among the returned log-probabilities count as impossible. A text counts if it is one of the
    letters alone, or begins with it and a full stop, colon, bracket or line break; nothing is guessed.

    Args:
        text: the generated text.
        first: likeliest first tokens and their log-probabilities, in nats; None if the server returns none.
        items: number of items of the slate; the letter after theirs means none of them.
    """
    letters = LETTERS[: items + 1]
    if first is not None:
        weights = dict.fromkeys(letters, 0.0)
        for token, value in first.items():
            letter = token.strip(_SPACES)
            if letter in weights and not math.isnan(value):
                weights[letter] += math.exp(min(value, 0.0))
        mass = sum(weights.values())
        if mass > 0:
            return Answer(tuple(weight / mass for weight in weights.values()), min(mass, 1.0))
    named = _LETTER.match(text)
    if named is None or named[1] not in letters:
        return Answer(None)
    return Answer(tuple(float(letter == named[1]) for letter in letters))
