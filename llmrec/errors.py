"""The exception for mistakes that the user can correct."""

import difflib
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
