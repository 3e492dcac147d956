"""How far a simulated user agrees with what users really chose, and what it takes from systems' lists.

The check before the use is that of Agent4Rec's taste alignment (Zhang et al., On generative agents in recommendation,
SIGIR 2024): the items that a user has really chosen are mixed with others, and the simulated user must tell them
apart. Here one held-out item is mixed with items that the user never touched, so chance is known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from llmrec.evaluate.summary import differences, rounded, summarise
from llmrec.metrics.statistics import Bootstrap
from llmrec.simulate.answers import Answer
from llmrec.simulate.slates import Pair, Slate

SIMULATOR = "simulator"
FINDS, TAKES, HIT = "finds", "takes", "hit"
WITH, WITHOUT = "with_target", "without"


def agreement(
    pairs: Sequence[Pair],
    answers: Sequence[tuple[Answer, Answer]],
    found: Mapping[str, Sequence[float]],
    draws: Bootstrap,
) -> dict[str, Any]:
    """Compare a simulated user's answers with the truth.

    Args:
        pairs: the users' slates, all of one size.
        answers: the answers to each pair's slate with the held-out item, and to the one without it.
        found: system → whether its likeliest item of each slate with the held-out item is that item.
        draws: settings of the bootstrap over users.

    Returns:
        `finds`: the share of users whose held-out item is the likeliest one: `chance` (1 / items of a slate), and for
        `simulator` and each system its mean and `interval`; `differences`: simulator − system, paired.
        `takes`: the mean probability that something is taken `with_target` and `without` the held-out item, and their
        paired `difference`, all with intervals; chance is 0.
        `agrees`, and `verdict` in words.
    """
    simulated = [
        with_target.finds(_place(pair)) for pair, (with_target, _) in zip(pairs, answers, strict=True)
    ]
    users = {
        name: pl.DataFrame({FINDS: np.asarray(values, np.float64)})
        for name, values in {SIMULATOR: simulated, **found}.items()
    }
    means = summarise(users, [FINDS], draws)
    gaps = differences(users, [(SIMULATOR, system) for system in found], [FINDS], draws)
    taken = {
        name: pl.DataFrame({TAKES: np.array([pair[column].takes for pair in answers])})
        for column, name in enumerate((WITH, WITHOUT))
    }
    rates = summarise(taken, [TAKES], draws)
    lift = differences(taken, [(WITH, WITHOUT)], [TAKES], draws)[WITH][WITHOUT]
    figures: dict[str, Any] = {
        FINDS: {"chance": rounded(1 / len(pairs[0].with_target.items))}
        | {name: _value(entry, FINDS) for name, entry in means.items()}
        | {"differences": {system: _value(gaps[SIMULATOR][system], FINDS) for system in found}},
        TAKES: {name: _value(entry, TAKES) for name, entry in rates.items()}
        | {"difference": _value(lift, TAKES)},
    }
    agrees, verdict = judge(figures)
    return figures | {"agrees": agrees, "verdict": verdict}


def judge(figures: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether both intervals of the agreement lie above chance, and what follows, in words."""
    found, taken = figures[FINDS], figures[TAKES]
    faults = []
    if found[SIMULATOR]["interval"][0] <= found["chance"]:
        faults.append("it does not find the held-out item more often than chance")
    if taken["difference"]["interval"][0] <= 0:
        faults.append("it does not take something more often where the held-out item is offered")
    if faults:
        return False, (
            f"the simulated user does not agree with the real ones: {', and '.join(faults)}. "
            "So what it takes from recommended lists says nothing about them."
        )
    behind = [system for system, gap in found["differences"].items() if gap["interval"][0] <= 0]
    text = "the simulated user agrees with the real ones more often than chance"
    if "popularity" in behind:
        return True, (
            f"{text}, but it does not find the held-out item more often than popularity does: it may know the items, "
            "and nothing of their users."
        )
    return True, f"{text}, and finds the held-out item more often than popularity does."


def use(
    slates: Mapping[str, Sequence[Slate]], answers: Mapping[str, Sequence[Answer]], draws: Bootstrap
) -> dict[str, Any]:
    """Compare what a simulated user takes from systems' lists with the real hits of the same lists.

    Args:
        slates: system → a slate of each user's list, the same users in one order.
        answers: system → the answers to them.
        draws: settings of the bootstrap over users.

    Returns:
        `systems`: system → `takes`, the mean probability that something is taken, and `hit`, the share of lists that
        hold the held-out item, with intervals; `differences`: the first system − each other one, paired.
    """
    users = {
        system: pl.DataFrame(
            {
                TAKES: np.array([answer.takes for answer in answers[system]]),
                HIT: np.array([float(slate.target is not None) for slate in of_system]),
            }
        )
        for system, of_system in slates.items()
    }
    first, *others = users
    gaps = differences(users, [(first, other) for other in others], [TAKES, HIT], draws).get(first, {})

    def both(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _value(entry, name) for name in (TAKES, HIT)}

    return {
        "systems": {system: both(entry) for system, entry in summarise(users, [TAKES, HIT], draws).items()},
        "differences": {first: {other: both(entry) for other, entry in gaps.items()}},
    }


def read_quality(answers: Sequence[Answer]) -> dict[str, Any]:
    """Describe how well answers could be read.

    Returns:
        `asked`, `unparsable` (numbers of answers)`, log_probs` (share of answers read by log-probabilities)`, mass`
        (mean probability of all letters together; None without log-probabilities)`, letters` (mean probability of
        each option by its place; the last is none of them; None if no answer can be read).
    """
    read = [answer.shares for answer in answers if answer.shares is not None]
    masses = [answer.mass for answer in answers if answer.mass is not None]
    return {
        "asked": len(answers),
        "unparsable": len(answers) - len(read),
        "log_probs": rounded(len(masses) / len(answers)),
        "mass": rounded(np.mean(masses)) if masses else None,
        "letters": [rounded(share) for share in np.mean(read, axis=0)] if read else None,
    }


def _place(pair: Pair) -> int:
    assert pair.with_target.target is not None
    return pair.with_target.target


def _value(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"value": entry[name], "interval": entry["intervals"][name]}
