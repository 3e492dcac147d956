"""The exception for mistakes that the user can correct."""

import difflib
import itertools
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in input, recipe or environment that the user can correct.

    The message is one line: what is wrong, where, and how to correct it. The command line prints it and
    exits with status 2. A Python caller can catch it.
    """


def did_you_mean(name: str, valid: Sequence[str], otherwise: str = "known") -> str:
    """Suggest the nearest valid name as a question; if none is near, list all after the word `otherwise`."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise}: {', '.join(valid) or 'none'}"


COMPARED = 20_000
"""Number of names that `nearest_name` compares at most, so that a message about one of a million takes no minutes."""


def nearest_name(name: str, valid: Sequence[str]) -> str | None:
    """Return the valid name that is most like another; None if none is near.

    A name that differs only by case or surrounding spaces is preferred. Of more than `COMPARED` names, only those
    that begin alike and are about as long are compared.
    """
    wanted = name.strip().casefold()
    same = next((other for other in valid if other.strip().casefold() == wanted), None)
    if same is not None:
        return same
    if len(valid) > COMPARED:
        alike = (other for other in valid if other[:2] == name[:2] and abs(len(other) - len(name)) <= 2)
        valid = list(itertools.islice(alike, COMPARED))
    return next(iter(difflib.get_close_matches(name, valid, n=1, cutoff=0.6)), None)
