"""Questions that the files leave open, and what is said where nobody answers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A choice between several readings that fit the files.

    Attributes:
        where: the file or files that it is about.
        what: what is to be chosen, as `the column of the user`.
        options: what can be chosen, each in a few words.
        best: index of the likeliest option.
        key: key of the card that holds the answer.
    """

    where: str
    what: str
    options: list[str]
    best: int
    key: str


Choose = Callable[[Question], int]
"""Answers a question with the index of an option."""


def choose_among(choose: Choose, question: Question, scores: list[float], margin: float = 0.5) -> int:
    """Return the index of the best option; it is asked for if another one comes within `margin` of it.

    Args:
        choose: answers the question.
        question: the question, with all options; only those that come near the best one are offered.
        scores: how well each option fits.
        margin: difference of scores from which on a choice is clear.
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    near = [index for index in order if scores[index] >= scores[order[0]] - margin]
    if len(near) == 1:
        return near[0]
    offered = [question.options[index] for index in near]
    return near[choose(Question(question.where, question.what, offered, 0, question.key))]
